"""The kinds of questions about synthetic clips, and their answers by what is true of the scene.

Images decide the answers, wholly or in part; the texts alone decide none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.bench2drive.clips import FRAME_RATE_HZ
from pipeline.bench2drive.geometry import CAMERAS
from pipeline.bench2drive.synthetic.moments import ROAD_USERS
from pipeline.bench2drive.synthetic.route import CHANGE_LEFT, CHANGE_RIGHT, LEFT, RIGHT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.bench2drive.synthetic.moments import Moment, RoadUser

FRONT = "CAM_FRONT"
SEEN_M = 40.0
"""A car further away is lower than 3 pixels where an image is resized to 56."""
CLEARLY = 1.1
"""Ratio of two distances that can be told apart."""
NEAR_M, MIDDLE_M = 10.0, 20.0
LOOK_AHEAD_S = 2.0
STANDING_MPS = 1.0
CHANGE_MPS = 1.0
"""Speeds that differ by less are equal."""
BEND_DEG = 8.0
"""A road that turns less is straight."""

Answer = tuple[int, str] | None
"""Place of the option and the line that says why; None where the images leave it open."""


@dataclass(frozen=True)
class Kind:
    """A kind of question."""

    name: str
    capability: str
    views: tuple[str, ...]
    question: str
    options: tuple[str, ...]
    answer: Callable[[Sequence[Moment], int], Answer]
    """Takes the moments of a clip and the number of one."""

    def lettered(self, place: int) -> str:
        """Return an option with its letter."""
        return f"{'ABCD'[place]}. {self.options[place]}"


def _tag(road_user: RoadUser, camera: str) -> str:
    x, y = road_user.at[camera]
    return f"<c1,{camera},{x:.2f},{y:.2f}>"


def _nearest_camera(moments: Sequence[Moment], frame: int) -> Answer:
    nearest, *others = moments[frame].road_users
    if nearest.distance_m > SEEN_M or not nearest.at:
        return None
    if others and others[0].distance_m < CLEARLY * nearest.distance_m:
        return None
    camera = min(nearest.at, key=lambda name: abs(nearest.at[name][0] - 0.5))
    place = list(CAMERAS).index(camera)
    return min(place, 3), f"Object: {_tag(nearest, camera)}, {nearest.kind}"


def _ahead(moment: Moment) -> list[RoadUser] | None:
    """Return the road users that the front camera shows, or None where its edge cuts off the nearest."""
    touching = [road_user for road_user in moment.road_users if FRONT in road_user.touches]
    touching = [road_user for road_user in touching if road_user.distance_m <= SEEN_M]
    return None if touching and FRONT not in touching[0].at else touching


def _nearest_kind(moments: Sequence[Moment], frame: int) -> Answer:
    ahead = _ahead(moments[frame])
    if not ahead or (len(ahead) > 1 and ahead[1].distance_m < CLEARLY * ahead[0].distance_m):
        return None
    return ROAD_USERS.index(ahead[0].kind), f"Object: {_tag(ahead[0], FRONT)}"


def _distance(moments: Sequence[Moment], frame: int) -> Answer:
    ahead = _ahead(moments[frame])
    if ahead is None:
        return None
    if not ahead:
        return 3, "Object: none"
    place = sum(ahead[0].distance_m >= limit for limit in (NEAR_M, MIDDLE_M))
    return place, f"Object: {_tag(ahead[0], FRONT)}, {ahead[0].kind}"


def _after(moments: Sequence[Moment], frame: int) -> Sequence[Moment]:
    """Return the moments of the time that is looked ahead; none where the clip ends before."""
    last = frame + round(LOOK_AHEAD_S * FRAME_RATE_HZ)
    return moments[frame + 1 : last + 1] if last < len(moments) else ()


def _light(moment: Moment) -> str:
    return f"Reason: {'a red light' if moment.red_light else 'no red light'} ahead"


def _speed(moments: Sequence[Moment], frame: int) -> Answer:
    if not (after := _after(moments, frame)):
        return None
    now, later = moments[frame].speed_mps, after[-1].speed_mps
    if min(moment.speed_mps for moment in after) < STANDING_MPS and later < now + CHANGE_MPS:
        return 3, _light(moments[frame])
    place = 0 if later > now + CHANGE_MPS else 2 if later < now - CHANGE_MPS else 1
    return place, _light(moments[frame])


def _course(moments: Sequence[Moment], frame: int) -> Answer:
    if not (after := _after(moments, frame)):
        return None
    turned = (after[-1].heading_deg - moments[frame].heading_deg + 180.0) % 360.0 - 180.0
    place = 0 if turned < -BEND_DEG else 1 if turned > BEND_DEG else 2
    return place, f"Reason: the road {('bends left', 'bends right', 'is straight')[place]}"


def _command(moments: Sequence[Moment], frame: int) -> Answer:
    command = moments[frame].command
    places = {LEFT: 0, RIGHT: 1, CHANGE_LEFT: 3, CHANGE_RIGHT: 3}
    place = places.get(command, 2)
    return place, f"Action: {('turn', 'turn', 'go on', 'leave the lane')[place]}"


def _brake(moments: Sequence[Moment], frame: int) -> Answer:
    return (0 if moments[frame].brakes else 1), _light(moments[frame])


ALL_VIEWS, FRONT_VIEW = tuple(CAMERAS), (FRONT,)

KINDS = (
    Kind(
        *("nearest camera", "perception", ALL_VIEWS),
        "Which camera shows the nearest road user?",
        ("CAM_FRONT.", "CAM_FRONT_LEFT.", "CAM_FRONT_RIGHT.", "A camera at the back."),
        _nearest_camera,
    ),
    Kind(
        *("speed", "reasoning", ALL_VIEWS),
        "What will the ego vehicle do in the next 2 seconds?",
        ("Speed up.", "Keep its speed.", "Slow down.", "Stop."),
        _speed,
    ),
    Kind(
        *("command", "planning", ALL_VIEWS),
        "Where does the route of the ego vehicle lead next?",
        ("Turn left.", "Turn right.", "Go on.", "Change lanes."),
        _command,
    ),
    Kind(
        *("nearest kind", "perception", FRONT_VIEW),
        "What is the nearest road user ahead?",
        ("A parked car.", "A driving car.", "A bicycle.", "A pedestrian."),
        _nearest_kind,
    ),
    Kind(
        *("distance", "perception", FRONT_VIEW),
        "How far away is the nearest road user ahead?",
        ("Below 10 m.", "10 to 20 m.", "20 to 40 m.", "There is none."),
        _distance,
    ),
    Kind(
        *("course", "reasoning", FRONT_VIEW),
        "Where will the ego vehicle head in 2 seconds?",
        ("Left.", "Right.", "Straight on."),
        _course,
    ),
    Kind(
        *("brake", "planning", FRONT_VIEW),
        "Should the ego vehicle brake now?",
        ("Yes.", "No."),
        _brake,
    ),
)
"""The number of a question is its kind's place, from 1 on."""
