"""Success by what a scenario asks for: Bench2Drive's five abilities (spec: Bench2Drive, section 5.2).

Routes without a record count in no numerator and no denominator. Traffic signs also ask whether a drive came
past its junction, which needs the map: a table of junctions, made once with CARLA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from student.scoring.records import Drive

_AT_JUNCTIONS = """
    NonSignalizedJunctionLeftTurn NonSignalizedJunctionRightTurn NonSignalizedJunctionLeftTurnEnterFlow
    SignalizedJunctionLeftTurn SignalizedJunctionRightTurn SignalizedJunctionLeftTurnEnterFlow
    EnterActorFlow CrossingBicycleFlow
"""
_AGAINST_OTHERS = """
    BlockedIntersection OppositeVehicleTakingPriority OppositeVehicleRunningRedLight PedestrianCrossing
    VehicleTurningRoute VehicleTurningRoutePedestrian
"""
TRAFFIC_SIGNS = "Traffic_Signs"
SCENARIOS = {
    "Overtaking": """
        Accident AccidentTwoWays ConstructionObstacle ConstructionObstacleTwoWays HazardAtSideLane
        HazardAtSideLaneTwoWays ParkedObstacle ParkedObstacleTwoWays VehicleOpensDoorTwoWays
    """,
    "Merging": f"""
        {_AT_JUNCTIONS} HighwayExit HighwayCutIn InterurbanActorFlow InterurbanAdvancedActorFlow
        MergerIntoSlowTraffic MergerIntoSlowTrafficV2 ParkingExit SequentialLaneChange
    """,
    "Emergency_Brake": f"""
        {_AGAINST_OTHERS} DynamicObjectCrossing HardBreakRoute ParkingCutIn ParkingCrossingPedestrian
        StaticCutIn ControlLoss
    """,
    "Give_Way": "InvadingTurn YieldToEmergencyVehicle",
    TRAFFIC_SIGNS: f"""
        {_AT_JUNCTIONS} {_AGAINST_OTHERS} T_Junction VanillaNonSignalizedTurn
        VanillaNonSignalizedTurnEncounterStopsign VanillaSignalizedTurnEncounterGreenLight
        VanillaSignalizedTurnEncounterRedLight
    """,
}
ABILITIES = {name: frozenset(kinds.split()) for name, kinds in SCENARIOS.items()}
"""The scenario types of each ability; some belong to two."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Count(_Record):
    """How often something came out well."""

    well: int
    of: int

    @property
    def share(self) -> float | None:
        """None where there was nothing to count."""
        return self.well / self.of if self.of else None


class Version(_Record):
    """What one version of Bench2Drive's script makes of the counts."""

    traffic_signs: Count
    mean: float | None
    """Of all five shares; None where one of them has no drive."""


class Abilities(_Record):
    """Successes by ability, as fractions; several repetitions of a route are several drives."""

    successes: dict[str, Count]
    versions: dict[str, Version] = {}
    """0.0.3, which published numbers are by, and 0.0.4; none without a table of junctions."""


class _Junction(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    fraction: Annotated[float, Field(gt=0, allow_inf_nan=False)]


_JUNCTIONS = TypeAdapter(dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)] | _Junction])


def read_junctions(path: Path) -> dict[str, float]:
    """Read a table of junctions: of each route, the fraction that leads past its first junction.

    That is (number of the first junction's point, from 1, + 8) / points, of the route's points 1 m apart.
    An entry is the fraction, or an object with a field ``fraction``.

    Raises:
        RequestError: The file is no such table.
    """
    try:
        table = _JUNCTIONS.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RequestError(
            f"the table of junctions {path} cannot be read: {where} {first['msg']}",
            expected='JSON of the form {"<route>": 0.42, ...}, or {"<route>": {"fraction": 0.42}, ...}',
            repair="make it again, or score without --junctions",
        ) from error
    return {
        route: entry.fraction if isinstance(entry, _Junction) else entry for route, entry in table.items()
    }


def abilities(
    drives: Iterable[Drive], scenario_of: Mapping[str, str], junctions: Mapping[str, float] | None
) -> Abilities:
    """Count successes by ability.

    Args:
        drives: On routes of a list.
        scenario_of: The scenario type of each route.
        junctions: Of each route of Traffic_Signs, the fraction that leads past its junction; None if unknown.

    Raises:
        RequestError: The table lacks a route.
    """
    drives = tuple(drives)
    of = {
        name: [drive for drive in drives if scenario_of[drive.route] in kinds]
        for name, kinds in ABILITIES.items()
    }
    successes = {name: Count(well=sum(d.success for d in ds), of=len(ds)) for name, ds in of.items()}
    if junctions is None:
        return Abilities(successes=successes)
    signs = of[TRAFFIC_SIGNS]
    if lacking := [drive.route for drive in signs if drive.route not in junctions]:
        raise RequestError(
            f"the table of junctions lacks {len(lacking)} routes, such as {lacking[0]}",
            expected=f"every route of {TRAFFIC_SIGNS} that was driven",
            repair="make the table for these routes, or score without --junctions",
        )
    passed = [_passed(drive, junctions[drive.route]) for drive in signs]
    direct = successes[TRAFFIC_SIGNS]
    either = sum(past or drive.success for past, drive in zip(passed, signs, strict=True))
    counts = {
        "0.0.3": Count(well=direct.well + sum(passed), of=2 * direct.of),
        "0.0.4": Count(well=either, of=direct.of),
    }
    versions = {
        version: Version(traffic_signs=count, mean=_mean(successes | {TRAFFIC_SIGNS: count}))
        for version, count in counts.items()
    }
    return Abilities(successes=successes, versions=versions)


def _passed(drive: Drive, fraction: float) -> bool:
    ran = drive.infractions.get("stop_infraction") or drive.infractions.get("red_light")
    return drive.scores.score_route / 100 > fraction and not ran


def _mean(counts: Mapping[str, Count]) -> float | None:
    shares = [count.share for count in counts.values()]
    known = [share for share in shares if share is not None]
    return sum(known) / len(shares) if len(known) == len(shares) else None
