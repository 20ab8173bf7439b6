"""The policy server, as its supervisor sees it: whether it is there, and what it serves."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

PROTOCOL = 1
LENGTH = struct.Struct(">I")
LONGEST_HEADER = 1 << 16
OF_SESSION = ("type", "session", "blobs")
"""Fields of the server's greeting that say nothing of what it serves."""


@dataclass(frozen=True)
class PolicyServer:
    """A server that agents are told to ask."""

    address: str
    """``tcp://HOST:PORT`` or ``unix:///PATH``."""
    token: Path | None = None
    """File with its token."""

    @property
    def agent_config(self) -> str:
        """What agents are told."""
        return self.address if self.token is None else f"{self.address},token={self.token.absolute()}"

    def answers(self, timeout_s: float = 5.0) -> bool:
        """Return whether anything listens there."""
        try:
            self._connected(timeout_s).close()
        except OSError:
            return False
        return True

    def greeting(self, agent: Path, timeout_s: float = 30.0) -> dict[str, Any]:
        """Return what the server tells an agent that connects: whose policy it is, mode, and rate.

        Args:
            agent: The agent file.
            timeout_s: How long to wait for a place; all may be taken.

        Raises:
            RequestError: It does not answer, or refuses.
        """
        hello = {
            "type": "hello",
            "protocol": PROTOCOL,
            "token": self.token.read_text().strip() if self.token else None,
            "session": uuid.uuid4().hex,
            "resume": False,
            "agent": hashlib.sha256(agent.read_bytes()).hexdigest(),
            "blobs": [],
        }
        try:
            with self._connected(timeout_s) as connection:
                _send(connection, hello)
                ready = _receive(connection)
                if ready.get("type") != "error":
                    _send(connection, {"type": "end", "number": 1, "blobs": []})
                    _receive(connection)
        except (OSError, ValueError) as error:
            raise self.silent(str(error) or type(error).__name__) from error
        if ready.get("type") == "error":
            raise RequestError(
                f"the policy server at {self.address} refuses the agent: {ready.get('message')}",
                expected="the token of the server, and the agent file of the same version",
                repair="give --token; write the agent file anew by `teachonce agent`",
            )
        return {name: value for name, value in ready.items() if name not in OF_SESSION}

    def silent(self, why: str) -> RequestError:
        """Return the error of a server that does not answer."""
        return RequestError(
            f"the policy server at {self.address} does not answer: {why}",
            expected="a server that listens there, with a place that is free",
            repair="start it by `teachonce serve`, and give the address that it prints; then run this again",
        )

    def _connected(self, timeout_s: float) -> socket.socket:
        if found := re.fullmatch(r"tcp://\[?([^\[\]/,+]+)\]?:(\d{1,5})", self.address):
            return socket.create_connection((found[1], int(found[2])), timeout_s)
        if found := re.fullmatch(r"unix://(/[^,+]+)", self.address):
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(timeout_s)
                connection.connect(found[1])
            except OSError:
                connection.close()
                raise
            return connection
        raise RequestError(
            f"{self.address!r} is no address",
            expected="tcp://HOST:PORT or unix:///PATH",
            repair="give the address that `teachonce serve` prints",
        )


def _send(connection: socket.socket, header: dict[str, Any]) -> None:
    text = json.dumps(header).encode()
    connection.sendall(LENGTH.pack(len(text)) + text)


def _receive(connection: socket.socket) -> dict[str, Any]:
    (length,) = LENGTH.unpack(_read(connection, LENGTH.size))
    if length > LONGEST_HEADER:
        raise ValueError(f"it answers {length} bytes, and so is no policy server")
    message = json.loads(_read(connection, length))
    if not isinstance(message, dict):
        raise ValueError("it answers no message, and so is no policy server")
    return message


def _read(connection: socket.socket, length: int) -> bytes:
    parts = b""
    while len(parts) < length:
        part = connection.recv(length - len(parts))
        if not part:
            raise ConnectionError("it closed the connection")
        parts += part
    return parts
