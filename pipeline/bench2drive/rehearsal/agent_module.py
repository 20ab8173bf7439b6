"""Import an agent file where neither CARLA nor the leaderboard is installed, or in spite of them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import ModuleType

STUBS = Path(__file__).parent / "stubs"
"""What an agent imports of CARLA and the leaderboard, ahead of anything installed."""
STAND_INS = Path(__file__).parent / "stand_ins"
"""What an agent imports of the evaluator's Python, behind anything installed."""
STUBBED = ("carla", "leaderboard")


@contextlib.contextmanager
def agent_module(file: Path) -> Generator[ModuleType]:
    """Import an agent file, with stub modules in the place of CARLA and the leaderboard.

    Raises:
        RequestError: There is no such file, or it cannot be imported.
    """
    hidden = {name: sys.modules[name] for name in sys.modules if name.partition(".")[0] in STUBBED}
    for name in hidden:
        del sys.modules[name]
    path = list(sys.path)
    sys.path[:] = [str(STUBS), *path, str(file.parent), str(STAND_INS)]
    importlib.invalidate_caches()
    try:
        yield _imported(file)
    finally:
        sys.path[:] = path
        for name in [name for name, module in sys.modules.items() if _is_ours(module)]:
            del sys.modules[name]
        sys.modules.update(hidden)


def _is_ours(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and any(Path(file).is_relative_to(folder) for folder in (STUBS, STAND_INS))


def _imported(file: Path) -> ModuleType:
    try:
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does
        raise RequestError(
            f"the agent file {file} cannot be imported: {type(error).__name__}: {error}",
            expected="a file of Python with get_entry_point(), as Bench2Drive loads it",
            repair="correct the file; `teachonce agent DIR` writes one",
        ) from error
    return module
