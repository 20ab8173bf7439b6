"""Scores and comparisons as tables, for a terminal and for a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.console import Group
from rich.table import Table

from student.flatten import flatten
from student.scoring.abilities import TRAFFIC_SIGNS
from student.scoring.conditions import WANTED
from student.scoring.statistics import CONFIDENCE, RESAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from student.scoring.abilities import Count
    from student.scoring.comparison import Comparison, Paired
    from student.scoring.score import Mean, Score
    from student.scoring.statistics import Interval

INTERVALS = (
    f"Intervals of {CONFIDENCE:.0%}: {RESAMPLES} bootstrap resamples of routes, or of whole scenario types; "
    "Wilson's for success over routes."
)
LONGEST = 40
"""Characters of a condition that are shown."""
LISTED = 12
"""Names that are written out before the others are only counted."""


class Shown(NamedTuple):
    """One table, whoever draws it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """The first column is text, the others are numbers."""


def score_tables(score: Score) -> Iterator[Shown]:
    """Show what a score is made of."""
    runs = "1 run" if score.repetitions == 1 else f"{score.repetitions} runs"
    yield Shown(
        f"{score.results}: {score.route_list}, {len(score.routes)} routes, {runs}, {score.drives} drives",
        ("", "value", "95 %, routes", "95 %, scenario types", "standard error", "÷ present, unofficial"),
        (_mean_row("driving score", score.driving_score, 1), _mean_row("success, %", score.success, 100)),
    )
    yield Shown("Abilities, of routes with a record", ("", "successes", "%"), tuple(_abilities(score)))
    yield Shown("Over drives", ("", "mean", "drives"), tuple(_measures(score)))
    yield Shown("Status", ("", "drives"), tuple((name, str(n)) for name, n in score.statuses.items()))


def score_notes(score: Score) -> Iterator[str]:
    """Say what a reader has to know of a score."""
    if score.rehearsal is not None:
        yield f"A rehearsal ({score.rehearsal}), and no score of Bench2Drive: never beside its numbers."
    if score.missing:
        yield f"Without a record, and counted 0: {named(score.missing)}."
    if score.driving_score.standard_error_repetitions is not None:
        error = score.driving_score.standard_error_repetitions
        yield f"Standard error of the driving score by its repetitions: {error:.2f}."
    if not score.abilities.versions:
        yield f"{TRAFFIC_SIGNS}: successes only, no map; no mean ability. See --junctions."
    if score.efficiency.left_out:
        yield f"Without efficiency, all values being above 1000 %: {named(score.efficiency.left_out)}."
    smooth = score.smoothness
    for what, names in (
        ("Not driven to an end, to be driven again", score.broken_off),
        ("Without smoothness: too few steps", smooth.left_out if smooth else ()),
        ("Without smoothness: no record of the motion", smooth.without_motion if smooth else ()),
        ("Routes outside the list, which do not count", score.outside),
        ("Files without any record", score.without_records),
        ("Files that are no results, or repeat others", score.not_read),
        ("Records that others replace", score.dropped),
    ):
        if names:
            yield f"{what}: {named(names)}."
    for file in score.stopped:
        yield (
            f"{file.file} stops after {file.done} of {file.routes} routes. Bench2Drive's --resume would go "
            f"on from number {file.resumes_at + 1}, and drive {file.again} good ones again."
        )
    yield conditions(score)
    yield INTERVALS


def conditions(score: Score) -> str:
    """Say under what an evaluation was driven, as far as that is known."""
    of = score.conditions
    told = {name: value for name, value in flatten(of.told).items() if isinstance(value, str | int | float)}
    known = {"runs": score.repetitions, "attempts": of.attempts, **dict.fromkeys(WANTED), **told}
    listed = ", ".join(
        f"{_words(name)} {'not recorded' if value is None else str(value)[:LONGEST]}"
        for name, value in known.items()
    )
    again = tuple(f"{route}, {count} times" for route, count in of.repeated.items())
    return f"Driven with: {listed}{f'; begun again: {named(again)}' if again else ''}."


def comparison_tables(comparison: Comparison) -> Iterator[Shown]:
    """Show two scores side by side, and their paired differences."""
    first, second = comparison.first, comparison.second
    for name, score in (("First", first), ("Second", second)):
        overview = next(score_tables(score))
        yield overview._replace(title=f"{name}: {overview.title}")
    yield Shown(
        "Abilities, successes of routes with a record",
        ("", "first", "second"),
        tuple(
            (_words(name), _count(count), _count(second.abilities.successes[name]))
            for name, count in first.abilities.successes.items()
        ),
    )
    sides = [("official", comparison.official)]
    if comparison.common is not None:
        sides.append(("diagnostic", comparison.common))
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


