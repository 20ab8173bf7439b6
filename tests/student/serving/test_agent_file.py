"""The agent file: it stands alone in an old Python, mounts the right sensors, and loses no tick."""

import ast
import base64
import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache_schema.errors import RequestError
from pipeline.bench2drive.geometry import CAMERAS as MOUNTS
from student.closed_loop.rig import RIG
from student.serving.agent_file import write_agent
from student.serving.messages import PROTOCOL
from student.serving.policy import ConstantVelocity
from student.serving.server import serving
from tests.student.serving.remembering import Remembering, plans
from tests.student.serving.simulator import (
    AGENT_FILE,
    ANY_PORT,
    SAVE_NAME,
    Track,
    load_agent,
    new_agent,
    plan_rows,
    recorded,
    sensor_values,
    straight_plan,
)

SOURCE = AGENT_FILE.read_text()


def test_it_is_python_3_7():
    ast.parse(SOURCE, feature_version=(3, 7))
    with pytest.raises(SyntaxError):
        ast.parse(SOURCE + "\nif (n := 1): pass\n", feature_version=(3, 7))


def test_it_imports_nothing_but_what_the_evaluator_has():
    imported = set()
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.partition(".")[0])
    assert {"carla", "cv2", "leaderboard"} <= imported
    assert imported - {"carla", "cv2", "leaderboard"} <= sys.stdlib_module_names
    assert not imported & {"pickle", "marshal", "shelve", "ctypes"}
    assert not {"eval", "exec", "compile"} & {
        node.id for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Name)
    }


@pytest.fixture
def module(monkeypatch):
    return load_agent(monkeypatch)


def test_it_mounts_the_cameras_of_the_rig(module):
    agent = module.TeachonceAgent()
    sensors = {sensor["id"]: sensor for sensor in agent.sensors()}
    assert tuple(module.CAMERAS) == RIG.cameras
    assert list(sensors) == [*RIG.cameras, "IMU", "GPS", "SPEED"]
    for name, mount in MOUNTS.items():
        sensor = sensors[name]
        assert sensor["type"] == "sensor.camera.rgb"
        assert tuple(sensor[axis] for axis in "xyz") == mount.location
        assert (sensor["roll"], sensor["pitch"], sensor["yaw"]) == (0.0, 0.0, mount.yaw)
        assert (sensor["width"], sensor["height"], sensor["fov"]) == (1600, 900, mount.fov)
    assert (sensors["GPS"]["type"], sensors["GPS"]["x"]) == ("sensor.other.gnss", -1.4)
    assert (sensors["IMU"]["type"], sensors["IMU"]["x"]) == ("sensor.other.imu", -1.4)
    assert sensors["SPEED"]["type"] == "sensor.speedometer"
    assert module.PROTOCOL == PROTOCOL


class StandIn(types.ModuleType):
    """OpenCV's encoder as Pillow has it."""

    IMWRITE_JPEG_QUALITY = 1

    def imencode(self, ending, image, parameters):
        assert ending == ".jpg"
        assert parameters == [1, 20]
        encoded = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image[:, :, ::-1])).save(encoded, "JPEG", quality=20)
        return True, np.frombuffer(encoded.getvalue(), np.uint8)


def tick_input(image):
    values = sensor_values(speed_m_s=2.0)
    return {
        **dict.fromkeys(RIG.cameras, (5, image)),
        "GPS": (5, np.array(values["gps"])),
        "IMU": (5, np.array([*values["imu"][:6], np.nan])),
        "SPEED": (5, {"speed": np.float64(values["speed_m_s"])}),
    }


class Seeing(ConstantVelocity):
    def prepare(self, observation):
        self.seen = observation
        return super().prepare(observation)


