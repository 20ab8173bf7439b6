"""How the reference runs a teacher: frame by frame, one compressed file a frame.

Source: spec Orion-Lite 1.1 (the loop) and 1.4 (the files). Images are decoded and shrunk by our own code, and
the teacher is ours, so that only the loop differs. Like the reference it never flushes to the disk.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cache_schema.vocabulary.driving import COMMANDS
from pipeline.teachers.orion.inputs import collate, prepare

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.subjects import Subject
    from pipeline.source import Selection
    from pipeline.teachers.orion.images import ImagePreprocessing
    from pipeline.teachers.orion.inputs import OrionBatch


@dataclass(frozen=True)
class Stages:
    """Where the time of a loop went; the last three are parts of the first."""

    wall_s: float
    images_s: float
    """Decoding, or waiting for it."""
    teacher_s: float
    disk_s: float
    """Compressing and writing."""
    nbytes: int
    """Of all files."""


class Frames(Dataset):
    """All frames of a selection, clip by clip, as batches of one."""

    def __init__(self, selection: Selection, images: ImagePreprocessing) -> None:
        self.images = images
        opened = [(clip.open(), clip.samples) for clip in selection.clips]
        clips = [(clip, clip.ground_truth(), samples) for clip, samples in opened]
        self.frames = [(opened, truth, index) for opened, truth, samples in clips for index in range(samples)]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> OrionBatch:
        opened, _, number = self.frames[index]
        return collate([prepare(opened.sample(number), self.images)], self.images)

    def truth(self, index: int) -> dict[str, np.ndarray]:
        """What the reference stores beside the teacher's words."""
        _, truth, number = self.frames[index]
        return {
            "ego_fut_trajs": truth["ego_trajectory"][None, None, number].astype(np.float16),
            "ego_fut_masks": truth["ego_trajectory_mask"][None, None, None, number].astype(np.float16),
            "ego_fut_cmd": np.eye(len(COMMANDS), dtype=np.float16)[
                None, None, None, truth["command"][number]
            ],
        }


@torch.inference_mode()
def reference_loop(selection: Selection, subject: Subject, folder: Path, *, loaders: int) -> Stages:
    """Look at every frame of a selection; write a file for each to a new folder.

    Args:
        selection: Raw clips.
        subject: Who looks.
        folder: A new folder.
        loaders: Processes that decode ahead; with none, the loop decodes.
    """
    folder.mkdir()
    warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # the reference does, too
    begun = time.perf_counter()
    frames, state = Frames(selection, subject.images), subject.begin(1)
    teacher_s = disk_s = 0.0
    for place, batch in enumerate(DataLoader(frames, batch_size=None, num_workers=loaders)):
        looked = time.perf_counter()
        said, state = subject.step_for_reference(batch, state)
        kept = {name: tensor.numpy() for name, tensor in said.items()}
        wrote = time.perf_counter()
        path = folder / f"data_{batch.clips[0]}_{place}.npz"
        np.savez_compressed(path, **kept, **frames.truth(place))
        teacher_s += wrote - looked
        disk_s += time.perf_counter() - wrote
    wall_s = time.perf_counter() - begun
    nbytes = sum(file.stat().st_size for file in folder.iterdir())
    return Stages(wall_s, wall_s - teacher_s - disk_s, teacher_s, disk_s, nbytes)
