"""The reference's extraction loop: frame by frame, one compressed file per frame.

Source: spec Orion-Lite 1.1 (the loop) and 1.4 (the files). The teacher and the code that decodes and resizes
images are ours, so that only the loop differs. Like the reference it never flushes to the disk.
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

    from benchmarks.teachers import BenchmarkTeacher
    from pipeline.source import Selection
    from pipeline.teachers.orion.images import ImagePreprocessing
    from pipeline.teachers.orion.inputs import OrionBatch


@dataclass(frozen=True)
class Stages:
    """Where the time of a loop went; ``wall_s`` is the sum of the other three times."""

    wall_s: float
    images_s: float
    """Decoding images, or waiting for them."""
    teacher_s: float
    disk_s: float
    """Compressing and writing files."""
    nbytes: int
    """Size of all files."""


class Frames(Dataset):
    """All frames of a selection, clip by clip, as batches of one."""

    def __init__(self, selection: Selection, images: ImagePreprocessing) -> None:
        self.images = images
        self.frames = []
        for clip in selection.clips:
            opened = clip.open()
            ground_truth = opened.ground_truth()
            self.frames += [(opened, ground_truth, number) for number in range(clip.samples)]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> OrionBatch:
        opened, _, number = self.frames[index]
        return collate([prepare(opened.sample(number), self.images)], self.images)

    def ground_truth(self, index: int) -> dict[str, np.ndarray]:
        """Return what the reference stores beside the teacher's outputs."""
        _, ground_truth, number = self.frames[index]
        command = ground_truth["command"][number]
        return {
            "ego_fut_trajs": ground_truth["ego_trajectory"][None, None, number].astype(np.float16),
            "ego_fut_masks": ground_truth["ego_trajectory_mask"][None, None, None, number].astype(np.float16),
            "ego_fut_cmd": np.eye(len(COMMANDS), dtype=np.float16)[None, None, None, command],
        }


@torch.inference_mode()
def reference_loop(selection: Selection, teacher: BenchmarkTeacher, folder: Path, *, loaders: int) -> Stages:
    """Run the teacher on every frame of a selection; write a file for each to a new folder.

    Args:
        selection: Raw clips.
        teacher: Computes what is stored.
        folder: A new folder.
        loaders: Processes that decode ahead; 0 decodes in the loop itself.
    """
    folder.mkdir()
    warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # as in the reference
    begun = time.perf_counter()
    frames, state = Frames(selection, teacher.images), teacher.begin(1)
    teacher_s = disk_s = 0.0
    for index, batch in enumerate(DataLoader(frames, batch_size=None, num_workers=loaders)):
        batch_ready = time.perf_counter()
        outputs, state = teacher.reference_step(batch, state)
        arrays = {name: tensor.numpy() for name, tensor in outputs.items()}
        outputs_ready = time.perf_counter()
        path = folder / f"data_{batch.clips[0]}_{index}.npz"
        np.savez_compressed(path, **arrays, **frames.ground_truth(index))
        teacher_s += outputs_ready - batch_ready
        disk_s += time.perf_counter() - outputs_ready
    wall_s = time.perf_counter() - begun
    nbytes = sum(file.stat().st_size for file in folder.iterdir())
    return Stages(wall_s, wall_s - teacher_s - disk_s, teacher_s, disk_s, nbytes)
