"""Where runs end, compared."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from student.runs import checkpoint
from student.runs.log import read_log


def assert_same_end(whole: Path, parts: Path) -> None:
    """Check that two runs end with the same bits, and have the same log."""
    ends = [checkpoint.latest(run) for run in (whole, parts)]
    assert ends[0].name == ends[1].name
    files = sorted(file.name for file in ends[0].glob("*.safetensors"))
    for name in files:
        mine, other = (load_file(end / name) for end in ends)
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], other[key]) for key in mine), name
    assert files == sorted(file.name for file in ends[1].glob("*.safetensors"))
    assert read_log(whole) == read_log(parts)
