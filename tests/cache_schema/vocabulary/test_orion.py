"""ORION's planner by name, at the released size."""

import json

from cache_schema.vocabulary.orion import PLANNER_PARTS, planner_shapes
from tests.paths import GOLDEN


def test_the_planner_has_the_tensors_of_the_released_checkpoint():
    keys = json.loads((GOLDEN / "orion_keys.json").read_text())
    released = {
        name: tuple(shape)
        for group in ("planner", "train_only")
        for name, shape in keys[group].items()
        if name.startswith(PLANNER_PARTS)
    }
    assert len(released) == 44
    assert planner_shapes(4096) == released
