"""The score of one evaluation: driving score and success over all routes of the list, and what goes with it.

A route without a record counts 0, as Bench2Drive counts it. Means over the routes that have one are named
``present``; they are not official. Several repetitions of a route are averaged first.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from cache_schema.errors import RequestError
from student.scoring import DEFAULT, statistics
from student.scoring.abilities import abilities, read_junctions
from student.scoring.conditions import read_conditions
from student.scoring.records import CRASHED, MIN_SPEED, STARTED, Drive, of_list, read_results
from student.scoring.result import Mean, Measure, RouteScore, ScenarioScore, Score, Smoothness
from student.scoring.resume import stopped
from student.scoring.routes import RouteList, route_list
from student.scoring.smoothness import METRICS, in_radians, passing_chunks, read_motion

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from student.scoring import Keep
    from student.scoring.records import Results
    from student.scoring.statistics import Interval

PERCENT = re.compile(r"\b\d+\.?\d*%")
LARGEST_EFFICIENCY = 1000.0
"""Percent of the traffic's speed above which a message does not count."""


def score(
    results: Path,
    routes: str = DEFAULT,
    *,
    junctions: Path | None = None,
    metrics: Path | None = None,
    keep: Keep | None = None,
) -> Score:
    """Score the results of an evaluation.

    Args:
        results: A checkpoint of Bench2Drive's leaderboard, or a folder of such files.
        routes: The list to divide by: see ``student.scoring.routes.route_list``.
        junctions: Table of junctions, for Traffic_Signs and the mean ability.
        metrics: Folder with ``<save name>/metric_info.json`` of every drive, for smoothness; by default that
            in which ``teachonce drive`` puts them, if it is there.
        keep: Which record counts where a drive has several; None refuses them.

    Raises:
        RequestError: A file is damaged, a drive is recorded twice, or the results are of other routes.
    """
    read = read_results(results, keep)
    listed = route_list(routes)
    drives, outside = of_list(read.drives, listed)
    repetitions = sorted({drive.repetition for drive in drives}) or [0]
    there = {(drive.route, drive.repetition) for drive in drives}
    rows = _rows(listed, drives, len(repetitions))
    scenario_of = {route.id: route.scenario for route in listed.routes}
    motions = metrics or next((folder for folder in [results / "metrics"] if folder.is_dir()), None)
    table = None if junctions is None else read_junctions(junctions)
    return Score(
        results=str(results),
        rehearsal=_rehearsal(read),
        route_list=listed.name,
        repetitions=len(repetitions),
        drives=len(drives),
        missing=tuple(
            route.id if len(repetitions) == 1 else f"{route.id}, repetition {number}"
            for route in listed.routes
            for number in repetitions
            if (route.id, number) not in there
        ),
        driving_score=_driving_score(rows, drives, repetitions),
        success=_success(rows, drives, repetitions),
        route_completion=_mean([drive.scores.score_route for drive in drives]),
        abilities=abilities(drives, scenario_of, table),
        efficiency=_efficiency(drives),
        smoothness=None if motions is None else _smoothness(drives, motions),
        scenarios=_by_scenario(rows),
        broken_off=tuple(drive.route_id for drive in drives if drive.status in (CRASHED, STARTED)),
        statuses=dict(Counter(drive.status for drive in drives).most_common()),
        infractions={
            name: sum(len(drive.infractions.get(name, ())) for drive in drives)
            for name in dict.fromkeys(name for drive in drives for name in drive.infractions)
        },
        conditions=read_conditions(results),
        outside=outside,
        stopped=tuple(stopped(read.files)),
        without_records=tuple(name for name, file in read.files.items() if not file.checkpoint.records),
        not_read=read.not_read,
        dropped=read.dropped,
        routes=rows,
    )


def _rehearsal(read: Results) -> str | None:
    kinds = {file.rehearsal for file in read.files.values()}
    if len(kinds) > 1:
        raise RequestError(
            "some of the results are of a rehearsal, others are not, or of another one",
            expected="results of one kind",
            repair="move the files of the others away",
        )
    return kinds.pop()


