"""A leaderboard's process, as an agent file sees it: modules, images, sensors. And a bare client."""

import importlib.util
import io
import json
import socket
import sys
import types
import uuid
from enum import Enum, IntEnum
from pathlib import Path

import numpy as np
from PIL import Image

import student.serving
from student.closed_loop.rig import RIG
from student.serving.address import Address
from student.serving.messages import LENGTH, PROTOCOL, packed

AGENT_FILE = Path(student.serving.__file__).with_name("bench2drive_agent.py")
ANY_PORT = Address.parse("tcp://127.0.0.1:0")
SAVE_NAME = "RouteScenario_2050_rep0_Town05_HardBreakRoute_1_0_11_27_10_00_00"


class Track(Enum):
    SENSORS = "SENSORS"


class RoadOption(IntEnum):
    VOID = -1
    LEFT = 1
    RIGHT = 2
    STRAIGHT = 3
    LANEFOLLOW = 4
    CHANGELANELEFT = 5
    CHANGELANERIGHT = 6


class AutonomousAgent:
    def __init__(self, host="localhost", port=2000, debug=False):
        self.track = None
        self.metric_infos = 0

    def set_global_plan(self, gps, world):
        self._global_plan, self._global_plan_world_coord = gps, world

    def get_metric_info(self):
        self.metric_infos += 1
        return {"location": [float(self.metric_infos), 0.1, 0.2]}


class VehicleControl:
    steer = throttle = brake = 0.0


def load_agent(monkeypatch, file=AGENT_FILE):
    """The module of an agent file, loaded as the evaluator does it, with what it finds there."""
    carla = types.ModuleType("carla")
    carla.VehicleControl = VehicleControl
    autonomous_agent = types.ModuleType("leaderboard.autoagents.autonomous_agent")
    autonomous_agent.AutonomousAgent, autonomous_agent.Track = AutonomousAgent, Track
    autoagents = types.ModuleType("leaderboard.autoagents")
    autoagents.autonomous_agent = autonomous_agent
    for module in (carla, types.ModuleType("leaderboard"), autoagents, autonomous_agent):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = importlib.util.spec_from_file_location("agent_under_test", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def new_agent(module, config, plan=None, save_name=SAVE_NAME):
    """An agent that has been set up for a route."""
    agent = getattr(module, module.get_entry_point())("localhost", 2000, False)
    agent.set_global_plan(*(plan or straight_plan()))
    agent.setup(f"{config}+{save_name}")
    return agent


def plan_of(gps, world):
    """As the leaderboard gives it, from rows [lat, lon, z, option] and [x, y, z, option]."""

    def place(x, y, z):
        return types.SimpleNamespace(location=types.SimpleNamespace(x=x, y=y, z=z))

    return (
        [({"lat": lat, "lon": lon, "z": z}, RoadOption(option)) for lat, lon, z, option in gps],
        [(place(x, y, z), RoadOption(option)) for x, y, z, option in world],
    )


DEGREE_M = 6378137.0 * np.pi / 180
"""On the equator."""


def plan_rows():
    """Two nodes 100 m apart, east of the map's origin on the equator."""
    return {
        "gps": [[0.0, 0.0, 0.0, 4], [0.0, 100 / DEGREE_M, 0.0, 4]],
        "world": [[0.0, 0.0, 0.0, 4], [100.0, 0.0, 0.0, 4]],
    }


def straight_plan():
    return plan_of(**plan_rows())


def sensor_values(speed_m_s=3.0):
    return {"gps": [0.0, 0.0, 0.0], "imu": [0.1, 0.2, 9.8, 0.0, 0.0, 0.01, np.pi / 2], "speed_m_s": speed_m_s}


def jpeg(note=b"", size=(1600, 900), **options):
    """A grey picture that no other note has the bytes of."""
    encoded = io.BytesIO()
    Image.new("RGB", size, (128, 128, 128)).save(encoded, "JPEG", quality=20, **options)
    content = encoded.getvalue()
    return content[:2] + b"\xff\xfe" + (len(note) + 2).to_bytes(2, "big") + note + content[2:]


PLAIN = jpeg()


def jpegs(note):
    """Of all cameras, made of one picture."""
    notes = [f"{note} {camera}".encode() for camera in RIG.cameras]
    return [PLAIN[:2] + b"\xff\xfe" + (len(each) + 2).to_bytes(2, "big") + each + PLAIN[6:] for each in notes]


def recorded(note, speed_m_s=3.0):
    """An observation of a clip as the fake leaderboard hands it to the agent."""
    pose = np.eye(4) + np.random.default_rng(abs(hash(note)) % 1000).normal(size=(4, 4))
    can_bus = np.zeros(18)
    can_bus[7] = speed_m_s
    return {
        "jpegs": dict(zip(RIG.cameras, jpegs(note), strict=True)),
        "lidar2cam": RIG.lidar2cam,
        "intrinsic": RIG.intrinsic,
        "ego_pose": pose,
        "ego_pose_inv": np.linalg.inv(pose),
        "timestamp_s": 0.1,
        "command": 3,
        "can_bus": can_bus,
    }


class Wire:
    """A bare client: says what it is told to, right or wrong."""

    def __init__(self, address, session=None):
        self.address, self.session, self.number = address, session or uuid.uuid4().hex, 0
        self.socket = None
        self.connect()

    def connect(self):
        self.close()
        if self.address.path:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(60)
            self.socket.connect(self.address.path)
        else:
            self.socket = socket.create_connection((self.address.host, self.address.port), 60)

    def close(self):
        if self.socket is not None:
            self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def send(self, header, blobs=()):
        self.socket.sendall(packed(header, blobs))

    def receive(self):
        length = LENGTH.unpack(self._read(4))[0]
        return json.loads(self._read(length))

    def hello(self, **changed):
        self.send(
            {
                "type": "hello",
                "protocol": PROTOCOL,
                "token": None,
                "session": self.session,
                "resume": False,
                "agent": "0" * 64,
            }
            | changed
        )
        return self.receive()

    def request(self, header, blobs=(), number=None):
        self.number = self.number + 1 if number is None else number
        self.send({"number": self.number} | header, blobs)

    def ask(self, header, blobs=(), number=None):
        self.request(header, blobs, number)
        return self.receive()

    def begin(self, save_name=SAVE_NAME, plan=None, **changed):
        blob = json.dumps(plan or plan_rows()).encode()
        return self.ask({"type": "begin", "save_name": save_name} | changed, [blob])

    def tick(self, step, note, number=None, **changed):
        return self.ask(tick_header(step) | changed, jpegs(note), number)

    def end(self):
        return self.ask({"type": "end"})

    def _read(self, length):
        content = b""
        while len(content) < length:
            part = self.socket.recv(length - len(content))
            if not part:
                raise ConnectionError("closed")
            content += part
        return content


def tick_header(step):
    return {
        "type": "tick",
        "step": step,
        "frame": 100 + step,
        "cameras": list(RIG.cameras),
        "sensors": sensor_values(),
    }


def begun(address, save_name=SAVE_NAME, **hello):
    """A bare client that has begun a route."""
    wire = Wire(address)
    assert wire.hello(**hello)["type"] == "ready"
    assert wire.begin(save_name)["type"] == "began"
    return wire


def resumed(wire):
    """What the server says to a client that connects again."""
    wire.connect()
    return wire.hello(resume=True)
