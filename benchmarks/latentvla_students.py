"""What students of LatentVLA-R learn from the codes of an ideal teacher: ablations, with several seeds.

    python -m benchmarks.latentvla_students
    python -m benchmarks.latentvla_students --quick

They learn from synthetic strips that decide the codes; see ``benchmarks.latentvla_set``. Every preset is
trained at tiny sizes, and measured on held-out strips: KL(teacher || student) of codes behind the teacher's,
as a share of that of a student that always tells the mean; the same with the images of other frames, **behind
the student's own codes**, as the teacher's would betray what the images show; the distance of the plan. A
student that knows every rule of the codes and sees nothing would have the share ``unseeing``. The states that
fused planners are given are codes in a little noise: they are told what others must see.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file

from benchmarks.latentvla_set import SetSizes, unseeing_kl, write_set
from benchmarks.record import Record
from cache_schema.processors import usable_processors
from student.runs.evaluate import ARRAYS, evaluate
from student.runs.presets import preset
from student.training.train import train

if TYPE_CHECKING:
    from collections.abc import Mapping

PRESETS = (
    "latentvla-distilled-tiny",
    "latentvla-distilled-parallel-tiny",
    "latentvla-distilled-labels-tiny",
    "latentvla-fused-tiny",
    "latentvla-fused-zero-tiny",
    "latentvla-fused-noise-tiny",
)
STRIP, CELLS, WIDTH = (96, 32), 6, 64
CLIP_FRAMES = 128
WIDE = 150
"""Characters of the table."""
CHANGES = {"training.learning_rate": 4e-3, "student.planner.bev_pixels": 32, "losses.agents": "off"}
"""What is changed of the presets: strips are smaller than theirs, and no vehicles are looked for."""
BELOW = {"latentvla-distilled-tiny": 0.1, "latentvla-distilled-parallel-tiny": 0.5}
"""Share of the constant student's KL below which a preset shall be."""
BLIND_ABOVE, CODES_AT_LEAST = 0.9, 9


def student(name: str, seed: int, epochs: int, dataset: Path, run: Path) -> dict[str, object]:
    """Train and measure one student; see ``main``."""
    torch.set_num_threads(1)
    config = preset(name, {**CHANGES, "training.seed": seed, "training.epochs": epochs})
    train(dataset, run, config, resident="ram", trackers=())
    numbers = evaluate(run, dataset).numbers()
    row: dict[str, object] = {"seed": seed, "L2 m": numbers["at_mean"]}
    if "code_kl" in numbers:
        constant = numbers["code_kl_constant"]
        shares = {"KL": "code_kl", "KL, other images": "code_kl_other_images"}
        row |= {name: numbers[measure] / constant for name, measure in shares.items()}
        row["unseeing"] = unseeing_kl() / constant
        row["agreement"] = numbers["code_agreement"]
        row["codes in use"] = len(np.unique(load_file(run / ARRAYS)["codes.student"]))
    return row


def students(record: Record, folder: Path, *, clips: int, epochs: int, seeds: int) -> None:
    """Train every preset with every seed, as many at once as there are processors, and print their table."""
    dataset = folder / "squares.zarr"
    write_set(dataset, SetSizes(STRIP, CELLS, WIDTH), clips={"train": clips, "val": 2}, frames=CLIP_FRAMES)
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(usable_processors(), mp_context=spawned) as pool:
        jobs = {
            pool.submit(student, name, seed, epochs, dataset, folder / f"{name}-{seed}"): name
            for seed, name in itertools.product(range(seeds), PRESETS)
        }
        for job in as_completed(jobs):
            row, name = job.result(), jobs[job]
            said = ", ".join(f"{key} {value:.3g}" for key, value in row.items() if value is not None)
            record.add("students", name, value=row, line=f"{name}: {said}")
    told_by = {name: record.content["students"][name] for name in PRESETS}
    for name, target in BELOW.items():
        rows = told_by[name]
        met = {
            f"KL below {target}": all(row["KL"] < target for row in rows),
            f"other images above {BLIND_ABOVE}": all(row["KL, other images"] > BLIND_ABOVE for row in rows),
            f"{CODES_AT_LEAST} codes in use": all(row["codes in use"] >= CODES_AT_LEAST for row in rows),
        }
        line = f"{name}, every seed: " + ", ".join(
            f"{what}: {'yes' if is_so else 'NO'}" for what, is_so in met.items()
        )
        record.set("met", name, value=met, line=line)
    Console(width=WIDE).print(_table(told_by))


def _table(rows_of: Mapping[str, list[dict]]) -> Table:
    columns = ("KL", "KL, other images", "agreement", "codes in use", "L2 m")
    table = Table("mean of seeds (lowest..highest)", *columns)
    for name, rows in rows_of.items():
        values = {column: [row[column] for row in rows if column in row] for column in columns}
        table.add_row(
            name.removesuffix("-tiny"),
            *(
                f"{statistics.mean(found):.3f} ({min(found):.3f}..{max(found):.3f})" if found else "-"
                for found in values.values()
            ),
        )
    return table


def main(
    clips: Annotated[int, typer.Option(help="Of 128 frames, to learn from.")] = 8,
    epochs: Annotated[int, typer.Option(help="Of each student.")] = 9,
    seeds: Annotated[int, typer.Option(help="Students of each preset.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="One seed, one clip: within two minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="File of the results.")] = None,
) -> None:
    """Train, evaluate, print each number, and write all to ``benchmarks/results``."""
    if quick:
        clips, epochs, seeds = 1, 1, 1
    record = Record(
        "latentvla-students",
        out,
        quick=quick,
        teacher="ideal, no model",
        changes=CHANGES,
        frames=clips * CLIP_FRAMES,
        epochs=epochs,
    )
    with tempfile.TemporaryDirectory() as folder:
        students(record, Path(folder), clips=clips, epochs=epochs, seeds=seeds)


if __name__ == "__main__":
    typer.run(main)
