"""Sessions: an agent's route on the server, which survives broken connections, and the slot it has.

A session has its slot from its first connection to its end. One whose agent is not connected keeps it for as
long as agents try to reconnect, but yields it sooner to an agent that waits.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from student.serving.messages import MessageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from student.serving.drive import Drive
    from student.serving.messages import Hello, Request

KEPT_S = 300.0
"""A session without a connection is kept for so long: agents try to reconnect for as long."""
YIELD_S = 15.0
"""A session without a connection yields its slot to a waiting agent after this time: agents that live are
back within a few seconds."""
IDLE_S = 900.0
"""An agent that sends nothing for so long is lost: the evaluator's watchdogs end a tick after 600 s."""
BEGIN_S = 30.0
"""An agent begins its route as soon as it has a session."""
SWEEP_S = 0.5


@dataclass(eq=False)
class Session:
    """One agent's route."""

    id: str
    slot: int
    agent: str
    """SHA-256 of the agent file."""
    drive: Drive | None = None
    connection: asyncio.StreamWriter | None = None
    seen: float = field(default_factory=time.monotonic)
    """When it last sent something, or lost its connection."""
    _number: int = 0
    _answer: asyncio.Task[dict[str, Any]] | None = None

    @property
    def waits(self) -> bool:
        """Whether a request is under way."""
        return self._answer is not None and not self._answer.done()

    def close(self) -> None:
        """Give up its request and its connection."""
        if self._answer is not None:
            self._answer.cancel()
        if self.connection is not None:
            self.connection.close()

    def ask(
        self, request: Request, act: Callable[[], Coroutine[Any, Any, dict[str, Any]]]
    ) -> asyncio.Task[dict[str, Any]]:
        """Return the answer to a request; to one that was asked before, the same again.

        Args:
            request: The message.
            act: Does what a new request asks for.

        Raises:
            MessageError: It is neither the last request again nor the next one.
        """
        self.seen = time.monotonic()
        if self._answer is not None and request.number == self._number:
            return self._answer
        if request.number != self._number + 1 or self.waits:
            raise MessageError("protocol", f"request {request.number} after request {self._number}")
        self._number = request.number
        self._answer = asyncio.create_task(act())
        return self._answer


class Sessions:
    """All sessions of a server.

    Args:
        slots: How many there may be at once.
        dropped: Is told of every session that ends.
    """

    def __init__(self, slots: int, dropped: Callable[[Session, str], None]) -> None:
        self._free = list(range(slots))
        self._dropped = dropped
        self._sessions: dict[str, Session] = {}
        self._waiting: list[asyncio.Future[int]] = []

    def driving(self) -> int:
        """Return how many sessions have a connection and have begun a route."""
        return sum(
            session.drive is not None and session.connection is not None
            for session in self._sessions.values()
        )

    async def admit(self, hello: Hello) -> Session:
        """Return the session of an agent, a new one as soon as a slot is free.

        Raises:
            MessageError: ("gone") The agent had one, which is no more.
        """
        if hello.session not in self._sessions:
            if hello.resume:
                raise MessageError(
                    "gone", "the server was restarted, or gave the route up; it has to begin anew"
                )
            slot = await self._slot()
            if hello.session in self._sessions:  # the agent connected again meanwhile
                self._release(slot)
            else:
                self._sessions[hello.session] = Session(hello.session, slot, hello.agent)
        return self._sessions[hello.session]

    def drop(self, session: Session, reason: str) -> None:
        """End a session, and free its slot."""
        if self._sessions.pop(session.id, None) is not None:
            session.close()
            self._release(session.slot)
            self._dropped(session, reason)

    async def sweep(self) -> None:
        """Drop sessions whose agents are lost, for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            lost = sorted(
                (session for session in self._sessions.values() if session.connection is None),
                key=lambda session: session.seen,
            )
            for rank, session in enumerate(lost):
                patience = YIELD_S if rank < len(self._waiting) else KEPT_S
                if now - session.seen > patience:
                    self.drop(session, "its agent is not connected")
            for session in [*self._sessions.values()]:
                patience = BEGIN_S if session.drive is None else IDLE_S
                if session.connection is not None and not session.waits and now - session.seen > patience:
                    self.drop(session, "its agent is idle")

    async def _slot(self) -> int:
        if self._free:
            self._free.sort()
            return self._free.pop(0)
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif not waiting.cancelled():
                self._release(waiting.result())
            raise

    def _release(self, slot: int) -> None:
        while self._waiting:
            waiting = self._waiting.pop(0)
            if not waiting.done():
                waiting.set_result(slot)
                return
        self._free.append(slot)
