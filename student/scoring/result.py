"""What one evaluation is worth: the content of ``score --json``, and how it is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from student.flatten import flatten
from student.scoring.abilities import TRAFFIC_SIGNS, Abilities
from student.scoring.conditions import WANTED, Conditions
from student.scoring.resume import Stopped
from student.scoring.shown import INTERVALS, Shown, ends, fraction, named, number, on_terminal, words
from student.scoring.statistics import Interval

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Group

BROKEN_OFF = "Not driven to an end, to be driven again"
LONGEST = 40
"""Characters of a condition that are shown."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RouteScore(_Record):
    """One route of the list."""

    id: str
    town: str
    scenario: str
    drives: int
    """Repetitions with a record."""
    driving_score: float
    """0 to 100; mean over repetitions, 0 for those without a record."""
    success: float
    """Share of the repetitions; 0 or 1 where there is one."""


class Mean(_Record):
    """A mean over all routes of the list."""

    value: float
    present: float | None
    """Over the drives that have a record: not official."""
    standard_deviation: float | None
    """Over routes."""
    standard_error: float | None
    interval_routes: Interval | None
    """95 %: bootstrap over routes; of a share, Wilson's."""
    interval_scenarios: Interval | None
    """95 %: bootstrap over scenario types."""
    standard_error_repetitions: float | None
    """By the spread of whole repetitions."""


class Measure(_Record):
    """A mean over drives."""

    value: float | None
    drives: int
    """That have a value."""
    left_out: tuple[str, ...]
    """Drives whose values Bench2Drive's script cannot average."""


class Smoothness(Measure):
    """Share of smooth chunks of a drive, averaged over drives."""

    value_radians: float | None
    """With yaw rates in radians, as the bounds mean them; not official."""
    without_motion: tuple[str, ...]
    """Drives without ``metric_info.json``."""


class ScenarioScore(_Record):
    """The routes of one scenario type; those without a record count 0."""

    scenario: str
    routes: int
    driving_score: float
    success: float


class Score(_Record):
    """What one evaluation is worth. Scores are 0 to 100, shares 0 to 1."""

    results: str
    rehearsal: str | None
    """What stood in for the simulator: such a score is none of Bench2Drive's."""
    route_list: str
    repetitions: int
    drives: int
    missing: tuple[str, ...]
    """Routes without a record, or their repetitions."""
    driving_score: Mean
    success: Mean
    route_completion: float | None
    """Percent, mean over drives."""
    abilities: Abilities
    efficiency: Measure
    smoothness: Smoothness | None
    scenarios: tuple[ScenarioScore, ...]
    broken_off: tuple[str, ...]
    """Drives that the simulator ended, or nothing has: they count by their record."""
    statuses: dict[str, int]
    infractions: dict[str, int]
    """Events over all drives."""
    conditions: Conditions
    outside: tuple[str, ...]
    """Routes with records that are not on the list, and do not count."""
    stopped: tuple[Stopped, ...]
    without_records: tuple[str, ...]
    not_read: tuple[str, ...]
    dropped: tuple[str, ...]
    routes: tuple[RouteScore, ...]

    def __rich__(self) -> Group:
        """Show it as tables."""
        return on_terminal(self.tables(), self.notes())

    def tables(self) -> Iterator[Shown]:
        """Return what it is made of."""
        runs = "1 run" if self.repetitions == 1 else f"{self.repetitions} runs"
        yield Shown(
            f"{self.results}: {self.route_list}, {len(self.routes)} routes, {runs}, {self.drives} drives",
            ("", "value", "95 %, routes", "95 %, scenario types", "standard error", "÷ present, unofficial"),
            (_mean_row("driving score", self.driving_score, 1), _mean_row("success, %", self.success, 100)),
        )
        yield Shown("Abilities, of routes with a record", ("", "successes", "%"), tuple(self._abilities()))
        yield Shown("Over drives", ("", "mean", "drives"), tuple(self._measures()))
        yield Shown("Status", ("", "drives"), tuple((name, str(n)) for name, n in self.statuses.items()))

    def notes(self) -> Iterator[str]:
        """Say what a reader has to know of it."""
        if self.rehearsal is not None:
            yield f"A rehearsal ({self.rehearsal}), and no score of Bench2Drive: never beside its numbers."
        if self.missing:
            yield f"Without a record, and counted 0: {named(self.missing)}."
        if self.driving_score.standard_error_repetitions is not None:
            error = self.driving_score.standard_error_repetitions
            yield f"Standard error of the driving score by its repetitions: {error:.2f}."
        if not self.abilities.versions:
            yield f"{TRAFFIC_SIGNS}: successes only, no map; no mean ability. See --junctions."
        if self.efficiency.left_out:
            yield f"Without efficiency, all values being above 1000 %: {named(self.efficiency.left_out)}."
        smooth = self.smoothness
        for what, names in (
            (BROKEN_OFF, self.broken_off),
            ("Without smoothness: too few steps", smooth.left_out if smooth else ()),
            ("Without smoothness: no record of the motion", smooth.without_motion if smooth else ()),
            ("Routes outside the list, which do not count", self.outside),
            ("Files without any record", self.without_records),
            ("Files that are no results, or repeat others", self.not_read),
            ("Records that others replace", self.dropped),
        ):
            if names:
                yield f"{what}: {named(names)}."
        for file in self.stopped:
            yield (
                f"{file.file} stops after {file.done} of {file.routes} routes. Bench2Drive's --resume would "
                f"go on from number {file.resumes_at + 1}, and drive {file.again} good ones again."
            )
        yield self.driven_with()
        yield INTERVALS

    def driven_with(self) -> str:
        """Say under what an evaluation was driven, as far as that is known."""
        of = self.conditions
        told = {
            name: value for name, value in flatten(of.told).items() if isinstance(value, str | int | float)
        }
        known = {"runs": self.repetitions, "attempts": of.attempts, **dict.fromkeys(WANTED), **told}
        listed = ", ".join(
            f"{words(name)} {'not recorded' if value is None else str(value)[:LONGEST]}"
            for name, value in known.items()
        )
        again = tuple(f"{route}, {count} times" for route, count in of.repeated.items())
        return f"Driven with: {listed}{f'; begun again: {named(again)}' if again else ''}."

    def _abilities(self) -> Iterator[tuple[str, ...]]:
        for name, count in self.abilities.successes.items():
            yield words(name), fraction(count), number(count.share, 100)
        for version, of in self.abilities.versions.items():
            yield (
                f"{words(TRAFFIC_SIGNS)}, {version}",
                fraction(of.traffic_signs),
                number(of.traffic_signs.share, 100),
            )
            yield f"mean, {version}", "", number(of.mean, 100)

    def _measures(self) -> Iterator[tuple[str, ...]]:
        yield "route completion, %", number(self.route_completion), str(self.drives)
        yield "efficiency, %", number(self.efficiency.value), str(self.efficiency.drives)
        smooth = self.smoothness
        if smooth is not None:
            yield "smoothness, %", number(smooth.value, 100), str(smooth.drives)
            yield "same, yaw in rad/s, unofficial", number(smooth.value_radians, 100), str(smooth.drives)


def _mean_row(name: str, mean: Mean, factor: float) -> tuple[str, ...]:
    return (
        name,
        number(mean.value, factor),
        ends(mean.interval_routes, factor),
        ends(mean.interval_scenarios, factor),
        number(mean.standard_error, factor),
        number(mean.present, factor),
    )
