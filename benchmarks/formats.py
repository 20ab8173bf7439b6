"""Ways to keep what a teacher said about frames: one file a frame, or a latent dataset.

Content: what the reference writes about a frame (spec Orion-Lite 1.4), with random queries of realistic
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
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import AssetSpec, CodeIdentity, DataIdentity, Manifest, TeacherIdentity
from cache_schema.storage.atomic_io import sha256_bytes
from cache_schema.vocabulary.driving import GROUND_TRUTH
from cache_schema.vocabulary.orion import HEADS, vision_tokens
from pipeline.teachers.orion.presets import ORION_7B
from student.loading.loader import Loader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Arrays = dict[str, np.ndarray]

REFERENCE_BYTES = 4_518_808
"""Of a frame's content, uncompressed, at full width."""
BATCH = 64
SAME_TRUTH = ("ego_trajectory", "ego_trajectory_mask", "command")
FEATURES = (*ORION_7B.features, *(spec for spec in GROUND_TRUTH if spec.name in SAME_TRUTH))


def content(frames: int, heads: Arrays, seed: int) -> tuple[Arrays, Arrays]:
    """Random content of some frames, (frames, ...) each: as the reference keeps it, and as we do."""
    rng = np.random.default_rng(seed)

    def noise(*shape: int) -> np.ndarray:
        return rng.standard_normal((frames, *shape), np.float32).astype(np.float16)

    queries = FEATURES[0]
    scales = rng.lognormal(size=queries.shape[1])
    scales[:8] *= rng.uniform(20, 80, 8)
    ours = {spec.name: noise(*spec.shape) for spec in ORION_7B.features}
    ours["scene_queries"] = ((ours["scene_queries"] + noise(1, queries.shape[1])) * scales).astype(np.float16)
    derivation = vision_tokens(queries, FEATURES[1])
    assert derivation is not None
    tokens = np.stack(
        [
            derivation.compute({queries.name: q[None], FEATURES[1].name: e[None]}, heads)[0].astype(
                np.float16
            )
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


class Way(Protocol):
    """A way to keep frames."""

    name: str
    folder: Path

    def write(self, clip: int, values: tuple[Arrays, Arrays]) -> None:
        """Keep a clip's frames and force them to the disk."""
        ...

    def read(self, clip: int, frame: int) -> Arrays:
        """Read all that is kept of one frame."""
        ...

    def read_clip(self, clip: int, frames: int) -> None:
        """Read a clip from its first frame to its last."""
        ...

    def batch_rate(self, frames: Sequence[tuple[int, int]]) -> float:
        """Frames a second of reading batches of (clip, frame) as training does."""
        ...


def save_npy(path: Path, arrays: Arrays) -> None:
    """One file an array, in a folder."""
    path.mkdir()
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)


def load_npy(path: Path) -> Arrays:
    """See ``save_npy``."""
    return {file.stem: np.load(file) for file in sorted(path.iterdir())}


def load_npz(path: Path) -> Arrays:
    """Inflate every array of a file."""
    with np.load(path) as file:
        return {name: file[name] for name in file}


class FileAFrame(Dataset):
    """The reference's files or ones like them; a ``Way``, and what a DataLoader asks for frames."""

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
        """See ``Way``."""
        reference, _ = values
        for frame in range(len(reference["planning_token"])):
            self._save(self._path(clip, frame), {name: array[frame] for name, array in reference.items()})
        sync(self.folder)

    def read(self, clip: int, frame: int) -> Arrays:
        """See ``Way``."""
        return self._load(self._path(clip, frame))

    def read_clip(self, clip: int, frames: int) -> None:
        """See ``Way``."""
        for frame in range(frames):
            self.read(clip, frame)

    def batch_rate(self, frames: Sequence[tuple[int, int]]) -> float:
        """See ``Way``. Counted from the first batch on: workers take a moment to start."""
        loader = DataLoader(self, batch_size=BATCH, sampler=frames, num_workers=os.cpu_count() or 1)
        arrived = [time.perf_counter() for _ in loader]
        return BATCH * (len(arrived) - 1) / (arrived[-1] - arrived[0])

    def __getitem__(self, place: tuple[int, int]) -> Arrays:
        return self.read(*place)

    def _path(self, clip: int, frame: int) -> Path:
        # numpy would add its ending, and the others take any.
        return self.folder / f"data_clip-{clip}_{frame}.npz"


class Ours:
    """A latent dataset; a ``Way``."""

    def __init__(self, name: str, folder: Path, manifest: Manifest, heads: bytes) -> None:
        self.name, self.folder, self.manifest = name, folder, manifest
        self._heads = {manifest.assets[0].name: heads}

    def write(self, clip: int, values: tuple[Arrays, Arrays]) -> None:
        """See ``Way``."""
        _, ours = values
        info = ClipInfo(name=f"clip-{clip}", frames=len(ours["command"]), split="train")
        with DatasetWriter(self.folder, self.manifest, self._heads) as writer:
            written = writer.clip(info)
            written.append(ours)
            written.commit(wall_s=0)
        self.__dict__.pop("_dataset", None)

    def read(self, clip: int, frame: int) -> Arrays:
        """See ``Way``."""
        return {spec.name: self._dataset.read(f"clip-{clip}", spec.name, frame) for spec in FEATURES}

    def read_clip(self, clip: int, frames: int) -> None:
        """See ``Way``."""
        for spec in FEATURES:
            assert len(self._dataset.read(f"clip-{clip}", spec.name)) == frames

    def batch_rate(self, frames: Sequence[tuple[int, int]]) -> float:
        """See ``Way``."""
        loader, held, buffers = self._training
        lengths = [self._dataset.clip(clip).frames for clip in loader.clips]
        firsts = np.cumsum([0, *lengths[:-1]])
        rows = np.array([firsts[clip] + frame for clip, frame in frames])
        begun = time.perf_counter()
        for begin in range(0, len(rows), BATCH):
            batch = rows[begin : begin + BATCH]
            loader.fill(buffers, batch)
            for tensor in held.values():
                tensor.index_select(0, torch.from_numpy(batch))
        return len(rows) / (time.perf_counter() - begun)

    @functools.cached_property
    def _dataset(self) -> LatentDataset:
        return LatentDataset.open(self.folder)

    @functools.cached_property
    def _training(self) -> tuple[Loader, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The loader, what it holds in memory, and its buffer."""
        clips = sorted(self._dataset.clips, key=lambda name: int(name.rpartition("-")[2]))
        loader = Loader(self._dataset, clips, [spec.name for spec in FEATURES])
        held = {name: loader.whole(name) for name in loader.arrays if not loader.reads_single_samples(name)}
        buffers = {name: loader.empty(name, BATCH) for name in loader.arrays if name not in held}
        return loader, held, buffers


def sync(folder: Path) -> None:
    """Force the files of a folder to the disk: per-frame files must not win by being in memory only."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def evict(folder: Path) -> None:
    """Empty the operating system's cache of a folder's files, which must have been forced to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def make_ways(folder: Path, heads: Arrays) -> list[Way]:
    """Every way, the reference's first."""
    packed = save(heads)
    asset = AssetSpec(name=f"{HEADS}.safetensors", sha256=sha256_bytes(packed), nbytes=len(packed))

    def manifest(**changes: str) -> Manifest:
        queries = FeatureSpec(**FEATURES[0].model_dump() | changes)
        return Manifest(
            features=(queries, *FEATURES[1:]),
            teacher=TeacherIdentity(name="noise", weights="none", precision="none"),
            data=DataIdentity(name="noise", licence="CC0-1.0", frame_rate_hz=10),
            code=CodeIdentity(teachonce="0", libraries={}),
            assets=(asset,),
        )

    return [
        FileAFrame(
            "npz",
            folder / "npz",
            lambda path, arrays: np.savez_compressed(path, **arrays),
            load_npz,
        ),
        FileAFrame("npy", folder / "npy", save_npy, load_npy),
        FileAFrame(
            "safetensors", folder / "safetensors", lambda path, arrays: save_file(arrays, path), load_file
        ),
        Ours("ours", folder / "full.zarr", manifest(), packed),
        Ours("ours int8", folder / "int8.zarr", manifest(encoding="int8-per-channel"), packed),
    ]
