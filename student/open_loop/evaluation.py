"""What an open-loop evaluation found: the content of ``evaluation.json``, and how it is shown.

``evaluation.safetensors`` beside it holds every frame (N frames, T steps, C codes, P pictures, W worst
frames):

    <policy>, ground_truth         (N, T, 2)  positions, metres
    mask                           (N, T)     steps whose ground truth is known
    clip, frame_index              (N)        index into ``clips``; number of the raw frame
    l2.<policy>                    (N, 8)     ``student.open_loop.metrics.COLUMNS``
    collision.<policy>.<variant>   (N, T)     steps that collide; ``student.open_loop.collisions.VARIANTS``
    similarity.<feature>.cosine, similarity.<feature>.relative   (N)   the student's feature to the teacher's
    codes.<whose>                  (N, C)     codes of a frame, of systems that tell such
    driven.<quantity>              (N)        what these codes are probed for
    picture, worst                 (P), (W)   rows of ``pictures`` and ``worst``
    <feature>, worst.<feature>     (P, ...), (W, ...)  what pictures show of those rows

L2 and collisions are meaningful where a whole row of ``mask`` is true.
"""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field
from rich import box
from rich.console import Group as Renderables
from rich.table import Table

from student.open_loop.bootstrap import CONFIDENCE, RESAMPLES, Estimate, Interval
from student.open_loop.collisions import VARIANTS
from student.open_loop.ground_truth import Mask
from student.open_loop.metrics import COLUMNS, RATE_COLUMNS
from student.system import Evaluation

COLLISION_COLUMNS = tuple(f"{variant}_{column}" for variant in VARIANTS for column in RATE_COLUMNS)
"""Shares of steps that collide: the variant, up to which horizon."""
GROUP_COLUMNS = ("up_to_mean", "at_mean", "box_as_published_mean", "box_corrected_mean")
"""The columns that are computed for each group."""

INTERVAL = f"{CONFIDENCE:.0%}"
HORIZONS = ("1 s", "2 s", "3 s", "mean", INTERVAL)
"""Headings of a row of the tables."""

