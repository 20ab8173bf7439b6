"""The trained teacher that comes with the package."""

from pipeline.teachers import TEACHERS, teacher_preset
from pipeline.teachers.orion.presets import ORION_TINY, ORION_TINY_RANDOM
from pipeline.teachers.orion.training.cache import windows_of
from pipeline.teachers.orion.training.examples import ClipPlan
from pipeline.teachers.orion.training.measure import measure
from pipeline.teachers.orion.training.planner import Planner

MOST_BYTES = 8_000_000
"""That the weights may add to the package."""
UNSEEN_SEED = 0
"""Of the demo's clips, of which the teacher has learned none."""


def test_its_weights_are_small_and_those_of_their_card():
    folder = ORION_TINY.weights
    assert sum(file.stat().st_size for file in folder.iterdir()) < MOST_BYTES
    card = (folder / "CARD.md").read_text()
    assert ORION_TINY.load(None, device="cpu").identity.weights in card
    assert "CC0-1.0" in card


def test_random_weights_stay():
    assert teacher_preset("orion-tiny-random") is ORION_TINY_RANDOM
    assert ORION_TINY_RANDOM.load(None, device="cpu").identity.weights == "random:0"
    assert {"orion-tiny", "orion-tiny-random"} <= TEACHERS.keys()


def test_it_plans_far_better_than_constant_velocity_and_finds_vehicles_and_lanes(tmp_path):
    plans = [ClipPlan(UNSEEN_SEED, clip, (0,), 6, frames=36) for clip in range(6)]
    clips = windows_of(plans, ORION_TINY.images, tmp_path)
    teacher = ORION_TINY.load(None, device="cpu")
    planner = Planner(ORION_TINY.config.language.width)
    planner.load_state_dict(teacher.assets()["teacher_planner"])
    figures = measure(teacher.model, planner, ORION_TINY.config, teacher.images, clips)
    assert figures.ratio_interval[1] < 0.6
    assert figures.vehicle_precision > 0.2  # on six clips; the card has that of eighteen
    assert figures.lane_precision > 0.5
