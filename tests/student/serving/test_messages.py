import asyncio
import json
import struct

import numpy as np
import pytest

from student.serving.messages import (
    LARGEST_BLOB,
    LONGEST_HEADER,
    MessageError,
    Tick,
    packed,
    read_message,
    read_plan,
)
from tests.student.serving.simulator import jpegs, plan_rows, sensor_values, tick_header

HELLO = {
    "type": "hello",
    "protocol": 1,
    "token": None,
    "session": "0" * 32,
    "resume": False,
    "agent": "0" * 64,
}
BEGIN = {"type": "begin", "number": 1, "save_name": "RouteScenario_1"}
TICK = {"number": 2} | tick_header(0)


def read(content, closed=True):
    async def run():
        reader = asyncio.StreamReader()
        reader.feed_data(content)
        if closed:
            reader.feed_eof()
        return await read_message(reader, idle_s=0.05, message_s=0.05)

    return asyncio.run(run())


def raw(text):
    return struct.pack(">I", len(text)) + text


def test_a_tick_arrives_exactly():
    rng = np.random.default_rng(0)
    numbers = (rng.normal(size=3) * 10.0 ** rng.integers(-300, 300, size=3)).tolist()
    sensors = {"gps": numbers, "imu": [None, -0.0, *numbers, 5e-324, 1e308], "speed_m_s": 3}
    message, blobs = read(packed(TICK | {"sensors": sensors}, jpegs("a")))
    assert isinstance(message, Tick)
    assert message.sensors is not None
    assert list(message.sensors.gps) == numbers
    assert message.sensors.imu[0] is None
    assert np.signbit(message.sensors.imu[1])
    assert list(message.sensors.imu[2:]) == [*numbers, 5e-324, 1e308]
    assert blobs == jpegs("a")


@pytest.mark.parametrize(
    "changed",
    [
        {"type": "shutdown"},
        {"step": -1},
        {"step": 1.5},
        {"step": "1"},
        {"number": 0},
        {"frame": None},
        {"extra": 1},
        {"cameras": ["CAM_FRONT"] * 9},
        {"cameras": "CAM_FRONT"},
        {"sensors": sensor_values() | {"gps": [0.0, 0.0]}},
        {"sensors": sensor_values() | {"gps": [0.0, 0.0, None]}},
        {"sensors": sensor_values() | {"gps": [0.0, 0.0, "0"]}},
        {"sensors": sensor_values() | {"imu": [0.0] * 8}},
        {"sensors": sensor_values() | {"bev": 1}},
        {"replay": {}},
    ],
    ids=str,
)
def test_a_wrong_field_is_refused(changed):
    with pytest.raises(MessageError, match="protocol"):
        read(packed(TICK | changed))


@pytest.mark.parametrize(
    "name", ["", "a/b", "..\\x", "a b", "a\n", "ü", "x" * 201, None, 7], ids=lambda name: str(name)[:8]
)
def test_names_hold_nothing_of_paths(name):
    with pytest.raises(MessageError):
        read(packed(BEGIN | {"save_name": name}))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b"[" * 60000,
        b'{"type": ' * 7000,
        json.dumps(HELLO).encode() + b"x",
        json.dumps(TICK).replace("9.8", "NaN").encode(),
        json.dumps(TICK).replace("9.8", "Infinity").encode(),
        json.dumps(TICK).replace("9.8", "1e999").encode(),
        json.dumps(TICK).replace('"step": 0', f'"step": {"9" * 5000}').encode(),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_a_header_that_is_no_message_is_refused(text):
    assert len(text) <= LONGEST_HEADER
    with pytest.raises(MessageError):
        read(raw(text))


def test_lengths_are_checked_before_anything_is_read():
    with pytest.raises(MessageError, match="header of"):
        read(struct.pack(">I", LONGEST_HEADER + 1), closed=False)
    for lengths in ([LARGEST_BLOB + 1], [0], [-1], [2**70], [1.5], [1] * 9):
        text = json.dumps(TICK | {"blobs": lengths}).encode()
        with pytest.raises(MessageError, match="blobs"):
            read(raw(text), closed=False)
    for header in (HELLO, TICK | {"type": "end"}):
        header = {name: header[name] for name in header if header is HELLO or name in ("type", "number")}
        with pytest.raises(MessageError, match="blobs"):
            read(raw(json.dumps(header | {"blobs": [1]}).encode()), closed=False)
    with pytest.raises(MessageError, match="2 blobs"):
        read(raw(json.dumps(BEGIN | {"blobs": [1, 1]}).encode()), closed=False)


def test_a_message_that_stops_ends_the_wait():
    whole = packed(TICK, jpegs("a"))
    for length in (0, 3, 4, 50, len(whole) - 1):
        with pytest.raises(EOFError):
            read(whole[:length])
        with pytest.raises(TimeoutError):
            read(whole[:length], closed=False)


def test_a_plan_arrives_exactly():
    plan = read_plan(json.dumps(plan_rows()).encode())
    assert [list(node) for node in plan.gps] == plan_rows()["gps"]
    assert [list(node) for node in plan.world] == plan_rows()["world"]


@pytest.mark.parametrize(
    "changed",
    [
        {"gps": []},
        {"world": [[0.0, 0.0, 4]]},
        {"world": [[0.0, 0.0, 0.0, 4.5]]},
        {"more": 1},
        {"gps": [[0, 0, 0, 4]] * 20_001},
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_a_wrong_plan_is_refused(changed):
    with pytest.raises(MessageError):
        read_plan(json.dumps(plan_rows() | changed).encode())
