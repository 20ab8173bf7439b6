"""What Drive-KD's students learn from synthetic questions: answers alone, one signal, all signals projected.

    python -m benchmarks.drive_kd_students
    python -m benchmarks.drive_kd_students --quick

Every preset is trained with several seeds, and its replies to held-out questions are scored: strict
multiple-choice accuracy. The teacher has **random weights**: it knows nothing, so that this shows whether
students learn, and not whether a teacher helps. A folder given by ``--folder`` is kept: stopped at any moment
and started again, runs go on where they were.

Two baselines know the questions and never look: the commonest letter of all right answers, and the commonest
answer of each kind of question. Intervals are 95 % bootstrap intervals over clips, of one seed.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.record import Record
from cache_schema.processors import usable_processors
from pipeline.bench2drive.synthetic import write_demo_data
from pipeline.bench2drive.synthetic.questions import write_demo_questions
from pipeline.extraction.run import extract
from pipeline.source import open_source
from pipeline.teachers import load_teacher
from student.runs.evaluate import evaluate
from student.runs.presets import preset
from student.training.train import train

if TYPE_CHECKING:
    from student.drive_kd.evaluation.result import QuestionEvaluation

PRESETS = ("drive-kd-tiny-ce", "drive-kd-tiny-single-perception", "drive-kd-tiny")


def main(
    folder: Annotated[Path | None, typer.Option(help="Kept; without it, everything is made anew.")] = None,
    clips: Annotated[int, typer.Option(help="Synthetic clips of 60 frames.")] = 48,
    every: Annotated[int, typer.Option(help="Ask about one frame in so many.")] = 4,
    epochs: Annotated[int, typer.Option(help="Of each run.")] = 10,
    seeds: Annotated[int, typer.Option(help="Runs of each preset.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Few clips, one seed: within two minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="File of the results.")] = None,
) -> None:
    """Train, evaluate, print each number, and write all to ``benchmarks/results``."""
    if quick:
        clips, every, epochs, seeds = 4, 10, 1, 1
    record = Record(
        "drive-kd-students",
        out,
        quick=quick,
        teacher="internvl3-tiny, random weights",
        clips=clips,
        every=every,
        epochs=epochs,
    )
    with contextlib.ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        questions = place / "questions.json"
        if not questions.exists():
            write_demo_data(place / "data", clips=clips, frames=60, seed=0, workers=usable_processors())
        share = write_demo_questions(place / "data", questions, every=every).share_of_commonest("val")
        record.set("commonest of its kind", value=share, line=f"commonest of its kind: {share:.3f}")
        selection = open_source("drive-kd", questions).select()
        stored = place / "a.zarr", place / "b.zarr"
        for name, path in zip(("internvl3-tiny", "internvl3-tiny-vision"), stored, strict=True):
            report = extract(selection, load_teacher(name, None, device="cpu"), path)
            record.set("samples", name, value=report.frames, line=f"{name}: {report.frames} samples")
        for seed in range(seeds):
            for name in PRESETS:
                run = place / "runs" / f"{name}-seed-{seed}"
                config = preset(name, {"training.seed": seed, "training.epochs": epochs})
                train(stored[0], run, config, with_datasets=[stored[1]], resident="ram", trackers=[])
                found = evaluate(run, stored[0], with_datasets=[stored[1]])
                group = cast("QuestionEvaluation", found).groups["all"]
                choice = group.multiple_choice
                assert choice is not None
                row = {
                    "seed": seed,
                    "accuracy": choice.accuracy.value,
                    "interval": choice.accuracy.interval,
                    "majority": choice.majority.value,
                    "answer_ce": group.losses["answer_ce"].value,
                }
                line = f"{name}, seed {seed}: accuracy {row['accuracy']:.3f}, majority {row['majority']:.3f}"
                record.add("runs", name, value=row, line=line)
    Console().print(_table(record.content["runs"]))


def _table(runs: dict[str, list[dict]]) -> Table:
    table = Table("preset", "accuracy, mean of seeds", "lowest..highest", "95 % of each seed", "held-out CE")
    for name, rows in runs.items():
        accuracies = [row["accuracy"] for row in rows]
        table.add_row(
            name,
            f"{statistics.mean(accuracies):.3f}",
            f"{min(accuracies):.3f}..{max(accuracies):.3f}",
            ", ".join("{:.3f}..{:.3f}".format(*row["interval"]) for row in rows if row["interval"]),
            f"{statistics.mean(row['answer_ce'] for row in rows):.4f}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
