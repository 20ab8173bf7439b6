"""The leaderboard's rules for agents: order of calls, sensors, what their failures are called."""

import json
import re
import sys
import types

import pytest

from cache_schema.errors import RequestError
from pipeline.bench2drive.rehearsal import leaderboard
from pipeline.bench2drive.rehearsal.agent_module import agent_module
from pipeline.bench2drive.rehearsal.leaderboard import evaluate
from pipeline.bench2drive.rehearsal.results import Checkpoint
from pipeline.bench2drive.rehearsal.toy import ToyWorld
from pipeline.bench2drive.rehearsal.toys import draw_toy
from tests.pipeline.bench2drive.rehearsal.driving import FULL_AHEAD, SCRIPTED, drive, scripted

SAVE_NAME = r"RouteScenario_{}_rep0_Town0\d_[A-Za-z]+_1_\d+_\d\d_\d\d_\d\d_\d\d_\d\d"
CAMERA = {"type": "sensor.camera.rgb", "x": 0.0, "y": 0.0, "z": 2.9, "width": 8, "height": 8}


def cameras(count, **changes):
    return [CAMERA | {"id": f"camera {number}"} | changes for number in range(count)]


def test_the_order_of_calls_and_a_new_agent_for_every_route(tmp_path):
    worlds = [draw_toy(index, cameras=False) for index in range(2)]
    with agent_module(SCRIPTED) as module:
        for world in worlds:
            leaderboard.drive(module, scripted(fails="run_step 0.10"), world)
        calls = module.CALLS
    begin = ["__init__", "set_global_plan", "setup", "sensors"]
    one = [*begin, "run_step 0.00", "run_step 0.05", "run_step 0.10", "destroy"]
    assert calls == [*one, *one]


def test_the_plan_s_nodes(tmp_path):
    world = draw_toy(4, cameras=False)  # Town13
    agents = tmp_path / "noting.py"
    agents.write_text(SCRIPTED.read_text().replace('CALLS.append("set_global_plan")', "CALLS.append(self)"))
    with agent_module(agents) as module:
        leaderboard.drive(module, scripted(fails="setup"), world)
        agent = next(call for call in module.CALLS if not isinstance(call, str))
    (node, option), *_ = agent._global_plan
    assert (abs(node["lat"] - 35.25), node["z"], option.name) == (
        pytest.approx(0, abs=0.01),
        0.0,
        "LANEFOLLOW",
    )
    transform, option = agent._global_plan_world_coord[-1]
    assert [transform.location.x, transform.location.y] == pytest.approx(world.route.positions[-1, :2])
    assert transform.rotation.yaw == pytest.approx(world.route.yaw[-1])
    assert len(agent._plan_gps_HACK) == len(world.route.positions)
    changes = sum(option in (5, 6) for option in world.route.options)
    assert len(agent._global_plan) == len(agent._global_plan_world_coord) >= changes + 2  # every such metre


@pytest.mark.parametrize(
    ("script", "status", "ticks"),
    [
        ({"fails": "setup"}, "Agent couldn't be set up", 0),
        ({"fails": "run_step 0.00"}, "Agent crashed", 0),
        ({"fails": "run_step 0.50"}, "Agent crashed", 10),
        ({"control": ["fast", 0, 0]}, "Agent crashed", 0),
        ({"control": [0, float("nan"), 0]}, "Agent crashed", 0),
        ({"sensors": cameras(9)}, "Agent's sensors were invalid", 0),
        ({"sensors": cameras(1, z=3.1)}, "Agent's sensors were invalid", 0),
        ({"sensors": cameras(2, id="the same")}, "Agent's sensors were invalid", 0),
        ({"sensors": cameras(1, type="sensor.camera.depth")}, "Agent's sensors were invalid", 0),
        ({"track": "MAP"}, "Agent's sensors were invalid", 0),
        ({"fails": "destroy", "control": [0, 0, 1]}, "Agent got blocked", 1201),
    ],
)
def test_what_failures_are_called(script, status, ticks, monkeypatch, capsys):
    monkeypatch.delenv("SAVE_PATH", raising=False)
    done = drive(SCRIPTED, draw_toy(0, cameras=False), scripted(**{"control": FULL_AHEAD, **script}))
    assert done.record["status"] == f"Failed - {status}"
    assert (len(done.controls), len(done.poses)) == (ticks, ticks)
    assert done.record["meta"]["duration_game"] == pytest.approx(0.05 * ticks)
    assert "Traceback" in capsys.readouterr().err