PolicyName = str
By = Literal["command", "scenario", "town", "weather"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Similarity(_Record):
    """A feature that the student imitates, compared with the teacher's, over all frames."""

    absolute: Estimate
    """Mean absolute difference of an element."""
    relative: Estimate
    """Norm of the difference over the norm of the teacher's."""
    cosine: Estimate


SIMILARITIES = ("cosine", "relative", "absolute")
"""Columns of ``Plans.similarity``."""


class Group(_Record):
    """The frames that have something in common, in the complete mask."""

    by: By
    name: str
    clips: int
    frames: int
    means: dict[PolicyName, dict[str, Estimate]]
    """``GROUP_COLUMNS`` of every policy."""


class OpenLoopEvaluation(Evaluation):
    """Open-loop errors of every policy, in both readings of the mask."""

    kind: Literal["open-loop"] = "open-loop"
    clips: tuple[str, ...]
    frames: dict[Mask, int]
    """Frames that count: those with every step of the ground truth known."""
    l2_m: dict[PolicyName, dict[Mask, dict[str, float | None]]]
    """Metres for each of ``COLUMNS``; None where no frame counts."""
    collision: dict[PolicyName, dict[Mask, dict[str, float | None]]]
    """Share of steps for each of ``COLLISION_COLUMNS``; empty where the dataset does not hold the
    ground truth of other road users."""
    interval: dict[PolicyName, dict[Mask, dict[str, Interval | None]]]
    """Of both; None where all frames are of one clip."""
    similarity: dict[str, Similarity]
    """Feature that the student imitates -> how similar it is to the teacher's."""
    measures: dict[str, Estimate] = Field(default_factory=dict)
    """What its system measures besides, by name: means over all frames."""
    groups: tuple[Group, ...]
    crowded_frames: int | None
    """Frames with more agents than the ground truth has places for; None where that is not known."""
    missing: tuple[str, ...]
    """What could not be measured, and what to do about it."""
    pictures: tuple[str, ...]
    """Clip and frame of each picture that the run's report shows."""
    worst: tuple[str, ...]
    """Clip and frame of the student's largest errors, at most one a second of a clip."""

    def numbers(self) -> dict[str, float | None]:
        """Return the student's L2 by column, its cosines, and what its system measures besides."""
        besides = {name: found.value for name, found in self._besides().items()}
        return {**self.l2_m["student"]["complete"], **besides}

    def intervals(self) -> dict[str, Interval]:
        """See ``Evaluation``."""
        errors, spread = self.l2_m["student"]["complete"], self.interval["student"]["complete"]
        found = {name: spread.get(name) for name in errors}
        found |= {name: estimate.interval for name, estimate in self._besides().items()}
        return {name: interval for name, interval in found.items() if interval is not None}

    def _besides(self) -> dict[str, Estimate]:
        return {f"cosine {name}": found.cosine for name, found in self.similarity.items()} | self.measures

    def __rich__(self) -> Renderables:
        """Show it as tables that fit 80 columns."""
        tables = [self._l2_table()]
        if self.collision:
            tables.append(self._collision_table())
        tables += [self._group_table(by) for by in get_args(By)]
        lines = [
            f"{words(name)}: cosine {_with_interval(found.cosine)}, "
            f"relative error {_with_interval(found.relative)}, "
            f"mean absolute difference {_with_interval(found.absolute)}"
            for name, found in self.similarity.items()
        ]
        lines += [f"{words(name)}: {_with_interval(found)}" for name, found in self.measures.items()]
        lines.append(f"intervals: {CONFIDENCE:.0%}, {RESAMPLES} bootstrap resamples of whole clips")
        if self.crowded_frames:
            lines.append(
                f"{self.crowded_frames} frames have more agents than the ground truth has places for"
            )
        titled = (part for title, table in tables for part in (title, table, ""))
        return Renderables(*titled, *lines, *self.missing)

    def _l2_table(self) -> tuple[str, Table]:
        counted = ", ".join(f"{count} in the {mask} mask" for mask, count in self.frames.items())
        table = _table(("policy", "mask", "L2"), HORIZONS)
        for policy, masks in self.l2_m.items():
            for mask, row in masks.items():
                for definition, columns in (("up to", COLUMNS[:4]), ("at", COLUMNS[4:])):
                    values = [shown(row[name]) for name in columns]
                    spread = _shown_interval(self.interval[policy][mask][columns[-1]], 2)
                    table.add_row(words(policy), mask, definition, *values, spread)
            table.add_section()
        return f"Open-loop L2 in metres, split {self.split}; frames: {counted}", table

    def _collision_table(self) -> tuple[str, Table]:
        table = _table(("policy", "variant"), HORIZONS)
        for policy, masks in self.collision.items():
            row, intervals = masks["complete"], self.interval[policy]["complete"]
            for variant in VARIANTS:
                columns = [f"{variant}_{column}" for column in RATE_COLUMNS]
                values = [shown(row[name], 2, 100) for name in columns]
                spread = _shown_interval(intervals[columns[-1]], 2, 100)
                table.add_row(words(policy), words(variant), *values, spread)
            table.add_section()
        return "Steps that collide, in percent, complete mask", table

    def _group_table(self, by: By) -> tuple[str, Table]:
        teacher = ("teacher",) if "teacher" in self.l2_m else ()
        table = _table((by,), ("clips", "frames", "student", INTERVAL, *teacher))
        for group in (group for group in self.groups if group.by == by):
            student = group.means["student"]["up_to_mean"]
            spread = _shown_interval(student.interval, 2)
            others = [shown(group.means[policy]["up_to_mean"].value) for policy in teacher]
            counts = str(group.clips), str(group.frames)
            table.add_row(group.name, *counts, shown(student.value), spread, *others)
        return f"By {by}: mean L2 up to 1, 2 and 3 s in metres, complete mask", table


def shown(value: float | None, digits: int = 3, factor: float = 1.0) -> str:
    """Return a number with its decimals, or a dash where nothing was measured."""
    return "-" if value is None else f"{factor * value:.{digits}f}"


def shown_of_any_size(value: float | None) -> str:
    """Return a number that may be small, with some digits; a dash where nothing was measured."""
    return f"{value:.2e}" if value and abs(value) < 0.01 else shown(value)


def _shown_interval(interval: Interval | None, digits: int = 3, factor: float = 1.0) -> str:
    """Return both ends, or a dash where there are none."""
    return "-" if interval is None else "..".join(shown(end, digits, factor) for end in interval)


def _with_interval(estimate: Estimate) -> str:
    """Return a mean and its interval."""
    spread = "" if estimate.interval is None else f" ({_shown_interval(estimate.interval)})"
    return shown(estimate.value) + spread


def words(name: str) -> str:
    """Return a name as it is shown."""
    return name.replace("_", " ")


def _table(texts: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in (*texts, *numbers):
        table.add_column(heading, no_wrap=True, justify="right" if heading in numbers else "left")
    return table
