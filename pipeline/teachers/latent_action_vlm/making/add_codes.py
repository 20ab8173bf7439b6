"""Labels for a vision-language model: the latent actions of what really followed each frame of a dataset.

They are added to the clips that a dataset holds, because a teacher's step sees no future.

Dimension letters: F frames of the dataset's clip, R frames of the raw clip, N codes of a frame.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cache_schema.dataset.add_features import extend_clip, extend_manifest
from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import ClipError, FeatureError, LeftOut, RequestError
from cache_schema.format.array_metadata import documents
from cache_schema.processors import usable_processors
from cache_schema.progress import SILENT
from cache_schema.storage.atomic_io import sha256_bytes
from cache_schema.vocabulary.latent_actions import (
    CODE_LOGITS,
    CODES,
    LATENT_ACTION_TRANSITIONS,
    NO_LABEL,
    code_labels,
)
from pipeline.teachers.latent_action_vlm.making.clips.observations import read_image
from pipeline.teachers.latent_action_vlm.making.clips.transitions import check_same_clip, read_transitions
from pipeline.teachers.precision import compute_exact_float32

if TYPE_CHECKING:
    from pathlib import Path

    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.ledger import LedgerEntry
    from cache_schema.progress import Progress
    from pipeline.source import Clip, Source
    from pipeline.teachers.latent_action_vlm.making.clips.transitions import ClipTransitions
    from pipeline.teachers.latent_action_vlm.making.learned_actions import LearnedActions


@dataclass(frozen=True)
class AddCodesReport:
    """How a run ended."""

    extended: tuple[str, ...]
    """Clips that this run extended."""
    present: tuple[str, ...]
    """Clips that had these labels already."""
    labelled: int
    """Frames that have labels, of the clips that this run extended."""
    failed: tuple[LeftOut, ...]
    """Clips that could not be extended. The dataset promises labels once there are none."""

    def __rich__(self) -> str:
        """Show it as a line."""
        return (
            f"{len(self.extended)} clips extended by labels, of which {self.labelled} frames have any; "
            f"{len(self.present)} had them already"
        )


def label_spec(actions: LearnedActions) -> FeatureSpec:
    """Return the feature of labels by certain latent actions: its description holds their digest."""
    spec = code_labels(LATENT_ACTION_TRANSITIONS * actions.config.tokens)
    by = f"{spec.description} By the latent action model sha256:{actions.sha256}."
    return spec.model_copy(update={"description": by})


def add_codes(
    path: Path, source: Source, actions: LearnedActions, *, batch_size: int = 64, progress: Progress = SILENT
) -> AddCodesReport:
    """Add labels to every clip of the dataset at ``path``, in place.

    Safe to stop at any instant and to run again: clips that have labels by the same actions are skipped,
    those by others get new ones. A dataset of every n-th frame gets the labels of these frames.

    Args:
        path: The dataset's folder.
        source: The raw clips.
        actions: What tells the codes.
        batch_size: Images, and pairs of them, at a time.
        progress: Counts frames.

    Raises:
        RequestError: The dataset does not record which raw frames it holds, has labels by other actions, or
            codes of another number.
        ClipError: There are no raw clips at all.
        DatasetError: The disk refuses, another run writes to the dataset, or it is damaged.
    """
    compute_exact_float32()
    spec = label_spec(actions)
    with DatasetWriter(path):
        dataset = LatentDataset.open(path)
        dataset.require(("frame_index",))
        _check(dataset, spec, actions)
        if dataset.manifest.feature(spec.name) is not None:
            return AddCodesReport((), dataset.clips, 0, ())
        raw = {clip.name: clip for clip in source.select("all").clips}
        present = tuple(clip for clip in dataset.clips if _has(dataset.entry(clip), spec))
        missing = sorted(set(dataset.clips) - set(present))
        progress.expect(sum(dataset.clip(clip).frames for clip in missing))
        failed: list[LeftOut] = []
        extended: list[str] = []
        labelled = 0
        for clip in missing:
            try:
                labels = _labels(dataset, clip, raw, source, actions, batch_size)
                extend_clip(path, dataset.manifest, dataset.entry(clip), (spec,), {spec.name: labels})
                extended.append(clip)
                labelled += int((labels[:, 0] != NO_LABEL).sum())
            except (ClipError, FeatureError) as error:
                failed.append(LeftOut.because(clip, error))
            progress.advance(dataset.clip(clip).frames, f"{len(extended)} clips, {len(failed)} left out")
        if not failed:
            extend_manifest(path, dataset.manifest, (spec,))
        return AddCodesReport(tuple(extended), present, labelled, tuple(failed))


def _check(dataset: LatentDataset, spec: FeatureSpec, actions: LearnedActions) -> None:
    there = dataset.manifest.feature(spec.name)
    if there is not None and there != spec:
        raise RequestError(
            f"{dataset} has labels already: {there.description}",
            expected=f"none, or those by sha256:{actions.sha256}",
            repair="give the actions of its labels, or extract into another dataset",
        )
    for name, expected in ((CODES, spec.shape), (CODE_LOGITS, (*spec.shape, actions.config.ego_codes))):
        told = dataset.manifest.feature(name)
        if told is not None and told.shape != expected:
            raise RequestError(
                f"{dataset} has {name} of shape {told.shape}, and these actions give {expected}",
                expected="as many codes, of as many values, as the dataset's teacher tells",
                repair="give the actions that its teacher was taught",
            )


def _has(entry: LedgerEntry, spec: FeatureSpec) -> bool:
    """Return whether a clip has labels by these actions: the description stands in its array's own file."""
    file = f"{spec.name}/zarr.json"
    written = documents((spec,), entry.clip, {})[file]
    return file in entry.files and entry.files[file].sha256 == sha256_bytes(written)


