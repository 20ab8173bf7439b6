"""How smoothly a route was driven, as Bench2Drive's script measures it (spec: Bench2Drive, section 5.2).

A drive is cut into chunks of 20 steps; a chunk passes where six quantities stay inside their bounds. The
bounds are those of nuPlan's comfort. Kept as they are: the interval of 0.1 s although the simulator makes 20
steps a second; "yaw acceleration", which is the smoothed yaw rate; and CARLA's degrees per second against
bounds in radians.

Dimension letters: C chunk, S step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

CHUNK_STEPS = 20
WINDOW_STEPS, DEGREE = 7, 2
"""Of the Savitzky-Golay filter."""
INTERVAL_S = 0.1
LONGITUDINAL_M_S2 = (-4.05, 2.40)
LATERAL_M_S2 = 4.89
JERK_M_S3, LONGITUDINAL_JERK_M_S3 = 8.37, 4.13
YAW_ACCELERATION, YAW_RATE = 1.93, 0.95

METRICS = "metric_info.json"
"""File of a drive's motion, in the folder that is called like the drive."""

Vector = tuple[float, float, float]


class Motion(NamedTuple):
    """The motion of a car, in the simulator's world: x forward, y right, z up at yaw 0."""

    acceleration: np.ndarray  # (S, 3) m/s^2
    angular_velocity: np.ndarray  # (S, 3) degrees/s
    forward: np.ndarray  # (S, 3)
    right: np.ndarray  # (S, 3)


class _Step(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    acceleration: Vector
    angular_velocity: Vector
    forward_vector: Vector
    right_vector: Vector


_STEPS = TypeAdapter(dict[str, _Step])


def read_motion(path: Path) -> Motion:
    """Read ``metric_info.json``, steps in the order in which they stand there.

    Raises:
        RequestError: The file is damaged.
    """
    try:
        steps = tuple(_STEPS.validate_json(path.read_bytes()).values())
    except ValidationError as error:
        raise RequestError(
            f"the motion of a drive, {path}, cannot be read: {error.errors()[0]['msg']}",
            expected="JSON {step: {acceleration, angular_velocity, forward_vector, right_vector}}",
            repair="drive the route again, or move the file away: the drive then has no smoothness",
        ) from error
    return Motion(
        *(
            np.array([getattr(step, name) for step in steps], np.float64).reshape(-1, 3)
            for name in ("acceleration", "angular_velocity", "forward_vector", "right_vector")
        )
    )


def in_radians(motion: Motion) -> Motion:
    """Return the motion with angular velocities in radians per second, as the bounds mean them."""
    return motion._replace(angular_velocity=np.deg2rad(motion.angular_velocity))


def passing_chunks(motion: Motion) -> tuple[bool, ...] | None:
    """Return which chunks are smooth; the steps of an incomplete last one count only where it is the first.

    None where there are too few steps for the filter.
    """
    steps = len(motion.acceleration)
    if steps <= DEGREE:
        return None
    length = min(steps, CHUNK_STEPS)
    whole = steps - steps % length
    chunks = Motion(*(part[:whole].reshape(-1, length, 3) for part in motion))
    return tuple(_are_smooth(chunks).tolist())


def _are_smooth(chunks: Motion) -> np.ndarray:
    """Return which of the chunks (C, S, 3) are smooth, (C) bool."""
    plane = chunks.acceleration[..., :2]
    longitudinal = smoothed((plane * chunks.forward[..., :2]).sum(axis=-1))
    lateral = smoothed((plane * chunks.right[..., :2]).sum(axis=-1))
    magnitude = np.hypot(plane[..., 0], plane[..., 1])
    rate = smoothed(_unwrapped(chunks.angular_velocity[..., 2]))
    low, high = LONGITUDINAL_M_S2
    inside = (
        (low < longitudinal) & (longitudinal < high),
        abs(lateral) < LATERAL_M_S2,
        abs(smoothed(smoothed(magnitude), derivative=True)) < JERK_M_S3,
        abs(smoothed(longitudinal, derivative=True)) < LONGITUDINAL_JERK_M_S3,
        abs(rate) < min(YAW_ACCELERATION, YAW_RATE),
    )
    return np.logical_and.reduce(inside).all(axis=-1)


def _unwrapped(rates: np.ndarray) -> np.ndarray:
    """Take whole turns of 2 pi out of yaw rates (C, S), as if they were angles, as the script does."""
    turns = np.round(np.diff(rates, prepend=rates[:, :1]) / (2 * np.pi))
    return rates - 2 * np.pi * np.cumsum(turns, axis=-1)


def smoothed(values: np.ndarray, *, derivative: bool = False) -> np.ndarray:
    """Filter values (..., S) by Savitzky and Golay; of fewer steps than a window, all are one.

    Args:
        values: (..., S), at least three steps.
        derivative: Return the slope, per second.
    """
    from scipy.signal import savgol_filter  # takes a second to import

    return savgol_filter(
        values, min(WINDOW_STEPS, values.shape[-1]), DEGREE, deriv=int(derivative), delta=INTERVAL_S
    )
