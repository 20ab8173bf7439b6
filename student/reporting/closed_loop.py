"""A page about a closed-loop evaluation, or about two of them side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

from cache_schema.storage.atomic_io import write_durably
from cache_schema.storage.paths import refuse_to_replace
from student.reporting.html import PAGE_START, details, figure, page, paragraph, section, table
from student.reporting.svg import COLOURS, STYLE, legend_below, panels, plain, svg
from student.scoring.comparison import Comparison
from student.scoring.shown import Shown, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from student.scoring.result import Score


def write_page(found: Score | Comparison, target: Path) -> None:
    """Write a page that needs nothing outside it.

    Raises:
        RequestError: The file would replace one that is no such page.
    """
    refuse_to_replace(target, PAGE_START, "a page by teachonce")
    write_durably(target, page("Closed loop", _sections(found)).encode())


def _sections(found: Score | Comparison) -> Iterator[str]:
    scores = [found.first, found.second] if isinstance(found, Comparison) else [found]
    yield from map(paragraph, found.notes())
    yield from map(_section, found.tables())
    yield section(
        "Driving score by scenario type",
        [
            figure(svg(scores_by_scenario(scores)), "Lowest on top; in brackets the routes."),
            details("In numbers", [_table(scenario_table(scores))]),
        ],
    )
    yield _section(infraction_table(scores))


@mpl.rc_context(STYLE)
def scores_by_scenario(scores: Sequence[Score]) -> Figure:
    """Draw the driving score of every scenario type, one point for each evaluation."""
    order = sorted(
        range(len(scores[0].scenarios)), key=lambda number: -scores[0].scenarios[number].driving_score
    )
    figure, (ax,) = panels(1, columns=1, width=8.4, height=0.9 + 0.17 * len(order))
    names = ["driving score"] if len(scores) == 1 else ["first", "second"]
    for number, (name, score) in enumerate(zip(names, scores, strict=True)):
        values = [score.scenarios[place].driving_score for place in order]
        ax.plot(values, range(len(order)), "o", color=COLOURS[number], markersize=4, alpha=0.8, label=name)
    kinds = [scores[0].scenarios[place] for place in order]
    ax.set_yticks(range(len(order)), [f"{kind.scenario} ({kind.routes})" for kind in kinds])
    ax.set(xlim=(-2, 102), ylim=(-0.6, len(order) - 0.4))
    plain(ax, "", xlabel="driving score")
    if len(scores) > 1:
        legend_below(figure, ax)
    return figure


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
        tuple((words(kind), *(str(score.infractions.get(kind, 0)) for score in scores)) for kind in kinds),
    )


def _section(shown: Shown) -> str:
    return section(shown.title, [_table(shown)])


def _table(shown: Shown) -> str:
    return table(shown.head, shown.rows)