def test_images_are_sent_as_jpegs(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", StandIn("cv2"))
    policy = Seeing(1)
    image = np.zeros((900, 1600, 4), np.uint8)
    image[...] = (200, 100, 40, 255)
    with serving(policy, ANY_PORT, mode="parity") as address:
        agent = new_agent(module, str(address))
        assert agent.track is Track.SENSORS
        control = agent.run_step(tick_input(image), 0.0)
        assert agent.last_answer["plan"][0] == [0.0, 1.0]
        assert (control.steer, control.throttle, control.brake) == (
            agent.last_answer["steer"],
            agent.last_answer["throttle"],
            agent.last_answer["brake"],
        )
        assert control.manual_gear_shift is False
        agent.destroy()
    assert list(policy.seen.jpegs) == list(RIG.cameras)
    pixels = np.asarray(Image.open(io.BytesIO(policy.seen.jpegs["CAM_BACK"])), dtype=int)
    assert pixels.shape == (900, 1600, 3)
    assert np.abs(pixels - (40, 100, 200)).max() <= 8
    # No compass: nothing of the IMU counts.
    assert policy.seen.can_bus[10:16].tolist() == [0.0] * 6
    assert policy.seen.can_bus[7] == 2.0


@pytest.mark.parametrize("shape", [(900, 1600, 3), (600, 800, 4), (1600, 900, 4)])
def test_other_images_are_an_error(module, monkeypatch, shape):
    monkeypatch.setitem(sys.modules, "cv2", StandIn("cv2"))
    with serving(ConstantVelocity(1), ANY_PORT, mode="parity") as address:
        agent = new_agent(module, str(address))
        with pytest.raises(ValueError, match="expected BGRA"):
            agent.run_step(tick_input(np.zeros(shape, np.uint8)), 0.0)
        agent.destroy()


def test_opencv_is_asked_for_before_the_route(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with serving(ConstantVelocity(1), ANY_PORT, mode="parity") as address:
        agent = module.TeachonceAgent()
        agent.set_global_plan(*straight_plan())
        with pytest.raises(ImportError, match="OpenCV is missing"):
            agent.setup(f"{address}+{SAVE_NAME}")
        agent.destroy()
    with serving(ConstantVelocity(1), ANY_PORT, mode="parity", allow_replay=True) as address:
        agent = new_agent(module, str(address))
        agent.run_step({"REPLAY": (0, recorded("a"))}, 0.0)
        agent.destroy()


def test_the_last_name_is_the_route_s(module, monkeypatch, tmp_path):
    monkeypatch.setenv("SAVE_PATH", str(tmp_path))
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    with serving(ConstantVelocity(1), ANY_PORT, mode="parity", token=token, allow_replay=True) as address:
        agent = new_agent(module, f"{address},token={token}+first_route+second_route", save_name="third")
        agent.destroy()
    assert (tmp_path / "third" / "metric_info.json").read_text() == "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["third", "token"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("tcp://127.0.0.1:1", "names no route"),
        ("udp://127.0.0.1:1+name", "is no address"),
        ("127.0.0.1:1+name", "is no address"),
        ("tcp://127.0.0.1:1,password=x+name", "unknown option"),
    ],
)
def test_wrong_configurations_are_errors(module, config, message):
    agent = module.TeachonceAgent()
    agent.set_global_plan(*straight_plan())
    with pytest.raises(ValueError, match=message):
        agent.setup(config)
    agent.destroy()


def test_the_metric_file_has_every_tick(module, monkeypatch, tmp_path):
    monkeypatch.setenv("SAVE_PATH", str(tmp_path))
    with serving(ConstantVelocity(1), ANY_PORT, mode="parity", allow_replay=True) as address:
        agent = new_agent(module, str(address))
        for step in range(13):
            agent.run_step({"REPLAY": (0, recorded(step))}, 0.0)
        (lines,) = (tmp_path / SAVE_NAME).iterdir()  # what is left if the process is killed now
        assert len(lines.read_text().splitlines()) == 13
        agent.destroy()
    (file,) = (tmp_path / SAVE_NAME).iterdir()
    assert file.name == "metric_info.json"
    expected = {str(step): {"location": [step + 1.0, 0.1, 0.2]} for step in range(13)}
    assert json.loads(file.read_text()) == expected
    assert [*json.loads(file.read_text())] == [*expected]


