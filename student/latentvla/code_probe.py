"""What codes of student and teacher tell of how the ego moves: R2 of a ridge regression, on other clips.

Dimension letters: F frame of the split, N position of a code, V quantity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cache_schema.vocabulary.driving import ACCELERATION, YAW_RATE
from student.open_loop.bootstrap import means
from student.open_loop.probe import explained, one_hot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from student.open_loop.bootstrap import Estimate

QUANTITIES = {"yaw_rate": YAW_RATE, "acceleration": ACCELERATION[0]}
"""Name -> place in ``can_bus``; rad/s, and m/s2 forward."""
LARGEST = 2048
"""One-hot features of a regression: with more it would take gigabytes, and more frames than are evaluated."""


class Probed(NamedTuple):
    """What was found."""

    measures: dict[str, Estimate]
    """R2 as ``r2_<quantity>_<whose>_codes``, beside ``r2_<quantity>_constant``."""
    arrays: dict[str, np.ndarray]
    """``driven.<quantity>`` (F)."""
    missing: tuple[str, ...]
    """What could not be measured, and what to do about it."""


def probe_codes(codes: Mapping[str, np.ndarray], can_bus: np.ndarray, clip_of: np.ndarray) -> Probed:
    """Ask how much of the ego's motion codes tell.

    Args:
        codes: Whose they are -> (F, N).
        can_bus: (F, signal) at the same frames.
        clip_of: (F) number of the clip of each.
    """
    driven = {name: can_bus[:, place].astype(np.float64) for name, place in QUANTITIES.items()}
    arrays = {f"driven.{name}": values.astype(np.float32) for name, values in driven.items()}
    if len(np.unique(clip_of)) == 1:
        repair = "evaluate on several clips"
        return Probed(
            {}, arrays, (f"what codes tell was not measured: all frames are of one clip; {repair}",)
        )
    missing = [
        f"what codes tell of the {name.replace('_', ' ')} was not measured: it never changes; "
        "evaluate on clips in which it does"
        for name, values in driven.items()
        if np.ptp(values) == 0
    ]
    changing = {name: values for name, values in driven.items() if np.ptp(values) > 0}
    seen = {"constant": np.empty((len(clip_of), 0))}
    for whose, chosen in codes.items():
        if chosen.shape[1] * (int(chosen.max()) + 1) <= LARGEST:
            seen[f"{whose}_codes"] = one_hot(chosen)
        else:
            missing.append(
                f"what the {whose}'s codes tell was not measured: there are too many; "
                f"at most {LARGEST} values of all positions together are probed"
            )
    if not changing:
        return Probed({}, arrays, tuple(missing))
    values = np.stack([*changing.values()], axis=1)  # (F, V)
    every = np.ones(len(clip_of), dtype=bool)
    found = {name: means(explained(of, values, clip_of), every, clip_of) for name, of in seen.items()}
    measures = {
        f"r2_{quantity}_{name}": found[name][number]
        for number, quantity in enumerate(changing)
        for name in (*[name for name in found if name != "constant"], "constant")
    }
    return Probed(measures, arrays, tuple(missing))
