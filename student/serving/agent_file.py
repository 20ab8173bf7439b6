"""Write the agent file into a Bench2Drive tree."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

SOURCE = "bench2drive_agent.py"
NAME = "teachonce_agent.py"
"""In the tree's folder for agents."""
EVALUATOR = Path("leaderboard/leaderboard/leaderboard_evaluator.py")
AGENTS = Path("leaderboard/team_code")


def write_agent(bench2drive: Path) -> Path:
    """Write the agent file, over an older one, and return its path.

    Args:
        bench2drive: The tree: the folder of ``leaderboard/`` and ``scenario_runner/``.

    Raises:
        RequestError: It is no Bench2Drive tree.
    """
    if not (bench2drive / EVALUATOR).is_file():
        raise RequestError(
            f"{bench2drive} is no Bench2Drive tree",
            expected=f"a folder with {EVALUATOR}",
            repair="clone https://github.com/Thinklab-SJTU/Bench2Drive, and name its folder",
        )
    (bench2drive / AGENTS).mkdir(exist_ok=True)
    target = bench2drive / AGENTS / NAME
    with agent_source() as source:
        target.write_bytes(source.read_bytes())
    return target


def agent_source() -> AbstractContextManager[Path]:
    """Return a context in which the agent file of this package has a path."""
    return as_file(files("student.serving").joinpath(SOURCE))