def test_nothing_is_written_without_a_place_for_it(module, monkeypatch):
    monkeypatch.delenv("SAVE_PATH", raising=False)
    with serving(ConstantVelocity(1), ANY_PORT, mode="parity", allow_replay=True) as address:
        agent = new_agent(module, str(address))
        agent.run_step({"REPLAY": (0, recorded(0))}, 0.0)
        assert agent.metric_infos == 0
        agent.destroy()


def test_it_is_written_into_a_tree(tmp_path):
    with pytest.raises(RequestError, match="no Bench2Drive tree"):
        write_agent(tmp_path)
    evaluator = tmp_path / "leaderboard" / "leaderboard" / "leaderboard_evaluator.py"
    evaluator.parent.mkdir(parents=True)
    evaluator.touch()
    for _ in range(2):
        written = write_agent(tmp_path)
        assert written == tmp_path / "leaderboard" / "team_code" / "teachonce_agent.py"
        assert written.read_text() == SOURCE


def interpreter(version):
    """A Python of that version, bare; None if there is none."""
    found = shutil.which(f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in [*([found] if found else []), *pyenv.glob(f"{version}.*/bin/python")]:
        if subprocess.run([candidate, "-c", "pass"], capture_output=True).returncode == 0:
            return str(candidate)
    return None


STUBS = {
    "carla.py": "class VehicleControl: pass",
    "leaderboard/__init__.py": "",
    "leaderboard/autoagents/__init__.py": "",
    "leaderboard/autoagents/autonomous_agent.py": """
        import enum
        class Track(enum.Enum):
            SENSORS = "SENSORS"
        class AutonomousAgent(object):
            def __init__(self, host, port, debug=False): pass
    """,
    "drive.py": """
        import base64, enum, json, sys
        import teachonce_agent
        class Option(enum.IntEnum):
            LANEFOLLOW = 4
        class Place: pass
        def place(x):
            made = Place()
            made.location = Place()
            made.location.x, made.location.y, made.location.z = x, 0.0, 0.0
            return made
        task = json.load(sys.stdin)
        agent = getattr(teachonce_agent, teachonce_agent.get_entry_point())("localhost", 2000, 0)
        gps, world = task["plan"]["gps"], task["plan"]["world"]
        agent._global_plan = [({"lat": a, "lon": o, "z": z}, Option(n)) for a, o, z, n in gps]
        agent._global_plan_world_coord = [(place(x), Option(n)) for x, y, z, n in world]
        agent.setup(task["config"])
        agent.sensors()
        for tick in task["ticks"]:
            tick["jpegs"] = {name: base64.b64decode(jpeg) for name, jpeg in tick["jpegs"].items()}
            agent.run_step({"REPLAY": (0, tick)}, 0.0)
            print(json.dumps(agent.last_answer["plan"]))
        agent.destroy()
    """,
}


def in_json(tick):
    plain = {name: np.asarray(value).tolist() for name, value in tick.items() if name != "jpegs"}
    return plain | {"jpegs": {name: base64.b64encode(jpeg).decode() for name, jpeg in tick["jpegs"].items()}}


@pytest.mark.parametrize("version", ["3.7", "3.8"])
def test_it_drives_in_an_old_python(version, tmp_path):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version}")
    for name, content in STUBS.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(content))
    shutil.copy(AGENT_FILE, tmp_path / "teachonce_agent.py")
    ticks = [in_json(recorded(step)) for step in range(3)]
    with serving(Remembering(1), ANY_PORT, mode="parity", allow_replay=True) as address:
        task = {"plan": plan_rows(), "config": f"{address}+{SAVE_NAME}", "ticks": ticks}
        done = subprocess.run(
            [python, "drive.py"],
            cwd=tmp_path,
            input=json.dumps(task),
            capture_output=True,
            text=True,
            env={
                name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SAVE_PATH")
            },
        )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == plans(0, 1, 2)
