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

from benchmarks.distillation_set import (
    CODES,
    DATA_SEED,
    EXTRACTIONS,
    FULL,
    HELD_OUT,
    INT8,
    NF4,
    dataset,
    draw,
    extract_all,
)
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
from cache_schema.processors import usable_processors
from cache_schema.storage.atomic_io import write_durably
from student.open_loop.metrics import COLUMNS
from student.runs.evaluate import ARRAYS, evaluate
from student.runs.presets import preset
from student.training.train import train

OBJECTIVES = {TRAJECTORY: "demo-trajectory", MIMIC: "demo-mimic", BOTH: "demo"}
PLANNERS = ("latent-transfuser", "latentvla-distilled")
SIZES = 6, 24, 96
"""Clips of each training set: few are where a teacher should help most."""
DISTILLATION = "With and without the teacher"
"""Title of the table that answers the question."""
WIDE = 200
"""Characters of the table."""
UP_TO_3_S = COLUMNS.index("up_to_3s")


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


def learn(student: Student, folder: Path, frames: int) -> dict[str, float]:
    """Train and measure a student; return its steps, and the seconds that it took."""
    torch.set_num_threads(1)
    begun = time.perf_counter()
    config = preset(student.preset)
    epochs = math.ceil(student.steps / math.ceil(student.clips * frames / config.training.batch_size))
    config = preset(student.preset, {"training.seed": student.seed, "training.epochs": epochs})
    run = student.run(folder)
    done = train(dataset(folder, student.latents, student.clips), run, config, resident="ram", trackers=())
    evaluate(run, dataset(folder, student.latents, HELD_OUT))
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
            compare(NF4, nf4, clip_of, against=("teacher", teacher)),
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
    size: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Clips of a training set; repeatable. [default: 6, 24, 96]"),
    ] = None,
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
        size, frames, steps, seeds, planner_steps, planner_seeds = [2, 5], 45, 30, 2, 15, 1
    sizes = sorted(set(size or SIZES))
    facts = {"frames": frames, "steps": steps, "planner steps": planner_steps, "data seed": DATA_SEED}
    record = Record("distillation", out, quick=quick, teacher=EXTRACTIONS[FULL].teacher, **facts)
    spawned = multiprocessing.get_context("spawn")
    students = students_of(sizes, seeds, steps, planner_seeds, planner_steps)
    with contextlib.ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pool = ProcessPoolExecutor(workers, spawned)
        stack.callback(pool.shutdown, cancel_futures=True)
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
