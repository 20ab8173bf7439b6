"""Synthetic clips for the benchmark of distillation, and datasets of what teachers tell of them.

A dataset holds the first so many of the clips to learn from, or the held-out clips: sets are nested, and each
clip is extracted once by each teacher.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from concurrent.futures import as_completed
from typing import TYPE_CHECKING, NamedTuple

import torch

from cache_schema.dataset.reader import LatentDataset
from cache_schema.sharing.merge import merge
from cache_schema.sharing.reencode import reencode
from cache_schema.vocabulary.orion import SCENE_QUERIES
from pipeline.bench2drive.synthetic import write_demo_data
from pipeline.extraction.run import extract
from pipeline.source import open_source, with_inputs
from pipeline.teachers import load_teacher

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor
    from pathlib import Path

    from benchmarks.record import Record

DATA_SEED = 1001
"""Of the clips: the teacher was trained and measured on those of other seeds."""
SLOTS = 4
HELD_OUT = "held-out"


class Extraction(NamedTuple):
    """How latents are made."""

    teacher: str
    quantize: str | None = None
    inputs: tuple[str, ...] = ()


FULL, INT8, NF4, CODES = "fp16", "int8 queries", "nf4 teacher", "codes"
EXTRACTIONS = {
    FULL: Extraction("orion-tiny"),
    NF4: Extraction("orion-tiny", quantize="nf4"),
    CODES: Extraction("latentvla-tiny", inputs=("camera_strip_256",)),
}


class Clips(NamedTuple):
    """Synthetic clips by their names."""

    root: Path
    learned: list[str]
    """In the order in which they were drawn, so that scenarios alternate."""
    held_out: list[str]


def dataset(folder: Path, latents: str, part: object) -> Path:
    """Return where latents of a part of the clips are: ``held-out``, or the first so many."""
    return folder / f"{latents.replace(' ', '-')}-{part}.zarr"


def draw(folder: Path, largest: int, frames: int, workers: int) -> Clips:
    """Draw clips, a quarter of them held out."""
    root = folder / "data"
    total = next(n for n in itertools.count(largest + 1) if n - max(1, round(n / 4)) >= largest)
    write_demo_data(root, clips=total, frames=frames, seed=DATA_SEED, workers=workers)
    clips = sorted(open_source("bench2drive", root).select().clips, key=lambda clip: int(clip.tags["route"]))
    learned, held_out = ([clip.name for clip in clips if clip.split == side] for side in ("train", "val"))
    return Clips(root, learned[:largest], held_out)


def extract_part(data: Path, how: Extraction, names: list[str], path: Path) -> float:
    """Extract some clips; return the seconds that it took."""
    torch.set_num_threads(1)
    begun = time.perf_counter()
    selection = with_inputs(open_source("bench2drive", data), how.inputs).select()
    chosen = tuple(clip for clip in selection.clips if clip.name in names)
    teacher = load_teacher(how.teacher, None, device="cpu", quantize=how.quantize)
    report = extract(dataclasses.replace(selection, clips=chosen), teacher, path, slots=SLOTS)
    if report.failed:
        raise RuntimeError(f"{report.failed[0]}")
    return time.perf_counter() - begun


def extract_all(
    record: Record, pool: ProcessPoolExecutor, folder: Path, sizes: list[int], drawn: Clips
) -> None:
    """Make all datasets: of held-out clips, and of each of the nested sets."""
    data, learned, held_out = drawn
    pieces = {size: learned[begin:size] for begin, size in itertools.pairwise((0, *sizes))}
    jobs = {}
    for latents, how in EXTRACTIONS.items():
        parts = {f"piece-{size}": names for size, names in pieces.items()} | {HELD_OUT: held_out}
        for part, names in sorted(parts.items(), key=lambda item: -len(item[1])):
            made = pool.submit(extract_part, data, how, names, dataset(folder, latents, part))
            jobs[made] = f"{latents}, {part}"
    for job in as_completed(jobs):
        took_s = job.result()
        record.set("extraction, s", jobs[job], value=took_s, line=f"{jobs[job]}: extracted in {took_s:.1f} s")
    for latents in EXTRACTIONS:
        for count, size in enumerate(sizes, start=1):
            if latents == FULL or size == sizes[-1]:
                inputs = [dataset(folder, latents, f"piece-{piece}") for piece in sizes[:count]]
                merge(dataset(folder, latents, size), inputs)
    for part in (sizes[-1], HELD_OUT):
        source, target = (dataset(folder, latents, part) for latents in (FULL, INT8))
        reencode(source, target, {SCENE_QUERIES: "int8-per-channel"})
    weights = LatentDataset.open(dataset(folder, FULL, HELD_OUT)).manifest.teacher.weights
    record.set("weights", value=weights)
