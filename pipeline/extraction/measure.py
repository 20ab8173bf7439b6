"""How fast a teacher looks at real frames on this machine. Writes nothing."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from pipeline.bench2drive.reader import read_annotations
from pipeline.extraction.prefetch import SlotClip, frame_batch, idle_sight

if TYPE_CHECKING:
    from pipeline.source import Selection
    from pipeline.teachers.protocol import Teacher

WARM_UP, MEASURED = 2, 8
"""Frames a slot: kernels are chosen and memory is reserved during the first."""


@torch.inference_mode()
def frames_a_second(selection: Selection, teacher: Teacher, *, slots: int) -> float:
    """Look at the first frames of the first clips, as many clips as there are slots.

    Raises:
        ClipError: One of them cannot be read.
    """
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        clips = [
            SlotClip(clip.raw, read_annotations(clip.raw), teacher.images, pool)
            for clip in selection.clips[:slots]
        ]
        idle = [idle_sight(teacher.images)] * (slots - len(clips))
        state = teacher.begin(slots)
        begun, looked = time.perf_counter(), 0
        for tick in range(min(WARM_UP + MEASURED, *(len(clip.clip.frames) for clip in clips))):
            if tick == WARM_UP:
                begun, looked = time.perf_counter(), 0
            said, state = teacher.step(frame_batch([*(clip.sight() for clip in clips), *idle]), state)
            for tensor in said.values():
                tensor.cpu()
            looked += len(clips)
        for clip in clips:
            clip.cancel()
        return looked / (time.perf_counter() - begun)
