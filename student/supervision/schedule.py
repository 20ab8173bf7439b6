"""Which route is next: those that failed wait their time, and others go before them."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from student.supervision.routes import Route


class Schedule:
    """Routes for several workers, each of which takes one and then says whether it is done.

    Args:
        routes: In the order in which they are taken.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._order = itertools.count()
        self._waiting = [(0.0, next(self._order), route) for route in routes]
        self._under_way = 0
        self._stopped = False
        self._changed = threading.Condition()

    def take(self) -> Route | None:
        """Wait for a route whose time has come; None when all are done, or the schedule was stopped."""
        with self._changed:
            while not self._stopped and (self._waiting or self._under_way):
                wait_s = self._waiting[0][0] - time.monotonic() if self._waiting else None
                if wait_s is None or wait_s > 0:
                    self._changed.wait(wait_s)
                    continue
                self._under_way += 1
                return heapq.heappop(self._waiting)[2]
            return None

    def done(self) -> None:
        """Report that a route that was taken needs no further attempt."""
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()

    def again(self, route: Route, after_s: float) -> None:
        """Put a route back that was taken, for an attempt that begins so many seconds from now or later."""
        with self._changed:
            heapq.heappush(self._waiting, (time.monotonic() + after_s, next(self._order), route))
            self._under_way -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Give out no more routes."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def stopped(self) -> bool:
        """Whether no more routes are given out."""
        return self._stopped
