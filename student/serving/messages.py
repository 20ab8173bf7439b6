"""What agent and server say to each other: a JSON header, and the blobs whose lengths it lists.

On the wire a message is the length of its header (4 bytes, big-endian), the header (UTF-8 JSON), and the
blobs, one after another. Every request has a number, one above that of the request before; a request that is
sent again, because a connection broke, has its number again.

Dimension letters: C cameras.
"""

from __future__ import annotations

import asyncio
import json
import struct
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from cache_schema.vocabulary.driving import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROTOCOL = 1
LONGEST_HEADER = 1 << 16
LARGEST_BLOB = 1 << 22
MOST_BLOBS = 8
MOST_NODES = 20_000
"""Of a route: 20 km, if it had one every metre."""
SAVE_NAME = r"^[A-Za-z0-9_.-]{1,200}$"
BASELINE, JPEG_FRAMES = 0xC0, frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers that begin a baseline JPEG's frame, and a frame of any kind: C4, C8 and CC begin something else."""
LENGTH = struct.Struct(">I")

BlobLength = Annotated[int, Field(ge=1, le=LARGEST_BLOB)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Vector3 = tuple[Finite, Finite, Finite]
Vector4 = tuple[Finite, Finite, Finite, Finite]
Matrix3 = tuple[Vector3, Vector3, Vector3]
Matrix4 = tuple[Vector4, Vector4, Vector4, Vector4]


Nodes = Annotated[tuple[tuple[Finite, Finite, Finite, int], ...], Field(min_length=1, max_length=MOST_NODES)]


class MessageError(Exception):
    """A message breaks the protocol: the connection that it came from is closed.

    Args:
        code: "protocol", or what else the agent is told.
        sentence: What is wrong.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(code, sentence)
        self.code = code
        self.sentence = sentence


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    most_blobs: ClassVar[int] = 0

    blobs: Annotated[tuple[BlobLength, ...], Field(max_length=MOST_BLOBS)] = ()
    """Their lengths in bytes."""


class _Request(_Message):
    number: Annotated[int, Field(ge=1, lt=1 << 53)]


class Hello(_Message):
    """The first message of a connection."""

    type: Literal["hello"]
    protocol: int
    token: Annotated[str, Field(max_length=1024)] | None
    session: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    """Chosen by the agent, at random."""
    resume: bool
    """Whether the server has said before that it is ready for this session."""
    agent: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """SHA-256 of the agent file."""


class Begin(_Request):
    """A route begins. The only blob is a ``Plan``."""

    most_blobs = 1

    type: Literal["begin"]
    save_name: Annotated[str, Field(pattern=SAVE_NAME)]


class Plan(BaseModel):
    """The route as the leaderboard gives it to an agent."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    gps: Nodes
    """Latitude, longitude, height and road option of every node."""
    world: Nodes
    """x, y, z in CARLA's world, and road option."""


class SensorValues(BaseModel):
    """What GPS, IMU and speedometer gave."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    gps: Vector3
    imu: Annotated[tuple[Finite | None, ...], Field(min_length=7, max_length=7)]
    """Null for NaN."""
    speed_m_s: Finite


class Replay(BaseModel):
    """An ``Observation`` of a recorded clip, but its images."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    lidar2cam: Annotated[tuple[Matrix4, ...], Field(min_length=1, max_length=MOST_BLOBS)]
    intrinsic: Annotated[tuple[Matrix3, ...], Field(min_length=1, max_length=MOST_BLOBS)]
    ego_pose: Matrix4
    ego_pose_inv: Matrix4
    timestamp_s: Finite
    command: Annotated[int, Field(ge=0, lt=len(COMMANDS))]
    can_bus: Annotated[tuple[Finite, ...], Field(min_length=18, max_length=18)]


class Tick(_Request):
    """One tick of the simulator. The blobs are JPEGs, in the order of the names of their cameras."""

    most_blobs = MOST_BLOBS

    type: Literal["tick"]
    step: Annotated[int, Field(ge=0)]
    """From 0."""
    frame: int
    """The simulator's own count."""
    cameras: Annotated[tuple[str, ...], Field(max_length=MOST_BLOBS)]
    sensors: SensorValues | None = None
    replay: Replay | None = None


class End(_Request):
    """The route has ended, and the session with it."""

    type: Literal["end"]


Request = Begin | Tick | End
_MESSAGES: TypeAdapter[Hello | Request] = TypeAdapter(Annotated[Hello | Request, Field(discriminator="type")])


async def read_message(
    reader: asyncio.StreamReader, *, idle_s: float, message_s: float
) -> tuple[Hello | Request, list[bytes]]:
    """Return the next message of an agent, and its blobs. Nothing is read that is longer than allowed.

    Args:
        reader: Of the connection.
        idle_s: How long the message may take to begin.
        message_s: And then, to arrive.

    Raises:
        MessageError: It breaks the protocol.
        EOFError: The connection was closed.
        TimeoutError: It did not come in time.
    """
    async with asyncio.timeout(idle_s):
        (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    if length > LONGEST_HEADER:
        raise MessageError("protocol", f"a header of {length} bytes; at most {LONGEST_HEADER} are allowed")
    async with asyncio.timeout(message_s):
        message = _parsed(_MESSAGES, await reader.readexactly(length))
        if len(message.blobs) > message.most_blobs:
            raise MessageError("protocol", f"{len(message.blobs)} blobs with a message {message.type!r}")
        return message, [await reader.readexactly(size) for size in message.blobs]


def read_plan(blob: bytes) -> Plan:
    """Return the plan in the blob of a ``Begin``.

    Raises:
        MessageError: It is none.
    """
    return _parsed(TypeAdapter(Plan), blob)


def jpeg_size(jpeg: bytes) -> tuple[int, int]:
    """Return width and height of a baseline JPEG of three channels, before anything of it is decoded.

    Raises:
        MessageError: The bytes are none.
    """
    place = 2 if jpeg[:2] == b"\xff\xd8" else len(jpeg)
    while jpeg[place : place + 1] == b"\xff" and place + 10 <= len(jpeg):
        marker = jpeg[place + 1]
        if marker == BASELINE and jpeg[place + 4] == 8 and jpeg[place + 9] == 3:
            height, width = (int.from_bytes(jpeg[at : at + 2], "big") for at in (place + 5, place + 7))
            return width, height
        if marker in JPEG_FRAMES:
            break
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    raise MessageError("protocol", "an image that is no baseline JPEG of three channels")


def packed(header: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """Return a message as it goes over the wire; the lengths of the blobs are added to its header."""
    text = json.dumps({**header, "blobs": [len(blob) for blob in blobs]}, allow_nan=False).encode()
    return b"".join([LENGTH.pack(len(text)), text, *blobs])


def _parsed(kind: TypeAdapter[Any], text: bytes) -> Any:
    try:
        return kind.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise MessageError("protocol", f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
