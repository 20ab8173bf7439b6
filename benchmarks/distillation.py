"""Does distillation help, by how much, and with how many clips to learn from? On synthetic clips.

    python -m benchmarks.distillation
    python -m benchmarks.distillation --quick

The teacher is ``orion-tiny``, which was trained on other synthetic clips. Its students learn from the
expert's trajectory, from the teacher's planning token, or from both, by the presets of the demo, from nested
sets of clips, with as many optimiser steps for each set. All of them read what the teacher's vision stack
tells of a frame, and start from the teacher's planner: only the planning token is added or left out.

At the largest set of clips, students learn from latents that are stored or computed in fewer bits, and two
planners see the front cameras in place of the teacher's queries: latent TransFuser, and LatentVLA-R, whose
teacher of codes has **random weights**. They learn from the same clips, and say nothing of distillation.

All errors are distances to the expert on the same held-out clips: metres, mean over steps up to 3 s, of
frames whose next 3 s are known. To see whether training has converged, the first seed learns again for twice
the steps. A folder given by ``--folder`` is kept: started again, it goes on where it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from rich.console import Console
from safetensors.numpy import load_file

from benchmarks.distillation_tables import (
    BOTH,
    MIMIC,
    TRAJECTORY,
    Row,
    as_table,
    compare,
    document,
    sentence,
)
from benchmarks.record import Record
from cache_schema.dataset.reader import LatentDataset
from cache_schema.processors import usable_processors
from cache_schema.sharing.merge import merge
from cache_schema.sharing.reencode import reencode
from cache_schema.storage.atomic_io import write_durably
from cache_schema.vocabulary.orion import SCENE_QUERIES
from pipeline.bench2drive.synthetic import write_demo_data
from pipeline.extraction.run import extract
from pipeline.source import open_source, with_inputs
from pipeline.teachers import load_teacher
from student.open_loop.metrics import COLUMNS
from student.runs.evaluate import ARRAYS, evaluate
from student.runs.presets import preset
from student.training.train import train

OBJECTIVES = {TRAJECTORY: "demo-trajectory", MIMIC: "demo-mimic", BOTH: "demo"}
PLANNERS = ("latent-transfuser", "latentvla-distilled")
DATA_SEED = 1001
"""Of the clips: the teacher was trained and measured on those of other seeds."""
DISTILLATION = "With and without the teacher"
"""Title of the table that answers the question."""
WIDE = 200
"""Characters of the table."""
UP_TO_3_S = COLUMNS.index("up_to_3s")
SLOTS = 4


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


class Student(NamedTuple):
    """One training run."""

    name: str
    preset: str
    clips: int
    latents: str
    """Which latents it learns from, and is measured on."""
    seed: int
    steps: int

    @property
    def key(self) -> tuple[str, int]:
        """What all seeds have in common."""
        return self.name, self.clips

    def run(self, folder: Path) -> Path:
        """Return the folder of its run."""
        return folder / "runs" / f"{self.name}-{self.clips}-{self.seed}".replace(" ", "-").replace(",", "")


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
        parts = {f"piece-{size}": names for size, names in pieces.items()} | {"held-out": held_out}
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
    for part in (sizes[-1], "held-out"):
        source, target = (dataset(folder, latents, part) for latents in (FULL, INT8))
        reencode(source, target, {SCENE_QUERIES: "int8-per-channel"})
    weights = LatentDataset.open(dataset(folder, FULL, "held-out")).manifest.teacher.weights
    record.set("weights", value=weights)


def learn(student: Student, folder: Path, frames: int) -> dict[str, float]:
    """Train and measure a student; return its steps, and the seconds that it took."""
    torch.set_num_threads(1)
    begun = time.perf_counter()
    config = preset(student.preset)
    epochs = math.ceil(student.steps / math.ceil(student.clips * frames / config.training.batch_size))
    config = preset(student.preset, {"training.seed": student.seed, "training.epochs": epochs})
    run = student.run(folder)
    done = train(dataset(folder, student.latents, student.clips), run, config, resident="ram", trackers=())
    evaluate(run, dataset(folder, student.latents, "held-out"))
    return {"steps": done.step, "s": time.perf_counter() - begun}


def errors_of(run: Path, policy: str = "student") -> tuple[np.ndarray, np.ndarray]:
    """Return distances (N) of a policy beside an evaluated run, and the clip (N) of each, of whole frames."""
    arrays = load_file(run / ARRAYS)
    complete = arrays["mask"].all(axis=1)
    return arrays[f"l2.{policy}"][complete, UP_TO_3_S].astype(np.float64), arrays["clip"][complete]


def students_of(
    sizes: list[int], seeds: int, steps: int, planner_seeds: int, planner_steps: int
) -> list[Student]:
    """Return everything that is trained, the longest first."""
    largest = sizes[-1]
    return [
        *(
            Student(name, f"{name}-tiny", largest, CODES, seed, planner_steps)
            for name, seed in itertools.product(PLANNERS, range(planner_seeds))
        ),
        *(
            Student(twice(name), OBJECTIVES[name], size, FULL, 0, 2 * steps)
            for name, size in itertools.product(OBJECTIVES, sizes)
        ),
        *(
            Student(f"{BOTH}, {latents}", OBJECTIVES[BOTH], largest, latents, seed, steps)
            for latents, seed in itertools.product((INT8, NF4), range(seeds))
        ),
        *(
            Student(name, OBJECTIVES[name], size, FULL, seed, steps)
            for name, size, seed in itertools.product(OBJECTIVES, sizes, range(seeds))
        ),
    ]


def twice(name: str) -> str:
    """Return the name of students that learn for twice as many steps."""
    return f"{name}, twice the steps"


def learn_all(
    record: Record, pool: ProcessPoolExecutor, folder: Path, students: list[Student], frames: int
) -> None:
    """Train and measure all students, and print each one's error."""
    jobs = {pool.submit(learn, student, folder, frames): student for student in students}
    for job in as_completed(jobs):
        student, found = jobs[job], job.result()
        l2 = float(errors_of(student.run(folder))[0].mean())
        name = f"{student.name}, {student.clips} clips"
        record.add(
            *("students", name),
            value={"seed": student.seed, "l2_m": l2, **found},
            line=f"{name}, seed {student.seed}: {l2:.3f} m, {found['steps']} steps in {found['s']:.1f} s",
        )


