"""Trees of processes that carry a mark: all of a tree can be ended, and nothing beside it.

The leaderboard starts its simulator in a session of its own, so no process group holds the two together. The
environment does: whatever a process starts inherits it, in whichever session, and keeps it as an orphan.

This file is a program, too: ``keeping`` starts it, and it ends what is marked once its parent is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path

PATIENCE_S = 10.0
"""How long a killed process may take to go: it may wait for its GPU, and then no signal reaches it."""
LOOK_S = 0.05
STARTING_S = 1.0
"""A process that its parent was just starting when it was killed has its own environment after this."""
ORDERLY = b"orderly"
"""What the keeper is told at the end of a block."""


class Tree:
    """A process with all that it starts.

    Args:
        command: Program and arguments.
        marks: Environment variables that tell this tree from all others.
        folder: Working directory.
        environment: The other variables.
        log: File that takes standard output and error.

    Raises:
        OSError: The program cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        marks: Mapping[str, str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        log: Path,
    ) -> None:
        self.marks = dict(marks)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command],
                cwd=folder,
                env={**environment, **marks},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_running(self) -> bool:
        """Return whether the process itself still runs. Its number stays taken until ``end``."""
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, look) is None

    def end(self) -> tuple[int | None, list[int]]:
        """Kill what still runs of the tree.

        Returns:
            The exit status of the process, negative for a signal; and the numbers of those that stay in spite
            of it. A process that stays has None.
        """
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        left = end_marked(self.marks)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE_S)
        return self._process.returncode, left


def marked(marks: Mapping[str, str]) -> list[psutil.Process]:
    """Return the processes of this user, but this one, whose environment has all of ``marks``."""
    found = []
    for number in psutil.pids():
        # It ended meanwhile, is dead and not buried, or is another user's.
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(number)
            if number != os.getpid() and marks.items() <= process.environ().items():
                found.append(process)
    return found


def end_marked(marks: Mapping[str, str], patience_s: float = PATIENCE_S) -> list[int]:
    """Kill all processes with ``marks``, and what they start meanwhile; return the numbers of those left."""
    give_up = time.monotonic() + patience_s
    while found := marked(marks):
        if time.monotonic() > give_up:
            return [process.pid for process in found]
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(LOOK_S)
    return []


@contextlib.contextmanager
def keeping(marks: Mapping[str, str]) -> Generator[None]:
    """End all that carries ``marks`` when the block ends, or this process in whatever way, SIGKILL too."""
    command = [sys.executable, "-P", __file__, json.dumps(dict(marks))]
    # A session of its own: the Ctrl-C of a terminal does not reach it.
    keeper = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True)
    try:
        yield
    finally:
        assert keeper.stdin is not None
        with contextlib.suppress(BrokenPipeError), keeper.stdin:  # somebody killed it
            keeper.stdin.write(ORDERLY)
        keeper.wait()


def _keep(marks: dict[str, Any]) -> None:
    orderly = sys.stdin.buffer.read()  # which ends when this process's parent has ended
    end_marked(marks)
    if orderly != ORDERLY:
        time.sleep(STARTING_S)
        end_marked(marks)


if __name__ == "__main__":
    _keep(json.loads(sys.argv[1]))
