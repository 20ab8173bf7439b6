"""Synthetic clips and a tiny teacher, shared by the tests of whole jobs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.bench2drive.synthetic import write_demo_data

os.environ["COLUMNS"] = "200"  # tables fold in a narrow terminal; read when a console is made

LENGTHS = (9, 6, 4)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no NVIDIA GPU")


@pytest.fixture(scope="session")
def clips_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips of unequal length, the last one for validation."""
    root = tmp_path_factory.mktemp("bench2drive") / "data"
    for clip, frames in zip(write_demo_data(root, clips=3, frames=max(LENGTHS)), LENGTHS, strict=True):
        for file in sorted((clip / "anno").iterdir())[frames:]:
            file.unlink()
    return root


@pytest.fixture(autouse=True)
def _two_threads_at_most() -> Iterator[None]:
    """Spinning threads cost more than they give at these sizes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
