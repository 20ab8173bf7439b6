"""What the leaderboard recorded of every drive, read from the files of an evaluation."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cache_schema.errors import RequestError
from student.scoring.conditions import CONDITIONS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from student.scoring import Keep
    from student.scoring.routes import RouteList

FINISHED = ("Completed", "Perfect")
"""Statuses of a route that was driven to its end."""
CRASHED, STARTED = "Failed - Simulation crashed", "Started"
"""Statuses of a drive that the simulator ended, or that has not ended."""
MERGED = "merged.json"
"""Part of the name of files that repeat the records of others."""
MIN_SPEED = "min_speed_infractions"
"""Messages about the speed of other traffic, which cost nothing."""

Infraction = str


class _FromLeaderboard(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Scores(_FromLeaderboard):
    """The leaderboard's scores of one drive."""

    score_route: float = Field(ge=0, le=100, allow_inf_nan=False)
    """Percent of the route that was driven."""
    score_composed: float = Field(ge=0, le=100, allow_inf_nan=False)
    """The driving score: route completion times all penalties."""


class Drive(_FromLeaderboard):
    """One route, driven once: a record of the leaderboard."""

    route_id: str = Field(pattern=r"^RouteScenario_[A-Za-z0-9-]+_rep[0-9]+$")
    scenario_name: str
    """Type and number of its scenario, such as ParkingCutIn_1."""
    town_name: str
    save_name: str = Field("", pattern=r"^[\w.-]*$")
    """Folder of what the agent stored."""
    status: str
    infractions: dict[Infraction, tuple[str, ...]]
    scores: Scores

    @property
    def route(self) -> str:
        """Id of the route."""
        return self.route_id.split("_")[1]

    @property
    def repetition(self) -> int:
        """Which time the route was driven, from 0."""
        return int(self.route_id.rpartition("_rep")[2])

    @property
    def success(self) -> bool:
        """Whether the route was driven to its end without any infraction but slowness."""
        return self.status in FINISHED and not any(
            events for name, events in self.infractions.items() if name != MIN_SPEED
        )


class _Checkpoint(_FromLeaderboard):
    records: tuple[Drive, ...]
    progress: tuple[int, int] = (0, 0)
    """How many routes are done, and of how many."""


class ResultFile(_FromLeaderboard):
    """A file of the leaderboard, as it stands after every route."""

    checkpoint: _Checkpoint = Field(alias="_checkpoint")
    entry_status: str = ""
    rehearsal: str | None = None
    """What stood in for the simulator, if anything did."""


class Results(NamedTuple):
    """The drives of an evaluation, and what else lies in its folder."""

    drives: tuple[Drive, ...]
    """Every repetition of a route at most once."""
    files: dict[str, ResultFile]
    """By name."""
    not_read: tuple[str, ...] = ()
    """Names of JSON files that hold no records, or repeat those of others."""
    dropped: tuple[str, ...] = ()
    """Records of drives that are there again, by file, which ``keep`` let go."""


def read_results(path: Path, keep: Keep | None = None) -> Results:
    """Read the files of an evaluation.

    Args:
        path: A checkpoint of the leaderboard, or a folder of such files; files inside its folders, and those
            that ``merge_route_json`` wrote, are not read.
        keep: Which record counts where a repetition of a route has several; None refuses them.

    Raises:
        RequestError: There are no results, a file is damaged, or a drive is recorded more than once.
    """
    paths = [path] if path.is_file() else sorted(path.glob("*.json"))
    merged = [file.name for file in paths if MERGED in file.name and file != path]
    read = {file.name: _read(file) for file in paths if file.name not in merged}
    files = {name: content for name, content in read.items() if content is not None}
    if not files:
        raise RequestError(
            f"{path} holds no results" if path.exists() else f"{path} does not exist",
            expected="a checkpoint of Bench2Drive's leaderboard, or a folder of such .json files",
            repair="name what --checkpoint of the evaluation named, or the folder around it",
        )
    kept, dropped = _once_each(files, keep)
    others = [name for name in read if name not in files and name != CONDITIONS]
    return Results(kept, files, (*merged, *others), dropped)


def of_list(drives: tuple[Drive, ...], listed: RouteList) -> tuple[tuple[Drive, ...], tuple[str, ...]]:
    """Return the drives on the routes of a list, in its order, and the ids of the routes outside it.

    Raises:
        RequestError: No drive is on the list, or a route is not the one that the list means.
    """
    by_id = {route.id: route for route in listed.routes}
    place = {name: number for number, name in enumerate(by_id)}
    inside = sorted(
        (drive for drive in drives if drive.route in by_id),
        key=lambda drive: (place[drive.route], drive.repetition),
    )
    if drives and not inside:
        raise RequestError(
            f"none of the {len(drives)} drives is on a route of {listed.name}",
            expected="results of an evaluation on these routes",
            repair="name the evaluation's routes with --routes",
        )
    for drive in inside:
        route = by_id[drive.route]
        scenario = re.sub(r"_[0-9]+$", "", drive.scenario_name)
        if (drive.town_name, scenario) != (route.town, route.scenario):
            raise RequestError(
                f"route {route.id} is {scenario} in {drive.town_name} by its record, and {route.scenario} in "
                f"{route.town} in {listed.name}",
                expected="results of an evaluation on the routes of the list",
                repair="name the evaluation's routes with --routes",
            )
    outside = dict.fromkeys(drive.route for drive in drives if drive.route not in by_id)
    return tuple(inside), tuple(outside)


def _read(file: Path) -> ResultFile | None:
    """Return the content of a file; None where it is no checkpoint."""
    try:
        content = json.loads(file.read_bytes())
        checkpoint = content.get("_checkpoint") if isinstance(content, dict) else None
        if not isinstance(checkpoint, dict) or "records" not in checkpoint:
            return None
        return ResultFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (ValueError, RecursionError) as error:
        why = f"it is no whole JSON: {error}"
    raise RequestError(
        f"the results {file} cannot be read: {why}",
        expected="a whole file as the leaderboard writes it",
        repair="drive its routes again, or move the file away: its routes then count as missing",
    )


def _once_each(
    files: Mapping[str, ResultFile], keep: Keep | None
) -> tuple[tuple[Drive, ...], tuple[str, ...]]:
    """Return one record of every drive, and the names of the others."""
    records: dict[tuple[str, int], list[tuple[str, Drive]]] = {}
    for name, file in files.items():
        for drive in file.checkpoint.records:
            records.setdefault((drive.route, drive.repetition), []).append((name, drive))
    if keep is None and (several := [found for found in records.values() if len(found) > 1]):
        named = (f"{found[0][1].route_id} in {' and '.join(name for name, _ in found)}" for found in several)
        raise RequestError(
            f"{len(several)} drives are recorded more than once: {'; '.join(named)}",
            expected="every repetition of a route once",
            repair="move files away, or choose with --keep first or --keep last, in the order of file names",
        )
    kept = [found.pop(-1 if keep == "last" else 0)[1] for found in records.values()]
    dropped = [f"{drive.route_id} in {name}" for found in records.values() for name, drive in found]
    return tuple(kept), tuple(dropped)
