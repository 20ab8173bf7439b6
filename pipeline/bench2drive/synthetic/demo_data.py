"""Writes synthetic clips to disk, in the layout of Bench2Drive."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cache_schema.errors import RequestError
from cache_schema.format.manifest import DataIdentity
from cache_schema.progress import SILENT
from cache_schema.storage.paths import absolute, refuse_inside_store
from pipeline.bench2drive.clips import FRAME_RATE_HZ, RawClip
from pipeline.bench2drive.geometry import CAMERAS
from pipeline.bench2drive.source import DATA_FILE
from pipeline.bench2drive.splits import SPLIT_FILE
from pipeline.bench2drive.synthetic.drawing import Painter
from pipeline.bench2drive.synthetic.manoeuvres import MANOEUVRES
from pipeline.bench2drive.synthetic.recording import WEATHERS, Recorder
from pipeline.bench2drive.synthetic.scene import draw_scene

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from cache_schema.progress import Progress

FIRST_ROUTE = 9001
"""Ids of Bench2Drive's own routes in its Base set are smaller, so that names never collide."""
TOWNS = ("Town03", "Town05", "Town10HD", "Town12", "Town13")
JPEG_QUALITY = 20


@dataclass(frozen=True)
class _ClipPlan:
    path: Path
    scenario: str
    weather: int
    frames: int
    seed: tuple[int, int]


def write_demo_data(
    root: Path,
    *,
    clips: int = 12,
    frames: int = 60,
    seed: int = 0,
    workers: int = 1,
    progress: Progress = SILENT,
) -> tuple[Path, ...]:
    """Write synthetic clips to ``root/v1``, with a split in which every fourth is for validation.

    With the same libraries, the bytes depend on ``clips``, ``frames`` and ``seed`` alone. The root appears
    when all of it is written; one that already holds the same data is left as it is.

    Args:
        root: A new or empty folder.
        clips: Number of clips.
        frames: Frames a clip, at 10 Hz. ORION's data loader needs 41 for one whole trajectory.
        seed: Of the random numbers that draw the clips.
        workers: Processes that write clips side by side.
        progress: Counts clips.

    Returns:
        The clips' folders, sorted by name.

    Raises:
        RequestError: The root holds something else, a number is not positive, or the disk refuses.
    """
    if min(clips, frames, workers) < 1 or seed < 0:
        raise RequestError(
            f"{clips} clips of {frames} frames from seed {seed} by {workers} workers cannot be written",
            expected="at least one clip, one frame and one worker, and a seed of 0 or more",
            repair="give larger numbers",
        )
    identity = DataIdentity(
        name=f"synthetic, {clips} clips of {frames} frames, seed {seed}",
        licence="CC0-1.0",
        frame_rate_hz=FRAME_RATE_HZ,
    )
    root = absolute(root)
    refuse_inside_store(root)
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        if not _holds(root, identity):
            raise RequestError(
                f"{root} is not empty, and not this demo data",
                expected="a new or empty folder for the synthetic clips",
                repair="choose another folder, or remove this one",
            )
        return tuple(sorted((root / "v1").iterdir()))
    building = root.with_name(f".{root.name}.partial")
    try:
        shutil.rmtree(building, ignore_errors=True)
        plans, validation = _plan(building / "v1", clips, frames, seed)
        _write_all(plans, workers, progress)
        split_file = building / SPLIT_FILE
        split_file.parent.mkdir()
        split_file.write_text(
            json.dumps({"val": [f"v1/{name}" for name in validation]}, indent=4) + "\n", "utf-8"
        )
        (building / DATA_FILE).write_text(identity.model_dump_json(indent=2) + "\n", "utf-8")
        os.replace(building, root)
    except OSError as error:
        if error.filename is not None:
            raise  # a path that is wrong, not a write that the disk refused
        raise RequestError(
            f"{root} cannot be written: {error}",
            expected="room for the synthetic clips, about 0.2 MB a frame, and the right to write",
            repair="free space, ask for less, or choose another folder",
        ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return tuple(sorted(root / "v1" / plan.path.name for plan in plans))


def _holds(root: Path, identity: DataIdentity) -> bool:
    file = root / DATA_FILE
    return file.is_file() and file.read_text("utf-8") == identity.model_dump_json(indent=2) + "\n"


def _plan(folder: Path, clips: int, frames: int, seed: int) -> tuple[list[_ClipPlan], list[str]]:
    """Choose scenario and weather of each clip; validation repeats training scenarios, with other numbers."""
    scenarios, weathers = list(MANOEUVRES), list(WEATHERS)
    for_validation = max(1, round(clips / 4)) if clips > 1 else 0
    for_training = clips - for_validation
    plans = []
    for index in range(clips):
        repeat = index - for_training
        shown = index if repeat < 0 else (3 * repeat + repeat // 2) % for_training
        scenario = scenarios[shown % len(scenarios)]
        weather = weathers[index % len(weathers)]
        name = f"{scenario}_{TOWNS[index % len(TOWNS)]}_Route{FIRST_ROUTE + index}_Weather{weather}"
        plans.append(_ClipPlan(folder / name, scenario, weather, frames, (seed, index)))
    return plans, [plan.path.name for plan in plans[for_training:]]


def _write_all(plans: list[_ClipPlan], workers: int, progress: Progress) -> None:
    progress.expect(len(plans))
    if workers == 1:
        for plan in plans:
            progress.advance(1, _write_clip(plan))
        return
    # Fresh interpreters: a fork of a process that already runs threads may hang.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for written in as_completed([pool.submit(_write_clip, plan) for plan in plans]):
            progress.advance(1, written.result())


def _write_clip(plan: _ClipPlan) -> str:
    clip = RawClip(plan.path)
    for folder in ("anno", "lidar", "radar", "expert_assessment"):
        (clip.path / folder).mkdir(parents=True)
    for camera in CAMERAS:
        clip.image_path(camera, 0).parent.mkdir(parents=True)
    rng = np.random.default_rng(plan.seed)
    scene = draw_scene(plan.scenario, plan.frames, rng)
    recorder = Recorder(scene, plan.weather, rng)
    painter = Painter(scene, plan.weather, rng)
    for frame in range(plan.frames):
        text = json.dumps(recorder.annotation(frame), indent=4)
        # mtime 0: the bytes must not depend on the time of writing.
        (clip.path / "anno" / f"{frame:05d}.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
        for camera, image in painter.paint(frame):
            # In memory first: to a file, Pillow takes a write that the disk cuts short for a whole one.
            clip.image_path(camera, frame).write_bytes(as_jpeg(image))
    return clip.name


def as_jpeg(image: Image.Image) -> bytes:
    """Return an image as the clips hold it."""
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    return encoded.getvalue()