def test_sensors_within_the_rules(monkeypatch):
    monkeypatch.setenv("SAVE_PATH", "somewhere")
    script = scripted(sensors=cameras(8, z=99.0), fails="run_step 0.05")
    assert drive(SCRIPTED, draw_toy(0, cameras=False), script).sensors == ("carla_camera",) * 8


def test_what_a_rehearsal_lacks_is_said():
    lidar = scripted(sensors=[{"type": "sensor.lidar.ray_cast", "id": "LIDAR"}])
    with pytest.raises(RequestError, match=re.escape("mounts a sensor.lidar.ray_cast")):
        drive(SCRIPTED, draw_toy(0, cameras=False), lidar)


class Breaking(ToyWorld):
    def apply(self, control):
        if self.tick == 3:
            raise ConnectionError("the simulator is gone")
        super().apply(control)


def test_a_process_of_the_evaluator(tmp_path):
    worlds = [draw_toy(index, cameras=False) for index in range(4)]
    worlds[2].__class__ = Breaking
    file = tmp_path / "results.json"
    seen = []
    with agent_module(SCRIPTED) as module:
        pass
    assert not module.CALLS
    checkpoint = Checkpoint(file, len(worlds), "toy")
    assert json.loads(file.read_text())["_checkpoint"] == {
        "global_record": {},
        "progress": [0, 4],
        "records": [],
    }
    for done in evaluate(SCRIPTED, scripted(FULL_AHEAD, fails="run_step 0.40"), worlds, checkpoint):
        results = json.loads(file.read_text())
        assert results["_checkpoint"]["records"][-1] == done.record | {"index": len(seen)}
        assert results["sensors"] == ["carla_speedometer"]
        seen.append((results["entry_status"], done.record["status"]))
    assert seen == [
        ("Started", "Failed - Agent crashed"),
        ("Started", "Failed - Agent crashed"),
        ("Crashed", "Failed - Simulation crashed"),
    ]  # and the fourth is not driven
    results = json.loads(file.read_text())
    assert (results["entry_status"], results["eligible"], results["values"]) == ("Crashed", False, [])
    names = [record["save_name"] for record in results["_checkpoint"]["records"]]
    assert re.fullmatch(SAVE_NAME.format(9001), names[0])
    assert re.fullmatch(SAVE_NAME.format(9002), names[1])


def test_the_configuration_carries_all_names_so_far(tmp_path, capsys):
    agent = tmp_path / "noting.py"
    agent.write_text(SCRIPTED.read_text().replace('CALLS.append("setup")', "print(path_to_conf_file)"))
    worlds = [draw_toy(index, cameras=False) for index in range(3)]
    script = scripted(FULL_AHEAD, fails="run_step 0.05")
    records = [
        done.record
        for done in evaluate(agent, script, worlds, Checkpoint(tmp_path / "results.json", 3, "toy"))
    ]
    names = [record["save_name"] for record in records]
    told = capsys.readouterr().out.splitlines()
    assert told == ["+".join([script, *names[: number + 1]]) for number in range(3)]


def test_installed_modules_are_hidden_and_come_back(tmp_path, monkeypatch):
    installed = {name: types.ModuleType(name) for name in ("carla", "leaderboard", "leaderboard.utils")}
    for name, module in installed.items():
        monkeypatch.setitem(sys.modules, name, module)
    agent = tmp_path / "compressing.py"
    agent.write_text("import cv2\n" + SCRIPTED.read_text())
    before, path = dict(sys.modules), list(sys.path)
    assert len(drive(agent, draw_toy(0, cameras=False), scripted(fails="run_step 0.05")).controls) == 1
    assert sys.path == path
    assert {name: sys.modules[name] for name in installed} == installed
    stubs = [name for name in sys.modules.keys() - before if name.startswith(("carla", "leaderboard", "cv2"))]
    assert stubs == []


@pytest.mark.parametrize("text", ["import no_such_module", "def get_entry_point(:", "raise SystemError('x')"])
def test_agent_files_that_cannot_be_imported(tmp_path, text):
    file = tmp_path / "agent.py"
    file.write_text(text)
    with pytest.raises(RequestError, match=r"agent\.py cannot be imported"), agent_module(file):
        pass
    with (
        pytest.raises(RequestError, match=r"missing\.py cannot be imported"),
        agent_module(tmp_path / "missing.py"),
    ):
        pass