def _rows(listed: RouteList, drives: Sequence[Drive], repetitions: int) -> tuple[RouteScore, ...]:
    by_route: dict[str, list[Drive]] = {}
    for drive in drives:
        by_route.setdefault(drive.route, []).append(drive)
    return tuple(
        RouteScore(
            id=route.id,
            town=route.town,
            scenario=route.scenario,
            drives=len(own := by_route.get(route.id, [])),
            driving_score=sum(drive.scores.score_composed for drive in own) / repetitions,
            success=sum(drive.success for drive in own) / repetitions,
        )
        for route in listed.routes
    )


def _driving_score(rows: Sequence[RouteScore], drives: Sequence[Drive], repetitions: Sequence[int]) -> Mean:
    values = np.array([row.driving_score for row in rows])
    return _over_list(
        values,
        rows,
        drives,
        repetitions,
        [d.scores.score_composed for d in drives],
        statistics.over_routes(values),
    )


def _success(rows: Sequence[RouteScore], drives: Sequence[Drive], repetitions: Sequence[int]) -> Mean:
    values = np.array([row.success for row in rows])
    # Repetitions of a route are no routes: its mean counts as one.
    interval = statistics.wilson(float(values.mean()), len(values))
    return _over_list(values, rows, drives, repetitions, [float(d.success) for d in drives], interval)


def _over_list(
    values: np.ndarray,
    rows: Sequence[RouteScore],
    drives: Sequence[Drive],
    repetitions: Sequence[int],
    of_drives: Sequence[float],
    interval: Interval | None,
) -> Mean:
    deviation = statistics.spread(values)
    of_each = [
        sum(value for drive, value in zip(drives, of_drives, strict=True) if drive.repetition == number)
        / len(rows)
        for number in repetitions
    ]
    between = statistics.spread(np.array(of_each))
    return Mean(
        value=float(values.mean()),
        present=_mean(of_drives),
        standard_deviation=deviation,
        standard_error=None if deviation is None else deviation / len(rows) ** 0.5,
        interval_routes=interval,
        interval_scenarios=statistics.over_scenarios(values, [row.scenario for row in rows]),
        standard_error_repetitions=None if between is None else between / len(of_each) ** 0.5,
    )


def _efficiency(drives: Sequence[Drive]) -> Measure:
    values, left_out = [], []
    for drive in drives:
        messages = drive.infractions.get(MIN_SPEED, ())
        percents = [float(found[0].rstrip("%")) for text in messages if (found := PERCENT.search(text))]
        counted = [percent for percent in percents if percent <= LARGEST_EFFICIENCY]
        if counted:
            values.append(sum(counted) / len(counted))
        elif messages:
            left_out.append(drive.route_id)
    return Measure(value=_mean(values), drives=len(values), left_out=tuple(left_out))


def _smoothness(drives: Sequence[Drive], metrics: Path) -> Smoothness:
    official, radians, left_out, without = [], [], [], []
    for drive in drives:
        path = metrics / drive.save_name / METRICS
        if not drive.save_name.strip(".") or not path.is_file():
            without.append(drive.route_id)
            continue
        motion = read_motion(path)
        chunks = passing_chunks(motion)
        if chunks is None:
            left_out.append(drive.route_id)
            continue
        official.append(sum(chunks) / len(chunks))
        radians.append(sum(passing_chunks(in_radians(motion)) or ()) / len(chunks))
    if drives and len(without) == len(drives):
        raise RequestError(
            f"{metrics} holds the motion of none of the {len(drives)} drives",
            expected=f"<save name>/{METRICS} of each, such as {drives[0].save_name}/{METRICS}",
            repair="name the folder that was SAVE_PATH in the evaluation, or score without --metrics",
        )
    return Smoothness(
        value=_mean(official),
        value_radians=_mean(radians),
        drives=len(official),
        left_out=tuple(left_out),
        without_motion=tuple(without),
    )


def _by_scenario(rows: Sequence[RouteScore]) -> tuple[ScenarioScore, ...]:
    by_name: dict[str, list[RouteScore]] = {}
    for row in rows:
        by_name.setdefault(row.scenario, []).append(row)
    return tuple(
        ScenarioScore(
            scenario=name,
            routes=len(own),
            driving_score=sum(row.driving_score for row in own) / len(own),
            success=sum(row.success for row in own) / len(own),
        )
        for name, own in sorted(by_name.items())
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
