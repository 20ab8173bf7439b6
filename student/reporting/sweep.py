"""Several configurations one after another, and one table of the results."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict
from rich.console import Group
from rich.table import Table

from cache_schema.dataset.join import open_dataset
from cache_schema.errors import RequestError
from cache_schema.progress import SILENT
from cache_schema.storage.atomic_io import write_durably
from student.open_loop.bootstrap import Interval
from student.open_loop.evaluation import OpenLoopEvaluation, shown, shown_of_any_size, words
from student.open_loop.metrics import COLUMNS
from student.runs.checkpoint import read_checkpoint
from student.runs.evaluate import evaluate
from student.runs.log import read_log
from student.runs.presets import described, preset
from student.training.deferred_metrics import DivergenceError
from student.training.train import train

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cache_schema.progress import Progress
    from student.loading import Resident

NAME = "sweep.json"
HEADINGS = {"up_to_1s": "L2 1 s", "up_to_2s": "L2 2 s", "up_to_3s": "L2 3 s", "up_to_mean": "L2 mean"}
"""Columns of the open-loop error that are shown, in metres and averaged up to a horizon."""

Numbers = dict[str, float | None]


class Outcome(BaseModel):
    """The result of one configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str
    run: str
    """Folder of the run, beside the table."""
    epochs: int
    weights: int
    """Numbers in the student."""
    val: dict[str, float]
    """Terms of the loss on the held-out samples after the last epoch."""
    numbers: Numbers
    """Of the evaluation."""
    intervals: dict[str, Interval] = {}
    """Of those numbers that have one."""


class Sweep(BaseModel):
    """The results of some configurations on one dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    """Digest of the dataset."""
    outcomes: tuple[Outcome, ...]
    diverged: dict[str, str]
    """Why training a configuration failed."""
    others: dict[str, Numbers]
    """The open-loop errors of the policies that were not trained."""

    def __rich__(self) -> Group:
        """Show evaluations and terms of the loss as tables that fit a narrow terminal."""
        results = {done.preset: done.numbers for done in self.outcomes}
        names = list(dict.fromkeys(name for numbers in results.values() for name in numbers))
        if HEADINGS.keys() <= set(names):
            names = [name for name in names if name in HEADINGS or name not in COLUMNS]
            found = _table("Evaluation; L2 in metres, averaged up to a horizon", names)
            for numbers_of_all in (results, self.others):
                for label, numbers in numbers_of_all.items():
                    found.add_row(words(label), *(shown(numbers.get(name)) for name in names))
                found.add_section()
        else:
            found = self._one_row_a_number(names)
        terms = list(dict.fromkeys(name for done in self.outcomes for name in done.val))
        losses = _table("Terms of the loss, held-out", terms)
        for done in self.outcomes:
            losses.add_row(done.preset, *(shown_of_any_size(done.val.get(name)) for name in terms))
        return Group(found, losses, *(f"{name} diverged: {why}" for name, why in self.diverged.items()))

    def _one_row_a_number(self, names: Sequence[str]) -> Table:
        """Return a table with a column a configuration, and the interval below a number that has one."""
        found = Table(title="Evaluation", title_justify="left")
        found.add_column("")
        for done in self.outcomes:
            found.add_column(done.preset, justify="right")
        for name in names:
            cells = [shown_of_any_size(done.numbers.get(name)) for done in self.outcomes]
            spreads = [done.intervals.get(name) for done in self.outcomes]
            below = [
                "" if spread is None else "\n" + "..".join(map(shown_of_any_size, spread))
                for spread in spreads
            ]
            found.add_row(words(name), *map(str.__add__, cells, below))
        return found


def sweep(
    dataset: str | Path,
    folder: Path,
    presets: Sequence[str],
    *,
    changes: Mapping[str, Any] | None = None,
    with_datasets: Sequence[str | Path] = (),
    device: str = "cpu",
    resident: Resident = "none",
    trackers: Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> Sweep:
    """Train and evaluate configurations one after another; write ``sweep.json`` into the folder.

    Run again, it resumes: what is trained to its end is only evaluated. ``presets`` are names, or your own
    as ``package.module:NAME``; ``changes`` are made to all of them; each gets its run in ``folder``. The
    dataset must have held-out clips. The rest is as for ``train``.

    Raises:
        RequestError: There is no such configuration, nothing to compare on, or a change does not fit.
        TeachonceError: As ``train`` and ``evaluate`` raise; runs that diverge are listed in the table.
    """
    changes = changes or {}
    configs = {name: preset(name, changes) for name in dict.fromkeys(presets)}
    opened = open_dataset(dataset, *with_datasets)
    if not configs or not any(opened.clip(name).split == "val" for name in opened.clips):
        raise RequestError(
            "there is nothing to compare" + (": the dataset has no held-out clips" if configs else ""),
            expected="at least one preset, and a dataset with clips of the split 'val'",
            repair="name presets, or extract validation clips with --split val",
        )
    outcomes, diverged, others, digest = [], {}, {}, ""
    for name, config in configs.items():
        run = folder / re.sub(r"[^\w.-]", "-", name)
        try:
            progress.reach(0, name)
            train(
                dataset,
                run,
                config,
                with_datasets=with_datasets,
                device=device,
                resident=resident,
                trackers=trackers,
                recipe=described(name, changes),
                progress=progress,
            )
        except DivergenceError as error:
            diverged[name] = error.happened
            continue
        evaluation = evaluate(run, dataset, with_datasets=with_datasets, system=config.system, device=device)
        reached, weights = read_checkpoint(run)
        digest = reached.trained_on.digest
        logged = [line["val"] for line in read_log(run) if line["kind"] == "epoch" and line.get("val")]
        outcomes.append(
            Outcome(
                preset=name,
                run=run.name,
                epochs=reached.epoch,
                weights=sum(value.numel() for value in weights.values()),
                val=logged[-1] if logged else {},  # a log may have been lost
                numbers=evaluation.numbers(),
                intervals=evaluation.intervals(),
            )
        )
        if isinstance(evaluation, OpenLoopEvaluation):
            others |= {
                policy: masks["complete"] for policy, masks in evaluation.l2_m.items() if policy != "student"
            }
    table = Sweep(dataset=digest, outcomes=tuple(outcomes), diverged=diverged, others=others)
    write_durably(folder / NAME, table.model_dump_json(indent=1).encode())
    return table


def _table(title: str, names: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("preset")
    for name in names:
        heading = HEADINGS.get(name, name.partition(":")[2] or name)
        table.add_column(words(heading), justify="right")
    return table
