"""Ports for simulators that run beside each other."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from typing import TYPE_CHECKING, NamedTuple

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Generator

FIRST, LAST = 12_000, 32_000
"""Below the ports that Linux gives to outgoing connections, any of which may be taken at any moment."""
BLOCK = 10
"""Ports of one simulator. The leaderboard's evaluator counts on from one that is taken, so some are spare."""


class SimulatorPorts(NamedTuple):
    """The ports of one simulator."""

    rpc: int
    """CARLA takes the two after it, too: for sensors' streams, and for a second server."""
    traffic_manager: int


class Ports:
    """Gives out ports that nobody uses, and none twice at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: set[int] = set()

    @contextlib.contextmanager
    def lent(self) -> Generator[SimulatorPorts]:
        """Yield ports that are free now, and nobody else's here until the block ends.

        Raises:
            RequestError: None are free.
        """
        with self._lock:
            first = self._free_block()
            self._taken.add(first)
        try:
            yield SimulatorPorts(first, first + BLOCK // 2)
        finally:
            with self._lock:
                self._taken.discard(first)

    def _free_block(self) -> int:
        blocks = [block for block in range(FIRST, LAST, BLOCK) if block not in self._taken]
        # Another supervisor on this machine looks elsewhere first.
        random.SystemRandom().shuffle(blocks)
        for first in blocks:
            if all(_is_free(port) for port in range(first, first + BLOCK)):
                return first
        raise RequestError(
            f"no {BLOCK} neighbouring ports between {FIRST} and {LAST} are free",
            expected=f"{BLOCK} free ports for each simulator",
            repair="end simulators that were left running: pgrep -af CarlaUE4",
        )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
