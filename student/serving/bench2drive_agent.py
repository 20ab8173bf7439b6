"""Drive a route of Bench2Drive by a policy server: send what the sensors saw, apply the control it answers.

This file stands alone: it is copied into a Bench2Drive tree, and runs in the evaluator's Python, 3.7 or
newer. Beside the standard library it needs OpenCV, which the evaluator needs, too. The agent's configuration
is ``ADDRESS`` or ``ADDRESS,token=FILE``, where ADDRESS is what ``teachonce serve`` says when it is ready.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
import struct
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import carla  # ty: ignore[import-not-found]
from leaderboard.autoagents import autonomous_agent  # ty: ignore[import-not-found]

PROTOCOL = 1
WIDTH, HEIGHT = 1600, 900
JPEG_QUALITY = 20
"""Bench2Drive's images were stored at this quality: students know no others."""
CAMERAS = {
    "CAM_FRONT": {"x": 0.80, "y": 0.0, "z": 1.60, "yaw": 0.0, "fov": 70},
    "CAM_FRONT_LEFT": {"x": 0.27, "y": -0.55, "z": 1.60, "yaw": -55.0, "fov": 70},
    "CAM_FRONT_RIGHT": {"x": 0.27, "y": 0.55, "z": 1.60, "yaw": 55.0, "fov": 70},
    "CAM_BACK": {"x": -2.0, "y": 0.0, "z": 1.60, "yaw": 180.0, "fov": 110},
    "CAM_BACK_LEFT": {"x": -0.32, "y": -0.55, "z": 1.60, "yaw": -110.0, "fov": 70},
    "CAM_BACK_RIGHT": {"x": -0.32, "y": 0.55, "z": 1.60, "yaw": 110.0, "fov": 70},
}
"""Mounts in the vehicle's axes: metres, degrees."""
ANTENNA_X = -1.4
"""Of GPS and IMU, metres."""

ANSWER_S = 540.0
"""An answer is awaited for less than the evaluator's watchdog allows a tick, 600 s."""
RECONNECT_S = 300.0
"""A server that cannot be reached is tried again for this long."""
PAUSES_S = (0.05, 5.0)
"""Between two tries: the first pause; each is twice the one before, up to the last."""
FAREWELL_S = 10.0
LONGEST_HEADER = 65536
LENGTH = struct.Struct(">I")


class ServerError(RuntimeError):
    """The server refuses, or cannot go on with this route."""


class ServerGone(ServerError):  # noqa: N818 - logs are searched for this name
    """The server was restarted, or gave up this route: its memory of it is gone."""


class ServerLost(ServerError):  # noqa: N818 - and for this one
    """The server cannot be reached, or does not answer."""


def get_entry_point():
    """Return the name of the agent's class, for the evaluator."""
    return "TeachonceAgent"


