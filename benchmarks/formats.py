"""Storage formats for a teacher's outputs: one file per frame, or a latent dataset.

Content: what the reference stores of a frame (spec Orion-Lite 1.4), with random queries of realistic
channels through random projections, so that its vision tokens have the structure of real ones.
"""

from __future__ import annotations

import functools
import os
import time
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from safetensors.numpy import load_file, save, save_file
from torch.utils.data import DataLoader, Dataset

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import DataIdentity, TeacherIdentity
from cache_schema.processors import usable_processors
from cache_schema.vocabulary.driving import GROUND_TRUTH
from cache_schema.vocabulary.orion import HEADS, vision_tokens
from pipeline.manifest import new_manifest
from pipeline.teachers.orion.presets import ORION_7B
from student.loading.loader import Loader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cache_schema.format.features import Encoding

    Arrays = dict[str, np.ndarray]

REFERENCE_BYTES = 4_518_808
"""Size of a frame's content, uncompressed, as the reference stores it."""
BATCH = 64
"""Frames of a training batch."""
_GROUND_TRUTH = ("ego_trajectory", "ego_trajectory_mask", "command")
FEATURES = (*ORION_7B.features, *(spec for spec in GROUND_TRUTH if spec.name in _GROUND_TRUTH))
"""Features of our datasets that hold the same content."""


def random_heads() -> Arrays:
    """Return random projections of scene and map queries to vision tokens."""
    rng = np.random.default_rng(0)
    queries, tokens = FEATURES[0].fixed_shape[1], FEATURES[1].fixed_shape[0]
    heads: Arrays = {}
    for name in ("scene", "map"):
        heads[f"{name}.weight"] = rng.standard_normal((tokens, queries), np.float32) / 16
        heads[f"{name}.bias"] = rng.standard_normal(tokens, np.float32)
    return heads


def content(frames: int, heads: Arrays, seed: int) -> tuple[Arrays, Arrays]:
    """Return random content of some frames, (frames, ...) each: as the reference stores it, and as we do."""
    rng = np.random.default_rng(seed)

    def noise(*shape: int) -> np.ndarray:
        return rng.standard_normal((frames, *shape), np.float32).astype(np.float16)

    queries, ego_token = FEATURES[:2]
    channels = queries.fixed_shape[1]
    scales = rng.lognormal(size=channels)
    scales[:8] *= rng.uniform(20, 80, 8)
    ours = {spec.name: noise(*spec.fixed_shape) for spec in ORION_7B.features}
    ours["scene_queries"] = ((ours["scene_queries"] + noise(1, channels)) * scales).astype(np.float16)
    derivation = vision_tokens(queries, ego_token)
    assert derivation is not None
    tokens = np.stack(
        [
            derivation.compute({queries.name: q[None], ego_token.name: e[None]}, heads)[0].astype(np.float16)
            for q, e in zip(ours["scene_queries"], ours["ego_token"], strict=True)
        ]
    )
    futures, modes = noise(900, 6, 6, 2), noise(900, 6)
    likeliest = modes.argmax(-1)[..., None, None, None]
    ours["agent_offsets"] = np.take_along_axis(futures, likeliest, axis=2)[:, :, 0]
    trajectory, mask = noise(6, 2), rng.random((frames, 6)) < 0.9
    command = rng.integers(0, 6, frames)
    ours |= {"ego_trajectory": trajectory, "ego_trajectory_mask": mask, "command": command}
    reference = {
        "visual_queries": tokens[:, None],
        "planning_token": ours["planning_token"][:, None, None],
        "ego_fut_trajs": trajectory[:, None, None],
        "ego_fut_masks": mask[:, None, None, None].astype(np.float16),
        "ego_fut_cmd": np.eye(6, dtype=np.float16)[command][:, None, None, None],
        "lane_scores": ours["lane_logits"][:, None],
        "lane_preds": ours["lane_points"][:, None],
        "agent_preds": ours["agent_xy"][:, None],
        "agent_fut_preds": futures[:, None],
        "agent_score_preds": ours["agent_class_scores"][:, None],
        "agent_fut_cls_preds": modes[:, None],
    }
    assert sum(array.nbytes for array in reference.values()) == frames * REFERENCE_BYTES
    return reference, ours


class StorageFormat(Protocol):
    """A storage format and a folder of frames in it."""

    name: str
    folder: Path

    def write(self, clip: int, values: tuple[Arrays, Arrays]) -> None:
        """Write the frames of a clip and flush them to the disk."""
        ...

    def read(self, clip: int, frame: int) -> Arrays:
        """Read all arrays of one frame."""
        ...

    def read_clip(self, clip: int, frames: int) -> None:
        """Read a clip from its first frame to its last."""
        ...

    def batch_rate(self, frames: Sequence[tuple[int, int]]) -> float:
        """Return the frames per second of reading batches of (clip, frame) as training does."""
        ...


def save_npy(path: Path, arrays: Arrays) -> None:
    """Write one file per array, in a new folder."""
    path.mkdir()
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)


def load_npy(path: Path) -> Arrays:
    """Read a folder that ``save_npy`` wrote."""
    return {file.stem: np.load(file) for file in sorted(path.iterdir())}


def load_npz(path: Path) -> Arrays:
    """Read and decompress every array of a file."""
    with np.load(path) as file:
        return {name: file[name] for name in file}


