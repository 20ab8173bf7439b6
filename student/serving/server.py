"""The policy server: connections of agents, their sessions, and rounds of the policy.

One thread talks to all agents; another runs the policy; a pool prepares observations for it.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import os
import signal
import socket
import stat
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from cache_schema.errors import RequestError, TeachonceError
from cache_schema.terminal import err, out
from student.closed_loop.rig import RIG
from student.serving.address import Address
from student.serving.drive import Drive, Rules
from student.serving.drive_log import DriveLog
from student.serving.messages import (
    PROTOCOL,
    Begin,
    End,
    Hello,
    MessageError,
    Tick,
    packed,
    read_message,
    read_plan,
)
from student.serving.rounds import Rounds
from student.serving.sessions import IDLE_S, Sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from student.closed_loop.ego import Mode
    from student.serving.messages import Request
    from student.serving.policy import Policy
    from student.serving.sessions import Session

HELLO_S = 10.0
"""A connection that does not say hello by then is closed."""
MESSAGE_S = 60.0
"""A message arrives, and an answer leaves, within this time."""
MOST_CONNECTIONS = 64
"""More are closed at once: far above the simulators that one server's policy keeps up with."""
SHORTEST_TOKEN = 16


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


class PolicyServer:
    """Answers agents.

    Args:
        policy: What drives.
        rules: How it drives.
        token: File that holds the secret that agents have to know; None for none.
        log: File to which events are appended; None for none.

    Raises:
        RequestError: The token is too short.
    """

    def __init__(
        self, policy: Policy, rules: Rules, *, token: Path | None = None, log: Path | None = None
    ) -> None:
        self._policy = policy
        self._rules = rules
        self._token = None if token is None else _read_token(token)
        self._log_path = log
        self._drives = itertools.count(1)
        self._connections: set[asyncio.Task[Any]] = set()

    async def run(self, address: Address, ready: Callable[[Address], None], stop: asyncio.Event) -> None:
        """Serve until a stop.

        Args:
            address: Where to listen.
            ready: Is told where it listens, as soon as agents can connect.
            stop: Ends it.

        Raises:
            RequestError: The address is not free, or is not of this machine alone and there is no token.
        """
        if not address.is_local and self._token is None:
            raise RequestError(
                f"{address} can be reached from other machines",
                expected="an address of this machine alone, or a token",
                repair="write a secret into a file, give it as the token to the server and to agents",
            )
        with (
            DriveLog(self._log_path) as self._log,
            ThreadPoolExecutor(1, "policy") as policy_thread,
            ThreadPoolExecutor(min(self._policy.slots, os.cpu_count() or 1), "prepare") as self._pool,
        ):
            self._sessions = Sessions(self._policy.slots, self._dropped)
            self._rounds = Rounds(self._policy, policy_thread, self._sessions.driving)
            loop = asyncio.get_running_loop()
            state = await loop.run_in_executor(policy_thread, self._policy.begin)
            listener, bound = await self._listen(address)
            identity = dict(self._policy.identity)
            self._log.write("start", address=str(bound), identity=identity, **self._rules._asdict())
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._rounds.run(state)),
                    group.create_task(self._sessions.sweep()),
                ]
                try:
                    ready(bound)
                    await stop.wait()
                finally:
                    listener.close()
                    for task in (*tasks, *self._connections):
                        task.cancel()
                    if bound.path:
                        with suppress(FileNotFoundError):
                            os.unlink(bound.path)

    async def _listen(self, address: Address) -> tuple[asyncio.Server, Address]:
        try:
            if address.path:
                await _remove_stale(address.path)
                at = _bound_socket(address.path)
                return await asyncio.start_unix_server(self._connected, sock=at), address
            listener = await asyncio.start_server(self._connected, address.host, address.port)
        except OSError as error:
            raise RequestError(
                f"{address} cannot be listened at: {error.strerror or error}",
                expected="a free address of this machine",
                repair="choose another port, 0 for any that is free; or end what listens there",
            ) from error
        return listener, Address(host=address.host, port=listener.sockets[0].getsockname()[1])

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= MOST_CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        session = None
        try:
            session = await self._admitted(reader, writer)
            while session.connection is writer:
                request, blobs = await read_message(reader, idle_s=IDLE_S, message_s=MESSAGE_S)
                await _send(writer, await self._answer(session, request, blobs))
                if isinstance(request, End):
                    self._sessions.drop(session, "end")
        except (MessageError, TeachonceError) as error:
            await self._refuse(writer, session, error)
        except (OSError, EOFError, TimeoutError):
            pass  # a connection broke: its session waits for another
        except asyncio.CancelledError:
            pass  # the server ends
        finally:
            self._connections.discard(task)
            if session is not None and session.connection is writer:
                session.connection, session.seen = None, time.monotonic()
                self._rounds.drives_changed()
            writer.close()

    async def _admitted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Session:
        hello, _ = await read_message(reader, idle_s=HELLO_S, message_s=HELLO_S)
        if not isinstance(hello, Hello):
            raise MessageError("protocol", f"{hello.type!r} before hello")
        if self._token is not None and not hmac.compare_digest(
            self._token, (hello.token or "").encode(errors="replace")
        ):
            raise MessageError("token", "the token is not the server's: agents need ADDRESS,token=FILE")
        if hello.protocol != PROTOCOL:
            raise MessageError(
                "protocol", f"protocol {hello.protocol}, not {PROTOCOL}: write the agent file anew"
            )
        session = await self._until_closed(reader, self._sessions.admit(hello))
        before, session.connection, session.seen = session.connection, writer, time.monotonic()
        if before is not None:
            before.close()
        await _send(
            writer,
            {
                "type": "ready",
                "protocol": PROTOCOL,
                "session": session.id,
                "identity": dict(self._policy.identity),
                "slots": self._policy.slots,
                "cameras": list(RIG.cameras),
                **self._rules._asdict(),
            },
        )
        return session

    async def _until_closed(self, reader: asyncio.StreamReader, admission: Any) -> Session:
        """Return an admitted session, unless the agent that waits for it goes away."""
        admitted, closed = asyncio.ensure_future(admission), asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({admitted, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not admitted.done():
                raise EOFError
            return admitted.result()
        finally:
            for task in (admitted, closed):
                task.cancel()
            await asyncio.wait({admitted, closed})

    async def _answer(self, session: Session, request: Hello | Request, blobs: list[bytes]) -> dict[str, Any]:
        async def act() -> dict[str, Any]:
            if isinstance(request, Begin):
                return self._begin(session, request, blobs)
            if isinstance(request, Tick):
                return await self._tick(session, request, blobs)
            return {"type": "ended"}

        if isinstance(request, Hello):
            raise MessageError("protocol", "a second hello")
        try:
            answer = await asyncio.shield(session.ask(request, act))
        except (MessageError, TeachonceError):
            raise
        except Exception as error:
            err.print("".join(traceback.format_exception(error)), soft_wrap=True)
            raise MessageError("failed", f"the server failed: {error!r}") from error
        return {**answer, "number": request.number}

    def _begin(self, session: Session, begin: Begin, blobs: list[bytes]) -> dict[str, Any]:
        if len(blobs) != 1:
            raise MessageError("protocol", "begin has one blob, the plan")
        drive = Drive(f"{begin.save_name}#{next(self._drives)}", read_plan(blobs[0]), self._rules)
        session.drive = drive
        self._rounds.drives_changed()
        self._note(session, "begin", agent=session.agent)
        return {"type": "began"}

    async def _tick(self, session: Session, tick: Tick, jpegs: list[bytes]) -> dict[str, Any]:
        drive = session.drive
        if drive is None:
            raise MessageError("protocol", "tick before begin")
        arrived = time.perf_counter()
        loop = asyncio.get_running_loop()
        ms, positions = {}, None
        observation = drive.observe(tick, jpegs)
        if observation is not None:
            prepared = await loop.run_in_executor(self._pool, self._policy.prepare, observation)
            ms["prepare"] = 1e3 * (time.perf_counter() - arrived)
            planned = await self._rounds.plan(session.slot, prepared)
            ms |= {"queue": 1e3 * planned.queue_s, "step": 1e3 * planned.step_s}
            positions = np.asarray(planned.positions)
        control = drive.follow(positions)
        ms["total"] = 1e3 * (time.perf_counter() - arrived)
        self._note(session, "tick", step=tick.step, ms={name: round(value, 3) for name, value in ms.items()})
        return {"type": "control", "step": tick.step, **control, "ms": ms}

    async def _refuse(self, writer: asyncio.StreamWriter, session: Session | None, error: Exception) -> None:
        """Say what is wrong, and end the session."""
        refused = not isinstance(error, MessageError)
        code, sentence = ("refused", str(error)) if refused else (error.code, error.sentence)
        if session is None:
            self._log.write("error", code=code, message=sentence)
        else:
            self._note(session, "error", code=code, message=sentence)
        with suppress(OSError, TimeoutError):
            await _send(writer, {"type": "error", "code": code, "message": sentence})
        if session is not None:
            self._sessions.drop(session, code)

    def _dropped(self, session: Session, reason: str) -> None:
        self._note(session, "end", reason=reason)
        self._rounds.drives_changed()

    def _note(self, session: Session, event: str, **fields: Any) -> None:
        save_name = None if session.drive is None else session.drive.clip.rpartition("#")[0]
        self._log.write(event, save_name=save_name, session=session.id, slot=session.slot, **fields)


async def _send(writer: asyncio.StreamWriter, header: dict[str, Any]) -> None:
    writer.write(packed(header))
    async with asyncio.timeout(MESSAGE_S):
        await writer.drain()


def _read_token(file: Path) -> bytes:
    token = file.read_text().strip().encode()
    if len(token) < SHORTEST_TOKEN:
        raise RequestError(
            f"the token in {file} has {len(token)} characters",
            expected=f"at least {SHORTEST_TOKEN}",
            repair="write a longer one, for example by `openssl rand -hex 32`",
        )
    return token


def _bound_socket(path: str) -> socket.socket:
    """Return a socket at a path, for its owner alone."""
    bound = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        bound.bind(path)
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(mask)
    return bound


async def _remove_stale(path: str) -> None:
    """Remove the socket of a server that was killed.

    Raises:
        RequestError: A server listens there, or it is no socket.
    """
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(0, "a file that is no socket is there", path)
    except FileNotFoundError:
        return
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except ConnectionRefusedError:
        os.unlink(path)
        return
    writer.close()
    raise OSError(0, "another server listens there")
