"""Rounds: one call of the policy for all drives that wait for a plan.

Dimension letters: P slots.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cache_schema.vocabulary.driving import TRAJECTORY_STEPS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor

    from student.serving.policy import Policy

GATHER_S = 0.005
"""A round waits for the drives that have not sent yet, but no longer: little beside a policy's own time."""


class PolicyError(Exception):
    """The policy failed in a round, or gave no plan for a drive."""


class Planned(NamedTuple):
    """What a drive gets of a round."""

    positions: np.ndarray
    """(6, 2) metres, LiDAR frame (x right, y forward), 0.5 s apart."""
    seconds: Mapping[str, float]
    """What it took: ``queue`` until the round, its ``step``, and the parts that the policy measures."""


class _Waiting(NamedTuple):
    prepared: Any
    since: float
    planned: asyncio.Future[Planned]


class Rounds:
    """Gathers what drives have prepared, and steps the policy with a constant number of slots.

    Args:
        policy: What plans.
        thread: Where it runs: an executor of one thread.
        busy: Returns how many drives there are.
    """

    def __init__(self, policy: Policy, thread: Executor, busy: Callable[[], int]) -> None:
        self._policy = policy
        self._thread = thread
        self._busy = busy
        self._waiting: dict[int, _Waiting] = {}
        self._changed = asyncio.Event()

    async def plan(self, slot: int, prepared: Any) -> Planned:
        """Return the plan for a slot's prepared observation.

        Raises:
            PolicyError: There is none.
        """
        planned = asyncio.get_running_loop().create_future()
        waiting = self._waiting[slot] = _Waiting(prepared, time.perf_counter(), planned)
        self._changed.set()
        try:
            return await planned
        finally:
            if self._waiting.get(slot) is waiting:  # the drive was given up before its round
                del self._waiting[slot]

    def drives_changed(self) -> None:
        """Note that there are more drives, or fewer: a round may wait for one that is no more."""
        self._changed.set()

    async def run(self, state: Any) -> None:
        """Step for ever, from the state that the policy begins with."""
        loop = asyncio.get_running_loop()
        while True:
            await self._gather()
            waiting, self._waiting = self._waiting, {}
            begun = time.perf_counter()
            inputs = [
                waiting[slot].prepared if slot in waiting else None for slot in range(self._policy.slots)
            ]
            try:
                plans, state = await loop.run_in_executor(self._thread, self._policy.step, inputs, state)
                plans = np.asarray(plans)
                if plans.shape != (self._policy.slots, TRAJECTORY_STEPS, 2):
                    raise ValueError(f"the policy's plans are {plans.shape}")
            except Exception as error:  # noqa: BLE001 - a policy is foreign code: its drives end, others go on
                for drive in waiting.values():
                    _fail(drive.planned, PolicyError(f"the policy failed: {error!r}"), error)
                continue
            seconds = {"step": time.perf_counter() - begun, **self._policy.seconds}
            for slot, drive in waiting.items():
                if not np.isfinite(plans[slot]).all():
                    _fail(drive.planned, PolicyError("the plan is not finite"))
                elif not drive.planned.done():
                    drive.planned.set_result(Planned(plans[slot], {"queue": begun - drive.since, **seconds}))

    async def _gather(self) -> None:
        while not self._waiting:
            self._changed.clear()
            await self._changed.wait()
        try:
            async with asyncio.timeout(GATHER_S):
                while len(self._waiting) < self._busy():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass


def _fail(planned: asyncio.Future[Planned], error: PolicyError, cause: Exception | None = None) -> None:
    if not planned.done():
        error.__cause__ = cause
        planned.set_exception(error)
