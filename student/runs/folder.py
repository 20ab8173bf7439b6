"""The folder of a run: its own, and held while something is written to it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from cache_schema.errors import RequestError
from cache_schema.storage.locks import hold
from cache_schema.storage.paths import refuse_inside_store
from student.runs.provenance import NAME

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from student.loading.dataset import Dataset


def check_folder(run: Path, dataset: Dataset) -> None:
    """Check that a run's folder is in no dataset, and that a new one is not around one of the run's own.

    Raises:
        RequestError: It is a dataset or inside one, or a dataset is inside it.
    """
    refuse_inside_store(run / NAME)
    folder = run.resolve()
    for one in dataset.datasets:
        local = one.backend.local
        if local is not None and folder in local.resolve().parents and not (run / NAME).exists():
            raise RequestError(
                f"the dataset {one} is inside {run}, which is to be the folder of a run",
                expected="a folder of its own, which may be removed with all that is in it",
                repair="give another run folder, beside the dataset",
            )


@contextlib.contextmanager
def exclusively(run: Path) -> Generator[None]:
    """Make a run's folder, and keep every other process from writing to it.

    Raises:
        RequestError: It cannot be made.
        DatasetError: Another process writes to it.
    """
    with contextlib.ExitStack() as stack:
        try:
            run.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(run))
        except OSError as error:
            raise RequestError(
                f"{run} cannot be the folder of a run: {error}",
                expected="a folder that can be made and written to",
                repair="give another run folder, or move what is in the way",
            ) from error
        yield
