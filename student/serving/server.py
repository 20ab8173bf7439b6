"""Serve a policy to the agents of simulators."""

from __future__ import annotations

import asyncio
import signal
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cache_schema.terminal import out
from student.serving.drive import Rules
from student.serving.policy_server import PolicyServer

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from student.closed_loop import Mode
    from student.serving.address import Address
    from student.serving.policy import Policy


def serve(
    policy: Policy,
    address: Address,
    *,
    mode: Mode,
    every: int = 1,
    token: Path | None = None,
    allow_replay: bool = False,
    log: Path | None = None,
) -> None:
    """Serve a policy until SIGINT or SIGTERM. Prints ``ready ADDRESS`` when agents can connect.

    Args:
        policy: What drives.
        address: Where to listen.
        mode: How the vehicle's state is estimated.
        every: Plan at every so manyth tick.
        token: File that holds a secret, which agents have to know.
        allow_replay: Whether agents may send recorded observations; for rehearsals only.
        log: File to which events are appended; see ``drive_log``.

    Raises:
        RequestError: The address is not free, or is not of this machine alone and there is no token.
        KeyboardInterrupt: SIGINT ended it.
    """
    server = PolicyServer(policy, Rules(mode, every, allow_replay), token=token, log=log)

    async def run() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await server.run(address, lambda bound: out.print(f"ready {bound}", soft_wrap=True), stop)

    asyncio.run(run())


@contextmanager
def serving(
    policy: Policy,
    address: Address,
    *,
    mode: Mode,
    every: int = 1,
    token: Path | None = None,
    allow_replay: bool = False,
    log: Path | None = None,
) -> Generator[Address]:
    """Serve a policy from a thread for the length of a context; see ``serve``. Yields where it listens."""
    server = PolicyServer(policy, Rules(mode, every, allow_replay), token=token, log=log)
    ready: Future[tuple[Address, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        await server.run(address, lambda bound: ready.set_result((bound, loop, stop)), stop)

    def thread() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    running = threading.Thread(target=thread, name="policy server")
    running.start()
    try:
        bound, loop, stop = ready.result()
        try:
            yield bound
        finally:
            loop.call_soon_threadsafe(stop.set)
    finally:
        running.join()