class PerFrameFiles(Dataset):
    """One file or folder per frame; implements ``StorageFormat``, and is what its DataLoader reads."""

    def __init__(
        self,
        name: str,
        folder: Path,
        save: Callable[[Path, Arrays], object],
        load: Callable[[Path], Arrays],
    ) -> None:
        self.name, self.folder, self._save, self._load = name, folder, save, load
        folder.mkdir()

    def write(self, clip: int, values: tuple[Arrays, Arrays]) -> None:
        """See ``StorageFormat``."""
        reference, _ = values
        for frame in range(len(reference["planning_token"])):
            self._save(self._path(clip, frame), {name: array[frame] for name, array in reference.items()})
        sync(self.folder)

    def read(self, clip: int, frame: int) -> Arrays:
        """See ``StorageFormat``."""
        return self._load(self._path(clip, frame))

    def read_clip(self, clip: int, frames: int) -> None:
        """See ``StorageFormat``."""
        for frame in range(frames):
            self.read(clip, frame)

    def batch_rate(self, frames: Sequence[tuple[int, int]]) -> float:
        """See ``StorageFormat``. Timed from the first batch on, without the start of the worker processes."""
        loader = DataLoader(self, batch_size=BATCH, sampler=frames, num_workers=usable_processors())
        arrived = [time.perf_counter() for _ in loader]
        return BATCH * (len(arrived) - 1) / (arrived[-1] - arrived[0])

    def __getitem__(self, index: tuple[int, int]) -> Arrays:
        return self.read(*index)

    def _path(self, clip: int, frame: int) -> Path:
        # np.savez would append this suffix to any other; the other functions accept any name.
        return self.folder / f"data_clip-{clip}_{frame}.npz"


class LatentFormat:
    """A latent dataset; implements ``StorageFormat``.

    Args:
        name: Name of the format.
        folder: The dataset's folder.
        assets: Content of the dataset's assets, by file name.
        encoding: Encoding of the scene queries.
    """

    def __init__(
        self, name: str, folder: Path, assets: dict[str, bytes], *, encoding: Encoding = "full"
    ) -> None:
        self.name, self.folder, self._assets = name, folder, assets
        queries, *others = FEATURES
        self._manifest = new_manifest(
            (queries.model_copy(update={"encoding": encoding}), *others),
            TeacherIdentity(name="noise", weights="none", precision="none"),
            DataIdentity(name="noise", licence="CC0-1.0", frame_rate_hz=10),
            assets,
            libraries=(),
        )

    def write(self, clip: int, values: tuple[Arrays, Arrays]) -> None:
        """See ``StorageFormat``."""
        _, ours = values
        info = ClipInfo(name=f"clip-{clip}", frames=len(ours["command"]), split="train")
        with DatasetWriter(self.folder, self._manifest, self._assets) as writer:
            clip_writer = writer.clip(info)
            clip_writer.append(ours)
            clip_writer.commit(wall_s=0)
        self.__dict__.pop("_dataset", None)

    def read(self, clip: int, frame: int) -> Arrays:
        """See ``StorageFormat``."""
        return {spec.name: self._dataset.read(f"clip-{clip}", spec.name, frame) for spec in FEATURES}

    def read_clip(self, clip: int, frames: int) -> None:
        """See ``StorageFormat``."""
        for spec in FEATURES:
            assert len(self._dataset.read(f"clip-{clip}", spec.name)) == frames

    def batch_rate(self, frames: Sequence[tuple[int, int]]) -> float:
        """See ``StorageFormat``."""
        loader, preloaded, buffers = self._training
        lengths = [self._dataset.clip(clip).frames for clip in loader.clips]
        firsts = np.cumsum([0, *lengths[:-1]])
        rows = np.array([firsts[clip] + frame for clip, frame in frames])
        begun = time.perf_counter()
        for begin in range(0, len(rows), BATCH):
            batch = rows[begin : begin + BATCH]
            loader.fill({name: (batch, buffer) for name, buffer in buffers.items()})
            for tensor in preloaded.values():
                tensor.index_select(0, torch.from_numpy(batch))
        return len(rows) / (time.perf_counter() - begun)

    @functools.cached_property
    def _dataset(self) -> LatentDataset:
        return LatentDataset.open(self.folder)

    @functools.cached_property
    def _training(self) -> tuple[Loader, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The loader, the arrays that are in memory before training, and buffers for the others."""
        clips = sorted(self._dataset.clips, key=lambda name: int(name.rpartition("-")[2]))
        loader = Loader(self._dataset, clips, [spec.name for spec in FEATURES])
        preloaded = {
            name: loader.whole(name) for name in loader.arrays if not loader.reads_single_samples(name)
        }
        buffers = {name: loader.empty(name, BATCH) for name in loader.arrays if name not in preloaded}
        return loader, preloaded, buffers


def sync(folder: Path) -> None:
    """Flush the files of a folder to the disk, so that every format writes as much."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def evict(folder: Path) -> None:
    """Drop a folder's files from the page cache; they must have been flushed to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_of(folder: Path) -> int:
    """Return the size of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def make_formats(folder: Path, heads: Arrays) -> list[StorageFormat]:
    """Return every format, each with a new folder; the reference's is the first."""
    assets = {f"{HEADS}.safetensors": save(heads)}
    return [
        PerFrameFiles(
            "npz", folder / "npz", lambda path, arrays: np.savez_compressed(path, **arrays), load_npz
        ),
        PerFrameFiles("npy", folder / "npy", save_npy, load_npy),
        PerFrameFiles(
            "safetensors", folder / "safetensors", lambda path, arrays: save_file(arrays, path), load_file
        ),
        LatentFormat("ours", folder / "full.zarr", assets),
        LatentFormat("ours int8", folder / "int8.zarr", assets, encoding="int8-per-channel"),
    ]
