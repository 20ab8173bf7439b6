"""Connections of agents, their sessions, and rounds of the policy.

One thread talks to all agents; another runs the policy; a pool prepares observations for it.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import os
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cache_schema.errors import RequestError, TeachonceError
from cache_schema.terminal import err
from student.closed_loop.rig import RIG
from student.serving.drive import Drive, Rules
from student.serving.drive_log import DriveLog
from student.serving.listener import listen, read_token, token_missing
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
    from collections.abc import Callable
    from pathlib import Path

    from student.serving.address import Address
    from student.serving.messages import Request
    from student.serving.policy import Policy
    from student.serving.sessions import Session

HELLO_S = 10.0
"""A connection that does not say hello by then is closed."""
MESSAGE_S = 60.0
"""A message arrives, and an answer leaves, within this time."""
MOST_CONNECTIONS = 64
"""More are closed at once: far above the simulators that one server's policy keeps up with."""


class PolicyServer:
    """Answers agents.

    Args:
        policy: What drives.
        rules: How it drives.
        token: File that holds the secret that agents have to know; None for none.
        log: File to which events are appended; None for none.

    Raises:
        RequestError: The token is too short, or a rule cannot be kept.
    """

    def __init__(
        self, policy: Policy, rules: Rules, *, token: Path | None = None, log: Path | None = None
    ) -> None:
        if rules.every < 1:
            raise RequestError(
                f"the policy cannot plan at every {rules.every} ticks",
                expected="1 for every tick, 2 for every second one",
                repair="give a whole number of 1 or more",
            )
        self._policy = policy
        self._rules = rules
        self._token = None if token is None else read_token(token)
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
            raise token_missing(address)
        with (
            DriveLog(self._log_path) as self._log,
            ThreadPoolExecutor(1, "policy") as policy_thread,
            ThreadPoolExecutor(self._policy.slots, "prepare") as self._pool,
        ):
            self._sessions = Sessions(self._policy.slots, self._dropped)
            self._rounds = Rounds(self._policy, policy_thread, self._sessions.driving)
            loop = asyncio.get_running_loop()
            state = await loop.run_in_executor(policy_thread, self._policy.begin)
            listener, bound = await listen(address, self._connected)
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

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= MOST_CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        session = None
        try:
            session = await self._admitted(reader)
            await self._attach(session, writer)
            while session.connection is writer:
                request, blobs = await read_message(reader, idle_s=IDLE_S, message_s=MESSAGE_S)
                writer.write(await self._answer(session, request, blobs))
                await _flush(writer)
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

    async def _admitted(self, reader: asyncio.StreamReader) -> Session:
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
        return await self._until_closed(reader, self._sessions.admit(hello))

    async def _attach(self, session: Session, writer: asyncio.StreamWriter) -> None:
        """Make a connection the session's, in place of an older one, and say that the server is ready."""
        before, session.connection, session.seen = session.connection, writer, time.monotonic()
        if before is not None:
            before.close()
        ready = {
            "type": "ready",
            "protocol": PROTOCOL,
            "session": session.id,
            "identity": dict(self._policy.identity),
            "slots": self._policy.slots,
            "cameras": list(RIG.cameras),
            **self._rules._asdict(),
        }
        writer.write(packed(ready))
        await _flush(writer)

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

    async def _answer(self, session: Session, request: Hello | Request, blobs: list[bytes]) -> bytes:
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
            return packed({**answer, "number": request.number})
        except (MessageError, TeachonceError):
            raise
        except Exception as error:
            err.print("".join(traceback.format_exception(error)), soft_wrap=True)
            raise MessageError("failed", f"the server failed: {error!r}") from error

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
        seconds, positions = {}, None
        observation = drive.observe(tick, jpegs)
        if observation is not None:
            prepared = await loop.run_in_executor(self._pool, self._policy.prepare, observation)
            seconds["prepare"] = time.perf_counter() - arrived
            planned = await self._rounds.plan(session.slot, prepared)
            seconds |= planned.seconds
            positions = planned.positions
        control = drive.follow(positions)
        seconds["total"] = time.perf_counter() - arrived
        ms = {name: round(1e3 * value, 3) for name, value in seconds.items()}
        self._note(session, "tick", step=tick.step, ms=ms)
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
            writer.write(packed({"type": "error", "code": code, "message": sentence}))
            await _flush(writer)
        if session is not None:
            self._sessions.drop(session, code)

    def _dropped(self, session: Session, reason: str) -> None:
        self._note(session, "end", reason=reason)
        self._rounds.drives_changed()

    def _note(self, session: Session, event: str, **fields: Any) -> None:
        save_name = None if session.drive is None else session.drive.clip.rpartition("#")[0]
        self._log.write(event, save_name=save_name, session=session.id, slot=session.slot, **fields)


async def _flush(writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(MESSAGE_S):
        await writer.drain()
