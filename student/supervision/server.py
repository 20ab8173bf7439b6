"""The policy server, as its supervisor sees it: whether it is there, and what it serves."""

from __future__ import annotations

import json
import socket
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cache_schema.errors import RequestError
from cache_schema.storage.atomic_io import sha256_of
from student.serving.messages import LENGTH, LONGEST_HEADER, PROTOCOL, packed

if TYPE_CHECKING:
    from pathlib import Path

    from student.serving.address import Address

RULES = ("mode", "every", "allow_replay")
"""Fields of the server's greeting that say how its policy drives."""


@dataclass(frozen=True)
class ServerAddress:
    """A policy server that agents are told to ask."""

    address: Address
    token: Path | None = None
    """File with its token."""

    @property
    def agent_config(self) -> str:
        """What agents are told."""
        return str(self.address) if self.token is None else f"{self.address},token={self.token.absolute()}"

    def answers(self, timeout_s: float = 5.0) -> bool:
        """Return whether anything listens there."""
        try:
            self._connected(timeout_s).close()
        except OSError:
            return False
        return True

    def greeting(self, agent: Path, timeout_s: float = 60.0) -> dict[str, Any]:
        """Return what the server tells an agent that connects.

        Args:
            agent: The agent file.
            timeout_s: How long to wait for a place. Those of agents that were killed are free within 15 s.

        Raises:
            RequestError: It does not answer, or refuses.
        """
        hello = {
            "type": "hello",
            "protocol": PROTOCOL,
            "token": None if self.token is None else self.token.read_text().strip(),
            "session": uuid.uuid4().hex,
            "resume": False,
            "agent": sha256_of(agent),
        }
        try:
            with self._connected(timeout_s) as connection:
                connection.sendall(packed(hello))
                greeting = _receive(connection)
                if greeting["type"] == "ready":
                    connection.sendall(packed({"type": "end", "number": 1}))
                    _receive(connection)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise self.silent(str(error) or type(error).__name__) from error
        if greeting["type"] != "ready":
            raise RequestError(
                f"the policy server at {self.address} refuses the agent: {greeting.get('message')}",
                expected="the token of the server, and the agent file of the same version",
                repair="give --token; write the agent file anew by `teachonce agent`",
            )
        return greeting

    def silent(self, why: str) -> RequestError:
        """Return the error of a server that does not answer."""
        return RequestError(
            f"the policy server at {self.address} does not answer: {why}",
            expected="a server that listens there, with a place that is free",
            repair="start it by `teachonce serve`, and give the address that it prints; then run this again",
        )

    def _connected(self, timeout_s: float) -> socket.socket:
        if not self.address.path:
            return socket.create_connection((self.address.host, self.address.port), timeout_s)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout_s)
            connection.connect(self.address.path)
        except OSError:
            connection.close()
            raise
        return connection


def _receive(connection: socket.socket) -> dict[str, Any]:
    with connection.makefile("rb") as stream:
        (length,) = LENGTH.unpack(_read(stream.read(LENGTH.size), LENGTH.size))
        if length > LONGEST_HEADER:
            raise ValueError(f"what listens there is no policy server: it answers {length} bytes")
        return json.loads(_read(stream.read(length), length))


def _read(part: bytes, length: int) -> bytes:
    if len(part) < length:
        raise EOFError("it closed the connection")
    return part