class TeachonceAgent(autonomous_agent.AutonomousAgent):
    """One instance drives one route."""

    client: Any = None
    metrics: Any = None
    last_answer: Any = None
    """The server's answer to the last tick: a dictionary."""

    def setup(self, path_to_conf_file):
        """Connect, check, and begin the route.

        Args:
            path_to_conf_file: The agent's configuration, and after every "+" a name of a route as the
                evaluator appended it; the last is the present one's.
        """
        configuration, plus, names = path_to_conf_file.partition("+")
        if not plus:
            raise ValueError(
                f"the agent's configuration {path_to_conf_file!r} names no route: "
                "expected ADDRESS[,token=FILE]+NAME; Bench2Drive's evaluator appends the name"
            )
        self.track = autonomous_agent.Track.SENSORS
        self.save_name = names.split("+")[-1]
        self.step = -1
        self.pool = ThreadPoolExecutor(len(CAMERAS))
        self.client = Client(configuration)
        self.rules = self.client.connect()
        if self.rules["cameras"] != list(CAMERAS):
            raise ServerError("the server expects the cameras {}".format(self.rules["cameras"]))
        if not self.rules["allow_replay"]:
            import_opencv()
        self.metrics = MetricFile(self.save_name)
        plan = {
            "gps": [[at["lat"], at["lon"], at["z"], int(option.value)] for at, option in self._global_plan],
            "world": [
                [at.location.x, at.location.y, at.location.z, int(option.value)]
                for at, option in self._global_plan_world_coord
            ],
        }
        self.client.ask(
            {"type": "begin", "save_name": self.save_name}, [json.dumps(plan, allow_nan=False).encode()]
        )

    def sensors(self):
        """Return the six cameras, GPS, IMU and speedometer."""
        upright = {"roll": 0.0, "pitch": 0.0}
        antenna = dict(upright, x=ANTENNA_X, y=0.0, z=0.0, yaw=0.0)
        cameras = [
            dict(mount, **upright, type="sensor.camera.rgb", id=name, width=WIDTH, height=HEIGHT)
            for name, mount in CAMERAS.items()
        ]
        return [
            *cameras,
            dict(antenna, type="sensor.other.imu", id="IMU", sensor_tick=0.05),
            dict(antenna, type="sensor.other.gnss", id="GPS", sensor_tick=0.01),
            {"type": "sensor.speedometer", "id": "SPEED", "reading_frequency": 20},
        ]

    def run_step(self, input_data, timestamp):
        """Return the control for one tick.

        Args:
            input_data: Sensor -> (frame, its data), or "REPLAY" -> (frame, an observation of a clip).
            timestamp: Seconds of the simulation.
        """
        self.step += 1
        due = self.step % self.rules["every"] == 0
        header = {"type": "tick", "step": self.step}
        if "REPLAY" in input_data:
            header["frame"], recorded = input_data["REPLAY"]
            header["replay"] = {key: plain(value) for key, value in recorded.items() if key != "jpegs"}
            jpegs = recorded["jpegs"] if due else {}
        else:
            header["frame"] = input_data["SPEED"][0]
            header["sensors"] = {
                "gps": plain(input_data["GPS"][1]),
                "imu": plain(input_data["IMU"][1]),
                "speed_m_s": plain(input_data["SPEED"][1]["speed"]),
            }
            names = list(CAMERAS) if due else []
            images = [input_data[name][1] for name in names]
            jpegs = {names[place]: jpeg for place, jpeg in enumerate(self.pool.map(compressed, images))}
        header["cameras"] = list(jpegs)
        self.last_answer = self.client.ask(header, list(jpegs.values()))
        self.metrics.add(self)
        control = carla.VehicleControl()
        control.steer = self.last_answer["steer"]
        control.throttle = self.last_answer["throttle"]
        control.brake = self.last_answer["brake"]
        control.manual_gear_shift = False
        return control

    def destroy(self):
        """End the route."""
        if self.metrics is not None:
            self.metrics.close()
        if self.client is not None:
            self.pool.shutdown()
            self.client.end()


