"""Whether one evaluation is better than another, route by route (spec: closed loop, section 4.7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict

from cache_schema.errors import RequestError
from student.scoring import statistics
from student.scoring.result import BROKEN_OFF, Score
from student.scoring.shown import INTERVALS, Shown, ends, fraction, named, number, on_terminal, words
from student.scoring.statistics import Interval

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Group

    from student.scoring.result import RouteScore


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Paired(_Record):
    """First minus second, over the same routes."""

    routes: int
    first: float
    second: float
    difference: float
    standard_deviation: float | None
    standard_error: float | None
    interval_routes: Interval | None
    """95 %: paired bootstrap over routes."""
    interval_scenarios: Interval | None
    """95 %: paired bootstrap over scenario types."""
    routes_differing: int
    success_difference: float
    success_only_first: int | None
    """Routes; None, as are those below, where one was driven several times."""
    success_only_second: int | None
    success_both: int | None
    mcnemar_p: float | None
    """Exact, two-sided."""

    @property
    def distinguishable(self) -> bool:
        """Whether all intervals that there are lie on one side of 0."""
        return bool(self._intervals) and not any(low <= 0 <= high for low, high in self._intervals)

    @property
    def _intervals(self) -> list[Interval]:
        return [found for found in (self.interval_routes, self.interval_scenarios) if found is not None]


class Comparison(_Record):
    """Two evaluations on the same routes."""

    first: Score
    second: Score
    official: Paired
    """Over all routes of the list; those without a record count 0."""
    common: Paired | None
    """Over the routes that both drove: to find out why, not to report."""
    verdict: str

    def __rich__(self) -> Group:
        """Show it as tables."""
        return on_terminal(self.tables(), self.notes())

    def tables(self) -> Iterator[Shown]:
        """Return both scores side by side, and their paired differences."""
        first, second = self.first, self.second
        for name, score in (("First", first), ("Second", second)):
            overview = next(score.tables())
            yield overview._replace(title=f"{name}: {overview.title}")
        yield Shown(
            "Abilities, successes of routes with a record",
            ("", "first", "second"),
            tuple(
                (words(name), fraction(count), fraction(second.abilities.successes[name]))
                for name, count in first.abilities.successes.items()
            ),
        )
        sides = [("official", self.official)]
        if self.common is not None:
            sides.append(("diagnostic", self.common))
        yield Shown(
            "Driving score, first - second",
            ("", "routes", "differ", "first", "second", "difference", "95 %, routes", "95 %, scenario types"),
            tuple(_score_row(name, paired) for name, paired in sides),
        )
        yield Shown(
            "Success, first - second",
            ("", "difference, %", "only first", "only second", "both", "McNemar p"),
            tuple(_success_row(name, paired) for name, paired in sides),
        )

    def notes(self) -> Iterator[str]:
        """Say what a reader has to know of a comparison, the verdict last."""
        for name, score in (("First", self.first), ("Second", self.second)):
            if score.rehearsal is not None:
                yield f"{name}: a rehearsal ({score.rehearsal}), and no score of Bench2Drive."
            if score.missing:
                yield f"{name}, without a record and counted 0: {named(score.missing)}."
            if score.broken_off:
                yield f"{name}: {BROKEN_OFF}: {named(score.broken_off)}."
            yield f"{name}: {score.driven_with()}"
        yield "Official: all routes, those without a record count 0. Diagnostic: routes that both drove."
        yield INTERVALS
        yield self.verdict


def compare(first: Score, second: Score) -> Comparison:
    """Compare two evaluations.

    Raises:
        RequestError: They are of different lists of routes.
    """
    pairs = list(zip(first.routes, second.routes, strict=False))
    if len(first.routes) != len(second.routes) or any(a.id != b.id for a, b in pairs):
        raise RequestError(
            f"{first.results} is scored over {first.route_list}, {second.results} over {second.route_list}",
            expected="two scores over the same routes",
            repair="score both over one list",
        )
    if first.rehearsal != second.rehearsal:
        raise RequestError(
            "one of two evaluations is a rehearsal",
            expected="two in the simulator, or two rehearsals of one kind",
            repair="compare like with like",
        )
    single = first.repetitions == second.repetitions == 1
    official = _paired(pairs, single)
    common = [(a, b) for a, b in pairs if a.drives and b.drives]
    return Comparison(
        first=first,
        second=second,
        official=official,
        common=_paired(common, single) if common else None,
        verdict=_verdict(official, min(first.repetitions, second.repetitions)),
    )


def _paired(pairs: Sequence[tuple[RouteScore, RouteScore]], single: bool) -> Paired:
    scores = np.array([[a.driving_score, b.driving_score] for a, b in pairs])  # (N, 2)
    success = np.array([[a.success, b.success] for a, b in pairs])  # (N, 2)
    difference = scores[:, 0] - scores[:, 1]
    deviation = statistics.spread(difference)
    first, second = success.astype(bool).T
    only = [int((first & ~second).sum()), int((second & ~first).sum())]
    return Paired(
        routes=len(pairs),
        first=float(scores[:, 0].mean()),
        second=float(scores[:, 1].mean()),
        difference=float(difference.mean()),
        standard_deviation=deviation,
        standard_error=None if deviation is None else deviation / len(pairs) ** 0.5,
        interval_routes=statistics.over_routes(difference),
        interval_scenarios=statistics.over_scenarios(difference, [a.scenario for a, _ in pairs]),
        routes_differing=int(np.count_nonzero(difference)),
        success_difference=float((success[:, 0] - success[:, 1]).mean()),
        success_only_first=only[0] if single else None,
        success_only_second=only[1] if single else None,
        success_both=int((first & second).sum()) if single else None,
        mcnemar_p=statistics.mcnemar(*only) if single else None,
    )


def _verdict(official: Paired, repetitions: int) -> str:
    runs = "one run" if repetitions == 1 else f"{repetitions} runs"
    if official.distinguishable:
        better = "first" if official.difference > 0 else "second"
        return f"The {better} has the higher driving score in {runs}: no interval holds 0."
    why = "an interval of their difference holds 0" if official.routes > 1 else "one route has no interval"
    return f"The driving scores are not distinguishable in {runs}: {why}."


def _score_row(name: str, paired: Paired) -> tuple[str, ...]:
    return (
        name,
        str(paired.routes),
        str(paired.routes_differing),
        number(paired.first),
        number(paired.second),
        f"{paired.difference:+.2f}",
        ends(paired.interval_routes),
        ends(paired.interval_scenarios),
    )


def _success_row(name: str, paired: Paired) -> tuple[str, ...]:
    counts = (paired.success_only_first, paired.success_only_second, paired.success_both)
    return (
        name,
        f"{100 * paired.success_difference:+.2f}",
        *("-" if count is None else str(count) for count in counts),
        "-" if paired.mcnemar_p is None else f"{paired.mcnemar_p:.2g}",
    )