def _labels(
    dataset: LatentDataset,
    name: str,
    raw: dict[str, Clip],
    source: Source,
    actions: LearnedActions,
    batch_size: int,
) -> np.ndarray:
    """Return labels (F, N) int8.

    Raises:
        ClipError: The raw clip is not there, is another one, or an image of it is not whole.
    """
    if name not in raw:
        raise ClipError(
            f"its raw clip is not in {source.identity.name}",
            expected="the raw clips that the dataset was made from",
            repair="unpack its archive there",
        )
    clip = read_transitions(raw[name], source.identity.frame_rate_hz)
    frames = dataset.read(name, "frame_index")
    has_pose = dataset.manifest.feature("ego_pose") is not None
    check_same_clip(clip, frames, dataset.read(name, "ego_pose") if has_pose else None)
    starts = starts_of(clip.later, frames, LATENT_ACTION_TRANSITIONS)
    labels = np.full((len(frames), LATENT_ACTION_TRANSITIONS * actions.config.tokens), NO_LABEL, np.int8)
    whole = (starts >= 0).all(1)
    if whole.any():
        used, place = np.unique(starts[whole], return_inverse=True)
        codes = codes_of(clip, used, actions, batch_size)
        labels[whole] = codes[place.reshape(starts[whole].shape)].reshape(whole.sum(), -1)
    return labels


def starts_of(later: np.ndarray, frames: np.ndarray, transitions: int) -> np.ndarray:
    """Return (F, transitions) raw frames that the transitions after a frame begin at; -1 where there is none.

    Args:
        later: (R) the frame a gap later; -1 where there is none.
        frames: (F) raw frames.
        transitions: How many follow each other.
    """
    starts, now = [], np.asarray(frames, dtype=np.int64)
    for _ in range(transitions):
        after = np.where(now >= 0, later[now], -1)
        starts.append(np.where(after >= 0, now, -1))
        now = after
    return np.stack(starts, axis=1)


@torch.no_grad()
def codes_of(
    clip: ClipTransitions, starts: np.ndarray, actions: LearnedActions, batch_size: int
) -> np.ndarray:
    """Return the codes (transitions, tokens) of the transitions that begin at some frames, all of them whole.

    Raises:
        ClipError: An image is not whole.
    """
    pairs = np.stack([starts, clip.later[starts]], axis=1)
    frames, place = np.unique(pairs, return_inverse=True)
    size = actions.config.image_size
    features = []
    with ThreadPoolExecutor(usable_processors()) as pool:
        for begin in range(0, len(frames), batch_size):
            paths = [clip.images[frame] for frame in frames[begin : begin + batch_size]]
            images = np.stack([*pool.map(lambda path: read_image(path, size), paths)])
            features.append(actions.observe(torch.from_numpy(images)))
    observed = torch.cat(features)
    places = torch.from_numpy(place.reshape(pairs.shape)).to(observed.device)
    codes = [actions.codes(observed[part]).cpu() for part in places.split(batch_size)]
    return torch.cat(codes).numpy()