class Client:
    """One session with the server. Only one request is under way, and survives broken connections.

    Args:
        configuration: ``tcp://HOST:PORT`` or ``unix:///PATH``, and then maybe ``,token=FILE``.
    """

    def __init__(self, configuration):
        self.address, _, option = configuration.partition(",")
        self.token = None
        if option:
            name, _, file = option.partition("=")
            if name != "token":
                raise ValueError(f"unknown option {option!r}: expected ADDRESS or ADDRESS,token=FILE")
            with open(file) as lines:
                self.token = lines.read().strip()
        self.session = uuid.uuid4().hex
        self.rules = None
        self.number = 0
        self.socket: Any = None
        self.deadline = 0.0

    def connect(self):
        """Return the server's rules."""
        self._try_again(self._open)
        return self.rules

    def ask(self, header, blobs=()):
        """Return the answer to a message.

        Raises:
            ServerError: There is none; the route cannot go on.
        """
        self.number += 1
        message = dict(header, number=self.number, blobs=[len(blob) for blob in blobs])

        def once():
            if self.socket is None:
                self._open()
            self._send(message, blobs)
            return self._receive()

        return self._try_again(once)

    def end(self):
        """Take leave, if the server still listens."""
        if self.socket is not None:
            self.deadline = time.monotonic() + FAREWELL_S
            try:
                self._send({"type": "end", "number": self.number + 1, "blobs": []}, ())
                self._receive()
            except (OSError, ServerError):
                pass
            self._close()

    def _try_again(self, action):
        self.deadline = time.monotonic() + ANSWER_S
        give_up, pause = self.deadline, PAUSES_S[0]
        while True:
            try:
                return action()
            except OSError as error:
                self._close()
                now = time.monotonic()
                give_up = min(give_up, now + RECONNECT_S)
                if now > give_up:
                    raise ServerLost(
                        f"the policy server at {self.address} cannot be reached or does not answer: {error}; "
                        "start it by `teachonce serve`"
                    ) from error
                time.sleep(pause)
                pause = min(2 * pause, PAUSES_S[1])
            except ServerError:
                self._close()
                raise

    def _open(self):
        kind, _, place = self.address.partition("://")
        if kind == "unix":
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.settimeout(self._remaining())
            self.socket.connect(place)
        elif kind == "tcp":
            host, _, port = place.rpartition(":")
            self.socket = socket.create_connection((host.strip("[]"), int(port)), self._remaining())
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            raise ValueError(f"{self.address!r} is no address: tcp://HOST:PORT or unix:///PATH")
        self._send(
            {
                "type": "hello",
                "protocol": PROTOCOL,
                "token": self.token,
                "session": self.session,
                "resume": self.rules is not None,
                "agent": file_digest(),
                "blobs": [],
            },
            (),
        )
        self.rules = self._receive()

    def _send(self, header, blobs):
        text = json.dumps(header, allow_nan=False).encode()
        self.socket.settimeout(self._remaining())
        self.socket.sendall(b"".join([LENGTH.pack(len(text)), text, *blobs]))

    def _receive(self):
        (length,) = LENGTH.unpack(self._read(LENGTH.size))
        if length > LONGEST_HEADER:
            raise ServerError(f"{self.address} is no policy server: it answers {length} bytes")
        answer = json.loads(self._read(length).decode())
        if answer["type"] == "error":
            kind = ServerGone if answer["code"] == "gone" else ServerError
            raise kind("teachonce {}: {}".format(answer["code"], answer["message"]))
        return answer

    def _read(self, length):
        parts = []
        while length:
            self.socket.settimeout(self._remaining())
            part = self.socket.recv(length)
            if not part:
                raise ConnectionError("the connection was closed")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _remaining(self):
        return max(self.deadline - time.monotonic(), 0.001)

    def _close(self):
        if self.socket is not None:
            self.socket.close()
        self.socket = None


class MetricFile:
    """What Bench2Drive's comfort and efficiency scripts read: ``$SAVE_PATH/<name>/metric_info.json``.

    Every tick is written at once, and the whole file at the end: no tick is lost. Without SAVE_PATH, nothing
    is written.
    """

    def __init__(self, save_name):
        self.lines = None
        if os.environ.get("SAVE_PATH"):
            folder = os.path.join(os.environ["SAVE_PATH"], save_name)
            os.makedirs(folder, exist_ok=True)
            self.path = os.path.join(folder, "metric_info.json")
            self.lines = open(self.path + "l", "w+")  # noqa: SIM115

    def add(self, agent):
        """Write the vehicle's motion at the agent's present step."""
        if self.lines is not None:
            self.lines.write(json.dumps([str(agent.step), agent.get_metric_info()]) + "\n")
            self.lines.flush()

    def close(self):
        """Write the whole file, and remove the one of ticks."""
        if self.lines is not None:
            self.lines.seek(0)
            with open(self.path, "w") as whole:
                json.dump(dict(json.loads(line) for line in self.lines), whole)
            self.lines.close()
            os.remove(self.path + "l")
            self.lines = None


def import_opencv():
    """Return OpenCV."""
    try:
        import cv2  # ty: ignore[import-not-found]
    except ImportError as error:
        raise ImportError(
            "OpenCV is missing in the evaluator's Python: install Bench2Drive's requirements, "
            "or `pip install opencv-python-headless`"
        ) from error
    return cv2


def compressed(image):
    """Return a camera's BGRA (900, 1600, 4) uint8 as JPEG bytes."""
    if image.shape != (HEIGHT, WIDTH, 4):
        raise ValueError(f"a camera's image is {image.shape}, expected BGRA ({HEIGHT}, {WIDTH}, 4)")
    cv2 = import_opencv()
    done, jpeg = cv2.imencode(".jpg", image[:, :, :3], [int(cv2.IMWRITE_JPEG_QUALITY), JPEG_QUALITY])
    if not done:
        raise ValueError("OpenCV could not compress a camera's image")
    return jpeg.tobytes()


def plain(value):
    """Return a number or an array as JSON has it: lists of numbers, with null for NaN."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def file_digest():
    """Return which version of this file it is."""
    with open(__file__, "rb") as content:
        return hashlib.sha256(content.read()).hexdigest()
