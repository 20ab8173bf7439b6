"""Two clips whose names differ by case alone, and folders that take both for one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cache_schema.dataset.writer import DatasetWriter
from cache_schema.format.ledger import ClipInfo
from cache_schema.integrity.verify import verify
from cache_schema.sharing.pull import pull
from cache_schema.sharing.push import push
from tests.cache_schema.conftest import values_of
from tests.cache_schema.folding import compile_library
from tests.paths import ROOT

FOLDED = """
import sys
from pathlib import Path
from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import TeachonceError
from cache_schema.integrity.verify import verify
from cache_schema.sharing.pull import pull
from cache_schema.sharing.push import push

def attempt(job, *arguments):
    try:
        job(*arguments)
    except TeachonceError as error:
        return error.happened
    return "done"

both, upper, lower, out = map(Path, sys.argv[1:])
(out / "probe").touch()
assert (out / "PROBE").exists()
for name, sources in {"both": [both], "either": [upper, lower]}.items():
    pulled, pushed = out / f"pulled-{name}", out / f"pushed-{name}"
    for source in sources:
        print(name, "pull:", attempt(pull, str(source), pulled))
        print(name, "push:", attempt(push, source, f"file://{pushed}"))
    for there in (pulled, pushed):
        if (there / "zarr.json").exists():
            clips = LatentDataset.open(there).clips
            assert verify(there).problems == (), verify(there).problems
            print(name, there.name, "holds", *clips)
"""


@pytest.fixture
def datasets(tmp_path: Path, manifest, assets) -> list[Path]:
    """A dataset of two clips, and one of each of them."""
    found = []
    for name, clips in {"both": ("Clip", "clip"), "upper": ("Clip",), "lower": ("clip",)}.items():
        path = tmp_path / name
        with DatasetWriter(path, manifest, assets) as writer:
            for clip in clips:
                growing = writer.clip(ClipInfo(name=clip, frames=2, split="train"))
                growing.append(values_of(clip, 2))
                growing.commit(wall_s=1.0)
        (path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
        found.append(path)
    return found


def test_a_place_that_tells_case_apart_takes_both(datasets, tmp_path):
    both, upper, lower = datasets
    for name, sources in {"both": [both], "either": [upper, lower]}.items():
        for source in sources:
            push(source, f"file://{tmp_path / name}-pushed")
            pull(str(source), tmp_path / f"{name}-pulled")
        for there in (tmp_path / f"{name}-pushed", tmp_path / f"{name}-pulled"):
            report = verify(there)
            assert (report.problems, report.clips) == ((), 2)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="makes its folder with a C compiler")
def test_a_folder_that_does_not_refuses_the_second_and_keeps_the_first(datasets, tmp_path):
    library, out = tmp_path / "folding.so", tmp_path / "folding"
    compile_library(library)
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", FOLDED, *map(str, datasets), str(out)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "LD_PRELOAD": str(library), "FOLDING": str(out)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.lower().splitlines()  # either clip of a pull may be the first
    pull_both, push_both, held, _, _, pull_second, push_second, pulled, pushed = said
    for second in (pull_both, pull_second):
        assert second.endswith(
            "clip.json is the entry of clip 'clip': the file system takes both names for one"
        )
    for second in (push_both, push_second):
        assert second.endswith("takes clip and clip for one name: one clip would overwrite the other")
    assert [line.split()[2:] for line in (held, pulled, pushed)] == [["holds", "clip"]] * 3