def comparison_notes(comparison: Comparison) -> Iterator[str]:
    """Say what a reader has to know of a comparison, the verdict last."""
    for name, score in (("First", comparison.first), ("Second", comparison.second)):
        if score.rehearsal is not None:
            yield f"{name}: a rehearsal ({score.rehearsal}), and no score of Bench2Drive."
        if score.missing:
            yield f"{name}, without a record and counted 0: {named(score.missing)}."
        yield f"{name}: {conditions(score)}"
    yield f"Official: all routes, those without a record count 0. Diagnostic: routes that both drove. {INTERVALS}"
    yield comparison.verdict


def scenario_table(scores: Sequence[Score]) -> Shown:
    """Show the driving score and the success of every scenario type, side by side for two evaluations."""
    names = ("",) if len(scores) == 1 else (", first", ", second")
    heads = [f"{what}{name}" for name in names for what in ("driving score", "success, %")]
    return Shown(
        "By scenario type; routes without a record count 0",
        ("", "routes", *heads),
        tuple(
            (
                one[0].scenario,
                str(one[0].routes),
                *(text for s in one for text in (f"{s.driving_score:.2f}", f"{100 * s.success:.1f}")),
            )
            for one in zip(*(score.scenarios for score in scores), strict=True)
        ),
    )


def infraction_table(scores: Sequence[Score]) -> Shown:
    """Show how often each infraction happened."""
    names = ("events",) if len(scores) == 1 else ("events, first", "events, second")
    kinds = dict.fromkeys(kind for score in scores for kind in score.infractions)
    return Shown(
        "Infractions over all drives",
        ("", *names),
        tuple((_words(kind), *(str(score.infractions.get(kind, 0)) for score in scores)) for kind in kinds),
    )


def on_terminal(shown: Iterable[Shown], notes: Iterable[str]) -> Group:
    """Draw tables and notes for a terminal."""
    parts: list[Table | str] = []
    for one in shown:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for number, heading in enumerate(one.head):
            table.add_column(heading, justify="right" if number else "left", overflow="fold")
        for row in one.rows:
            table.add_row(*row)
        parts += [one.title, table, ""]
    return Group(*parts, *notes)


def named(names: Sequence[str]) -> str:
    """Return how many there are, and the first of them."""
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} ({', '.join(names[:LISTED])}{more})"


def _mean_row(name: str, mean: Mean, factor: float) -> tuple[str, ...]:
    return (
        name,
        _number(mean.value, factor),
        _interval(mean.interval_routes, factor),
        _interval(mean.interval_scenarios, factor),
        _number(mean.standard_error, factor),
        _number(mean.present, factor),
    )


def _abilities(score: Score) -> Iterator[tuple[str, ...]]:
    for name, count in score.abilities.successes.items():
        yield _words(name), _count(count), _number(count.share, 100)
    for version, of in score.abilities.versions.items():
        yield (
            f"{_words(TRAFFIC_SIGNS)}, {version}",
            _count(of.traffic_signs),
            _number(of.traffic_signs.share, 100),
        )
        yield f"mean, {version}", "", _number(of.mean, 100)


def _measures(score: Score) -> Iterator[tuple[str, ...]]:
    yield "route completion, %", _number(score.route_completion), str(score.drives)
    yield "efficiency, %", _number(score.efficiency.value), str(score.efficiency.drives)
    smooth = score.smoothness
    if smooth is not None:
        yield "smoothness, %", _number(smooth.value, 100), str(smooth.drives)
        yield "same, yaw in rad/s, unofficial", _number(smooth.value_radians, 100), str(smooth.drives)


def _score_row(name: str, paired: Paired) -> tuple[str, ...]:
    return (
        name,
        str(paired.routes),
        str(paired.routes_differing),
        _number(paired.first),
        _number(paired.second),
        f"{paired.difference:+.2f}",
        _interval(paired.interval_routes),
        _interval(paired.interval_scenarios),
    )


def _success_row(name: str, paired: Paired) -> tuple[str, ...]:
    counts = (paired.success_only_first, paired.success_only_second, paired.success_both)
    return (
        name,
        f"{100 * paired.success_difference:+.2f}",
        *("-" if count is None else str(count) for count in counts),
        "-" if paired.mcnemar_p is None else f"{paired.mcnemar_p:.2g}",
    )


def _number(value: float | None, factor: float = 1) -> str:
    return "-" if value is None else f"{factor * value:.2f}"


def _interval(interval: Interval | None, factor: float = 1) -> str:
    return "-" if interval is None else "..".join(f"{factor * end:.1f}" for end in interval)


def _count(count: Count) -> str:
    return f"{count.well}/{count.of}"


def _words(name: str) -> str:
    return name.replace("_", " ")
