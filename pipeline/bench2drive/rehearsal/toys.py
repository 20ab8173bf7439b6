"""A series of toys: all manoeuvres take turns, and so do weathers and towns."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from pipeline.bench2drive.rehearsal.toy import TICKS_A_FRAME, ToyWorld
from pipeline.bench2drive.rehearsal.world import LONGEST_TICKS, WARM_UP_TICKS
from pipeline.bench2drive.synthetic.demo_data import FIRST_ROUTE, TOWNS
from pipeline.bench2drive.synthetic.manoeuvres import MANOEUVRES
from pipeline.bench2drive.synthetic.recording import WEATHERS
from pipeline.bench2drive.synthetic.scene import draw_scene

if TYPE_CHECKING:
    from collections.abc import Callable

FRAMES = (WARM_UP_TICKS + LONGEST_TICKS) // TICKS_A_FRAME + 1
"""Of a scene."""


def draw_toy(index: int, *, seed: int = 0, cameras: bool = True) -> ToyWorld:
    """Draw a toy; the same index and seed give the same one."""
    scenarios, weathers = list(MANOEUVRES), list(WEATHERS)
    rng = np.random.default_rng((seed, index))
    scenario = scenarios[index % len(scenarios)]
    return ToyWorld(
        draw_scene(scenario, FRAMES, rng),
        number=FIRST_ROUTE + index,
        town=TOWNS[index % len(TOWNS)],
        scenario=scenario,
        weather=weathers[index % len(weathers)],
        rng=rng,
        cameras=cameras,
    )


def toys(count: int, *, seed: int = 0, cameras: bool = True) -> dict[int, Callable[[], ToyWorld]]:
    """Return a series of toys: number of the route -> draws the toy."""
    return {
        FIRST_ROUTE + index: partial(draw_toy, index, seed=seed, cameras=cameras) for index in range(count)
    }