def rows_of(folder: Path, students: list[Student], sizes: list[int]) -> dict[str, list[Row]]:
    """Return all tables by their titles."""
    errors: dict[tuple[str, int], np.ndarray] = {}
    clip_of = np.zeros(0)
    for key, group in itertools.groupby(sorted(students), key=lambda student: student.key):
        found = [errors_of(student.run(folder)) for student in group]
        errors[key], clip_of = np.stack([error for error, _ in found]), found[0][1]
    largest = sizes[-1]

    def policy(name: str, student: tuple[str, int]) -> np.ndarray:
        run = next(one.run(folder) for one in students if one.key == student)
        return errors_of(run, name)[0][None]

    def row(name: str, size: int, against: str | None = None, seeds: slice = slice(None)) -> Row:
        other = None if against is None else (against, errors[against, size][seeds])
        return compare(name, errors[name, size], clip_of, clips=size, against=other)

    teacher = policy("teacher", (BOTH, largest))
    nf4 = policy("teacher", (f"{BOTH}, {NF4}", largest))
    return {
        DISTILLATION: [
            compare("teacher", teacher, clip_of),
            *(
                compare(name.replace("_", " "), policy(name, (BOTH, largest)), clip_of)
                for name in ("constant_velocity", "stand_still")
            ),
            *(
                row(name, size, None if name == TRAJECTORY else TRAJECTORY)
                for name, size in itertools.product(OBJECTIVES, sizes)
            ),
        ],
        "Latents in fewer bits": [
            compare(f"teacher, {NF4}", nf4, clip_of, against=("teacher", teacher)),
            *(row(f"{BOTH}, {latents}", largest, BOTH) for latents in (INT8, NF4)),
        ],
        "Planners that see the front cameras": [
            row(PLANNERS[0], largest),
            row(PLANNERS[1], largest, PLANNERS[0]),
        ],
        "Twice the steps, first seed": [
            row(twice(name), size, name, slice(1)) for name, size in itertools.product(OBJECTIVES, sizes)
        ],
    }


def main(
    folder: Annotated[Path | None, typer.Option(help="Kept; without it, everything is made anew.")] = None,
    size: Annotated[list[int], typer.Option(help="Clips of a training set; repeatable.")] = [6, 24, 96],  # noqa: B006
    frames: Annotated[int, typer.Option(min=41, help="Of a clip.")] = 60,
    steps: Annotated[int, typer.Option(help="Optimiser steps of a student of ORION.")] = 1440,
    seeds: Annotated[int, typer.Option(help="Such students of each kind.")] = 5,
    planner_steps: Annotated[int, typer.Option(help="Likewise of a planner that sees cameras.")] = 1440,
    planner_seeds: Annotated[int, typer.Option(help="Such planners of each kind.")] = 3,
    workers: Annotated[int, typer.Option(help="Processes side by side.")] = usable_processors(),
    quick: Annotated[bool, typer.Option("--quick", help="Few clips and steps: within two minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="File of the results.")] = None,
) -> None:
    """Extract, train, evaluate, print each number, and write all to ``benchmarks/results``."""
    if quick:
        size, steps, seeds, planner_steps, planner_seeds = [2, 4], 60, 2, 15, 1
    sizes = sorted(set(size))
    facts = {"frames": frames, "steps": steps, "data seed": DATA_SEED}
    record = Record("distillation", out, quick=quick, teacher=EXTRACTIONS[FULL].teacher, **facts)
    spawned = multiprocessing.get_context("spawn")
    students = students_of(sizes, seeds, steps, planner_seeds, planner_steps)
    with contextlib.ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pool = stack.enter_context(ProcessPoolExecutor(workers, spawned))
        drawn = draw(place, sizes[-1], frames, workers)
        said = f"{len(drawn.learned)} clips to learn from and {len(drawn.held_out)} held-out ones drawn"
        record.set("clips", value={"learned": sizes, "held out": len(drawn.held_out)}, line=said)
        extract_all(record, pool, place, sizes, drawn)
        learn_all(record, pool, place, students, frames)
        tables = rows_of(place, students, sizes)
    for title, rows in tables.items():
        record.set("tables", title, value=[row._asdict() for row in rows])
        Console(width=WIDE).print(as_table(title, rows))
    for name in (BOTH, MIMIC):
        said = sentence(tables[DISTILLATION], name)
        record.set("in words", name, value=said, line=said)
    write_durably(record.path.with_suffix(".md"), document(record.content).encode())


if __name__ == "__main__":
    typer.run(main)
