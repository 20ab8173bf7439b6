"""Collisions: as published, against the authors' own numbers (tests/golden/metric); corrected, by hand."""

import numpy as np
import pytest

from student.open_loop.collisions import VARIANTS, collisions, headings
from student.open_loop.metrics import rate_columns
from student.open_loop.occupancy import Agents


def test_published_flags_match_the_recording(recorded_agents, recorded_metric):
    planned, expert = recorded_metric["in.pred"], recorded_metric["in.gt"]
    found = collisions({"it": planned}, expert, recorded_agents)["it"]
    np.testing.assert_array_equal(found["box_as_published"], recorded_metric["out.obj_box_col_steps"])
    np.testing.assert_array_equal(found["point_as_published"], recorded_metric["out.obj_col_steps"])
    assert recorded_metric["out.obj_box_col_steps"].any()
    assert recorded_metric["out.obj_col_steps"].any()

    rates = rate_columns(found["box_as_published"])
    counted = recorded_metric["in.fut_valid_flag"] == 1
    for column, seconds in enumerate((1, 2, 3)):
        recorded = recorded_metric[f"out.plan_obj_box_col_{seconds}s"]
        np.testing.assert_allclose(rates[:, column], recorded, atol=1e-6)
        mean = recorded_metric[f"avg.plan_obj_box_col_{seconds}s"]
        np.testing.assert_allclose(rates[counted, column].mean(), mean, atol=1e-6)


def test_other_policies_change_nothing(recorded_agents, recorded_metric):
    """Which agents are rasterised depends on all plans; what is found does not."""
    planned, expert = recorded_metric["in.pred"], recorded_metric["in.gt"]
    alone = collisions({"it": planned}, expert, recorded_agents)["it"]
    plans = {"other": planned[::-1], "it": planned, "still": np.zeros_like(planned)}
    together = collisions(plans, expert, recorded_agents)["it"]
    for variant in VARIANTS:
        np.testing.assert_array_equal(alone[variant], together[variant])


def agents_of(x, y, heading, *, length=4.0, width=2.0, offsets=None, mask=(1,) * 6, label=0):
    """One frame with one agent."""
    return Agents(
        boxes=np.array([[[x, y, length, width, heading]]], np.float32),
        classes=np.array([[label]], np.int8),
        offsets=np.zeros((1, 1, 6, 3)) if offsets is None else np.array([[offsets]], np.float64),
        mask=np.array([[mask]], dtype=bool),
    )


def flags(path, agents, expert=None):
    """Variant -> list of six flags."""
    beside = np.full((1, 6, 2), 30.0) if expert is None else np.array([expert], np.float64)
    found = collisions({"it": np.array([path], np.float64)}, beside, agents)["it"]
    return {variant: hits[0].tolist() for variant, hits in found.items()}


def straight(ys):
    return [(0.0, y) for y in ys]


def test_published_footprint_before_and_behind_a_car():
    found = flags(straight([2.9, 3.0, 3.1, 8.0, 12.0, 12.1]), agents_of(0, 8, np.pi / 2, length=4.8))
    assert found["box_as_published"] == [False, False, True, True, True, False]


def test_corrected_footprint_before_and_behind_a_car():
    # The footprint reaches 0.5 + 2.042 m ahead and 1.542 m behind; the car lies from 6 to 10 m.
    found = flags(straight([3.45, 3.46, 8.0, 11.54, 11.55, 20.0]), agents_of(0, 8, np.pi / 2))
    assert found["box_corrected"] == [False, True, True, True, False, False]
    assert found["point_corrected"] == [False, False, True, False, False, False]


def test_a_turned_footprint_is_as_wide_as_the_car_is_long():
    # Turning right onto the x axis: at (6, 6) heading +x, a car 1.5 m further along is hit only if turned.
    path = [(0.0, 2.0), (0.0, 4.0), (1.0, 6.0), (3.0, 6.0), (5.0, 6.0), (6.0, 6.0)]
    wall = agents_of(9.0, 6.0, np.pi / 2, length=6.0, width=1.0)  # x from 8.5 to 9.5
    found = flags(path, wall)
    assert found["box_corrected"] == [False] * 5 + [True]  # 6 + 0.5 + 2.042 > 8.5
    assert found["box_as_published"] == [False] * 6  # it still heads ahead: x to 6.925


def test_the_heading_is_kept_where_the_ego_stands():
    path = np.array([(0.0, 0.1), (0.5, 0.1), (0.6, 0.1), (0.6, 0.1), (0.6, 1.1), (0.6, 1.1)])
    assert headings(path).tolist() == pytest.approx([np.pi / 2, 0, 0, 0, np.pi / 2, np.pi / 2])


@pytest.mark.parametrize(("place", "hit"), [(2.43, True), (2.45, False)])
def test_two_slanted_rectangles_whose_bounding_boxes_meet(place, hit):
    # The car's long side, x + y = 2 * place - sqrt(2), faces the footprint's corner (0.925, 2.542).
    found = flags(straight([0.0] * 6), agents_of(place, place, 3 * np.pi / 4))
    assert found["box_corrected"] == [hit] * 6


def test_steps_at_which_the_expert_collides_are_not_counted():
    inside = straight([8.0] * 6)
    car = agents_of(0, 8, np.pi / 2)
    expert = [*inside[:2], *straight([20.0] * 4)]
    found = flags(inside, car, expert=expert)
    assert found["box_as_published"] == found["box_corrected"] == [False, False, True, True, True, True]
    assert found["point_corrected"] == [False, False, True, True, True, True]


def test_an_agent_that_comes_back_is_where_it_is():
    # Seen at 8 m, lost at the second step, back at 8 m: its offset then counts from the LiDAR.
    offsets = np.zeros((6, 3))
    offsets[1, 2], offsets[2] = -np.pi / 2, (0.0, 8.0, np.pi / 2)
    mask = (1, 0, 1, 1, 1, 1)
    found = flags(straight([8.0] * 6), agents_of(0, 8, np.pi / 2, offsets=offsets, mask=mask))
    assert found["box_corrected"] == [True, False, True, True, True, True]
    # The published reading adds the place to the place: 16 m ahead.
    assert found["box_as_published"] == [True, False, False, False, False, False]


def test_an_agent_moves_and_turns():
    # Crossing from the right at 2 m a step, and turned along the way in its third step.
    offsets = np.zeros((6, 3))
    offsets[:, 0] = -2.0
    found = flags(straight([0.0] * 6), agents_of(8.0, 0.5, np.pi, offsets=offsets, width=1.0))
    # Half lengths 2 m and 0.925 m: they meet within 2.925 m.
    assert found["box_corrected"] == [False, False, True, True, True, False]


@pytest.mark.parametrize(
    ("label", "counts"), [(0, True), (2, True), (3, True), (7, True), (4, False), (-1, False)]
)
def test_vehicles_and_people_count(label, counts):
    found = flags(straight([8.0] * 6), agents_of(0, 8, np.pi / 2, label=label))
    assert found["box_as_published"] == found["box_corrected"] == [counts] * 6
