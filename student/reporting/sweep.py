"""Several recipes one after another, and one table of what came out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict
from rich.console import Group
from rich.table import Table

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import RequestError
from cache_schema.progress import SILENT
from cache_schema.storage.atomic_io import write_durably
from student.open_loop.evaluate import evaluate
from student.runs.checkpoint import read_checkpoint
from student.runs.config import preset
from student.runs.log import read_log
from student.training.deferred_metrics import DivergenceError
from student.training.train import train

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cache_schema.progress import Progress
    from student.runs.config import Resident

NAME = "sweep.json"
SHOWN = ("up_to_1s", "up_to_2s", "up_to_3s", "up_to_mean")
"""Columns of the open-loop error that the table shows."""

Numbers = dict[str, float | None]


class Outcome(BaseModel):
    """What a recipe came to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str
    run: str
    """Folder of the run, beside the table."""
    epochs: int
    weights: int
    """Numbers in the student, the planner's included."""
    val: dict[str, float]
    """Terms of the loss on the held-out frames after the last epoch."""
    l2_m: Numbers
    """Open-loop error in metres, the complete mask, by the columns of ``student.open_loop.metrics``."""
    cosine: float
    """Likeness of the student's planning token to the teacher's."""


class Sweep(BaseModel):
    """The outcomes of some recipes on one dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    """Digest of the dataset."""
    outcomes: tuple[Outcome, ...]
    diverged: dict[str, str]
    """Why a recipe came to nothing."""
    others: dict[str, Numbers]
    """The same error of drivers that were not trained."""

    def __rich__(self) -> Group:
        """Show errors and terms of the loss as tables that fit a narrow terminal."""
        errors = Table(title="Open-loop L2 up to, in metres; likeness of the token", title_justify="left")
        errors.add_column("preset")
        for heading in ("1 s", "2 s", "3 s", "mean", "cosine"):
            errors.add_column(heading, no_wrap=True, justify="right")
        for done in self.outcomes:
            row = (_shown(done.l2_m[name]) for name in SHOWN)
            errors.add_row(done.preset, *row, f"{done.cosine:.3f}")
        errors.add_section()
        for driver, error in self.others.items():
            errors.add_row(driver.replace("_", " "), *(_shown(error[name]) for name in SHOWN))
        names = list(dict.fromkeys(name for done in self.outcomes for name in done.val))
        terms = Table(title="Terms of the loss, held-out", title_justify="left")
        terms.add_column("preset")
        for name in names:
            terms.add_column(name.partition(":")[2] or name, justify="right")
        for done in self.outcomes:
            terms.add_row(done.preset, *(_shown(done.val.get(name)) for name in names))
        return Group(errors, terms, *(f"{name} diverged: {why}" for name, why in self.diverged.items()))


def sweep(
    dataset_path: str | Path,
    folder: Path,
    presets: Sequence[str],
    *,
    changes: Mapping[str, Any] | None = None,
    device: str = "cpu",
    resident: Resident = "none",
    trackers: Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> Sweep:
    """Train and evaluate recipes one after another; write ``sweep.json`` into the folder.

    Run again, it goes on where it was: what is trained to its end is only evaluated.

    Args:
        dataset_path: A latent dataset with held-out clips.
        folder: Takes a run's folder for each recipe.
        presets: Names of recipes, or the user's own as ``package.module:NAME``.
        changes: Fields of the recipes that are the same for all.
        device: Torch device.
        resident: Where the training frames stay.
        trackers: Experiment trackers, as ``train`` takes them.
        progress: Counts steps of the recipe that is trained.

    Raises:
        RequestError: There is no such recipe, nothing to compare on, or a change does not fit.
        TeachonceError: As ``train`` and ``evaluate`` raise; a run that diverges is told in the table.
    """
    recipes = {name: preset(name, changes or {}) for name in dict.fromkeys(presets)}
    dataset = LatentDataset.open(dataset_path)
    if not recipes or not any(dataset.clip(name).split == "val" for name in dataset.clips):
        raise RequestError(
            "there is nothing to compare" + (": the dataset has no held-out clips" if recipes else ""),
            expected="at least one preset, and a dataset with clips of the split 'val'",
            repair="name presets, or extract validation clips with --split val",
        )
    outcomes, diverged, others, digest = [], {}, {}, ""
    for name, recipe in recipes.items():
        run = folder / re.sub(r"[^\w.-]", "-", name)
        try:
            progress.reach(0, name)
            train(
                dataset_path,
                run,
                recipe,
                device=device,
                resident=resident,
                trackers=trackers,
                progress=progress,
            )
        except DivergenceError as error:
            diverged[name] = error.happened
            continue
        evaluation = evaluate(run, dataset_path, device=device)
        reached, weights = read_checkpoint(run)
        digest = reached.trained_on.digest
        last = [line for line in read_log(run) if line["kind"] == "epoch"][-1]
        outcomes.append(
            Outcome(
                preset=name,
                run=run.name,
                epochs=reached.epoch,
                weights=sum(value.numel() for value in weights.values()),
                val=last["val"],
                l2_m=evaluation.l2_m["student"]["complete"],
                cosine=evaluation.token.cosine.value,
            )
        )
        others = {
            driver: masks["complete"] for driver, masks in evaluation.l2_m.items() if driver != "student"
        }
    table = Sweep(dataset=digest, outcomes=tuple(outcomes), diverged=diverged, others=others)
    write_durably(folder / NAME, table.model_dump_json(indent=1).encode())
    return table


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
