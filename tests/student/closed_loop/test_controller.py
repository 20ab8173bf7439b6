import numpy as np
import pytest

from cache_schema.errors import FeatureError
from student.closed_loop.controller import AgentController, WaypointController
from tests.student.closed_loop.recorded import DRIVES, read


def straight(step_m):
    return np.stack([np.zeros(6), step_m * np.arange(1.0, 7.0)], axis=1)


@pytest.mark.parametrize(("speed", "throttle", "brake"), [(4.0, 0.75, 0.0), (6.0, 0.0, 1.0)])
def test_straight_ahead(speed, throttle, brake):
    control = WaypointController().step(straight(2.5), speed)
    assert (control.steer, control.throttle, control.brake) == (0.0, throttle, brake)
    assert control.desired_speed_m_s == pytest.approx(5.0)
    assert control.aim == pytest.approx((0.0, 3.75))


def test_a_bend_to_the_right():
    waypoints = np.arange(1.0, 7.0)[:, None] * [0.4, 2.0]
    control = WaypointController().step(waypoints, 3.0)
    assert control.steer == pytest.approx(0.190070, abs=1e-6)
    assert control.throttle == 0.75
    assert control.desired_speed_m_s == pytest.approx(4.079216, abs=1e-6)
    assert control.angle == pytest.approx(0.125666, abs=1e-6)
    assert control.aim == pytest.approx((0.6, 3.0))


def test_a_plan_to_stand_still_brakes_and_does_not_steer():
    control = WaypointController().step(np.zeros((6, 2)), 2.0)
    assert (control.steer, control.throttle, control.brake) == (0.0, 0.0, 1.0)


def test_the_second_tick_remembers_the_first():
    controller = WaypointController()
    waypoints = np.arange(1.0, 7.0)[:, None] * [0.4, 2.0]
    controller.step(waypoints, 3.0)
    # Same angle again: proportional 1.1 a, integral 0.5 * 2 a / 40, no change.
    assert controller.step(waypoints, 3.0).steer == pytest.approx(0.125666 * (1.1 + 0.5 * 2 / 40), abs=1e-6)


def test_every_recorded_call():
    for call in read("pid.json"):
        if call["new_controller"]:
            controller = WaypointController()
        control = controller.step(np.array(call["plan"], dtype=np.float32), call["speed"])
        found = [control.steer, control.throttle, control.brake, control.desired_speed_m_s, control.angle]
        expected = [call[name] for name in ("steer", "throttle", "brake", "desired_speed", "angle")]
        assert [*found, *control.aim] == pytest.approx([*expected, *call["aim"]], rel=0, abs=1e-6)


@pytest.mark.parametrize("path", DRIVES, ids=lambda path: path.stem)
def test_every_tick_of_the_recorded_drives(path):
    controller = AgentController()
    for tick in read(path.name)["ticks"]:
        plan, expected = np.array(tick["in"]["plan"], dtype=np.float32), tick["out"]
        control = controller.step(plan, tick["in"]["speed"])
        found = [control.steer, control.throttle, control.brake, control.desired_speed_m_s, control.angle]
        expected = [*expected["control"], expected["desired_speed"], expected["angle"], *expected["aim"]]
        assert [*found, *control.aim] == pytest.approx(expected, rel=0, abs=1e-6)


def test_above_5_m_s_the_agent_does_not_accelerate():
    plan = np.arange(1.0, 7.0)[:, None] * [1.0, 5.0]
    for speed, throttle in [(5.0, 0.75), (5.01, 0.0)]:
        follows, agent = WaypointController().step(plan, speed), AgentController().step(plan, speed)
        assert follows.throttle == 0.75
        assert agent == follows._replace(throttle=throttle)


def test_the_agents_controller_remembers_while_it_does_not_accelerate():
    agent, follows = AgentController(), WaypointController()
    plan = np.arange(1.0, 7.0)[:, None] * [1.0, 5.0]
    for speed in (6.0, 6.0, 4.0):
        assert agent.step(plan, speed).steer == follows.step(plan, speed).steer


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_control_is_made_up_for_a_plan_that_is_none(value):
    plan = np.arange(1.0, 7.0)[:, None] * [1.0, 5.0]
    plan[5, 0] = value
    with pytest.raises(FeatureError, match="NaN or infinity"):
        AgentController().step(plan, 3.0)
