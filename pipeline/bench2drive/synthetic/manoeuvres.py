"""Manoeuvres of the ego: six kinds with random numbers, named after Bench2Drive's scenarios."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.bench2drive.synthetic.driving import DT_S, Leader, StopLine
from pipeline.bench2drive.synthetic.route import (
    CHANGE_LEFT,
    CHANGE_RIGHT,
    LANE_WIDTH_M,
    LEFT,
    RIGHT,
    STRAIGHT,
    Piece,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator

MAX_SPEED_MPS = 11.0


@dataclass(frozen=True)
class Manoeuvre:
    """A route, and the traffic and lights along it. Metres and seconds."""

    pieces: tuple[Piece, ...]
    speed: float
    cruise: float
    leader: Leader
    stop_line: StopLine | None = None
    obstacle: float | None = None
    """Distance along the route of a car that is parked in the ego's lane."""


def _free_leader(cruise: float) -> Leader:
    return Leader(s=38.0, speed=cruise, slow_speed=cruise, slow_from=0.0, slow_until=0.0)


def _turn(rng: Generator, option: int) -> Manoeuvre:
    quarter = math.pi / 2
    left = option == LEFT
    arc = Piece.arc(rng.uniform(9, 13) if left else rng.uniform(7, 10), -quarter if left else quarter, option)
    cruise = rng.uniform(6, 9)
    pieces = (Piece(rng.uniform(4, 12)), arc, Piece(rng.uniform(8, 15)))
    return Manoeuvre(pieces, rng.uniform(4, 7), cruise, _free_leader(cruise))


def _turn_left(rng: Generator) -> Manoeuvre:
    return _turn(rng, LEFT)


def _turn_right(rng: Generator) -> Manoeuvre:
    return _turn(rng, RIGHT)


def _pull_away(rng: Generator) -> Manoeuvre:
    cruise = rng.uniform(7, MAX_SPEED_MPS)
    bend = Piece.arc(rng.uniform(30, 60), rng.choice((-1, 1)) * rng.uniform(0.4, 0.8))
    pieces = (Piece(rng.uniform(6, 14), option=STRAIGHT), bend)
    return Manoeuvre(pieces, 0.0, cruise, _free_leader(cruise), StopLine(2.0, green_at=rng.uniform(0.3, 1.5)))


def _red_light(rng: Generator) -> Manoeuvre:
    line = rng.uniform(14, 22)
    cruise = rng.uniform(6.5, 10)
    pieces = (Piece(line), Piece(16, option=STRAIGHT))
    stop_line = StopLine(line, green_at=rng.uniform(3.8, 4.8))
    return Manoeuvre(pieces, cruise, cruise, _free_leader(cruise), stop_line)


def _change_lanes(rng: Generator) -> Manoeuvre:
    cruise = rng.uniform(6, 11)
    before = Piece(rng.uniform(2, 5))
    there = Piece(rng.uniform(16, 20), shift=-LANE_WIDTH_M, option=CHANGE_LEFT)
    beside = Piece(5)
    back = Piece(rng.uniform(16, 20), shift=LANE_WIDTH_M, option=CHANGE_RIGHT)
    return Manoeuvre(
        (before, there, beside, back),
        rng.uniform(4, cruise),
        cruise,
        _free_leader(cruise),
        obstacle=before.length + there.length + beside.length / 2,
    )


def _hard_brake(rng: Generator) -> Manoeuvre:
    cruise = rng.uniform(6, 11)
    slow_from = rng.uniform(0.3, 1.2)
    leader = Leader(
        rng.uniform(14, 18), cruise, rng.uniform(0, 3), slow_from, slow_from + rng.uniform(1.5, 3)
    )
    bend = Piece.arc(rng.uniform(40, 70), rng.choice((-1, 1)) * rng.uniform(0.3, 0.6))
    return Manoeuvre((Piece(rng.uniform(5, 15)), bend), cruise, cruise, leader)


MANOEUVRES: dict[str, Callable[[Generator], Manoeuvre]] = {
    "SignalizedJunctionLeftTurn": _turn_left,
    "VanillaSignalizedTurnEncounterRedLight": _pull_away,
    "SignalizedJunctionRightTurn": _turn_right,
    "TJunction": _red_light,
    "LaneChange": _change_lanes,
    "HardBreakRoute": _hard_brake,
}
"""Scenario name -> how to draw one."""


def draw_manoeuvre(scenario: str, frames: int, rng: Generator) -> Manoeuvre:
    """Draw a manoeuvre, and bends and turns after it for as long as a clip of ``frames`` may last."""
    first = MANOEUVRES[scenario](rng)
    pieces = list(first.pieces)
    while sum(piece.length for piece in pieces) < frames * DT_S * MAX_SPEED_MPS:
        side = rng.choice((-1, 1))
        junction = Piece.arc(rng.uniform(8, 13), side * math.pi / 2, RIGHT if side > 0 else LEFT)
        bend = Piece.arc(rng.uniform(30, 60), side * rng.uniform(0.3, 0.8))
        pieces += [Piece(rng.uniform(4, 14)), junction if rng.random() < 0.5 else bend]
    return replace(first, pieces=tuple(pieces))
