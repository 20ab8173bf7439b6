"""Windows of synthetic clips on disk: each clip is drawn once, its images already shrunk."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from cache_schema.progress import SILENT
from pipeline.teachers.orion.training.examples import draw

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cache_schema.progress import Progress
    from pipeline.teachers.orion.images import ImagePreprocessing
    from pipeline.teachers.orion.training.examples import ClipPlan
    from pipeline.teachers.orion.training.unroll import Windows


def windows_of(
    plans: Sequence[ClipPlan],
    images: ImagePreprocessing,
    folder: Path,
    *,
    workers: int = 1,
    progress: Progress = SILENT,
) -> Windows:
    """Return the windows of all planned clips, in this order; those that the folder lacks are drawn.

    Args:
        plans: Clips.
        images: How their images are prepared.
        folder: Holds a file for each clip. It has to be emptied where the synthetic world has changed.
        workers: Processes that draw side by side.
        progress: Counts clips.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{_digest(plan, images)}.safetensors" for plan in plans]
    missing = [(plan, file) for plan, file in zip(plans, files, strict=True) if not file.exists()]
    progress.expect(len(missing))
    # Fresh interpreters: a fork of a process that already runs threads may hang.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for file in pool.map(partial(_draw, images=images), *zip(*missing, strict=True)) if missing else ():
            progress.advance(1, file.name)
    clips = [load_file(file) for file in files]
    return {name: torch.cat([clip[name] for clip in clips]) for name in clips[0]}


def _draw(plan: ClipPlan, file: Path, images: ImagePreprocessing) -> Path:
    tensors = {name: torch.from_numpy(values) for name, values in draw(plan, images).items()}
    unfinished = file.with_suffix(f".{os.getpid()}")
    save_file(tensors, unfinished)
    unfinished.replace(file)
    return file


def _digest(plan: ClipPlan, images: ImagePreprocessing) -> str:
    return hashlib.sha256(repr((plan, images)).encode()).hexdigest()[:16]
