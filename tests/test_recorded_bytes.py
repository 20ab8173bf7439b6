"""The bytes of a small dataset and of a small run, against digests recorded with earlier code.

Those of the agents' ground truth, and of all that is computed from images, were recorded anew when the
synthetic traffic began to vary; everything else is as version 0.1.0 wrote it.

What is taken from the raw clips is the same everywhere. How a teacher and a student round differs between
processors, so that their digests are compared on the kind of processor they were recorded on.
"""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from cli import app
from tests.paths import GOLDEN

RECORDED = json.loads((GOLDEN / "bytes/digests.json").read_text())


def arithmetic() -> str:
    """What decides how sums are rounded."""
    processor = Path("/proc/cpuinfo")
    lines = processor.read_text().splitlines() if processor.exists() else []
    name = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {name}"


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def teachonce(*command: object) -> None:
    done = CliRunner().invoke(app, list(map(str, command)))
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, the dataset of them, and a run of two epochs."""
    home = tmp_path_factory.mktemp("demo")
    torch.set_num_threads(1)
    teachonce("demo-data", home / "data", "--clips", 2, "--frames", 14, "--seed", 3)
    teacher = ("--teacher", "orion-tiny-random", "--slots", 2, "--device", "cpu")
    teachonce("extract", home / "d.zarr", "--data", home / "data", *teacher)
    options = ("--preset", "demo", "--set", "epochs=2", "--tracker", "none", "--device", "cpu")
    teachonce("train", home / "d.zarr", "--run", home / "run", *options)
    return home


def manifest_without_code(dataset: Path) -> str:
    manifest = json.loads((dataset / "zarr.json").read_text())["attributes"]["teachonce"]
    del manifest["code"]  # versions of programs
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def test_what_no_processor_rounds(demo: Path):
    recorded = RECORDED["everywhere"]
    found = digests(demo / "d.zarr")
    assert {name: found.get(name) for name in recorded["files"]} == recorded["files"]
    assert sorted(name for name in found if name[0] != ".") == recorded["names"]
    assert manifest_without_code(demo / "d.zarr") == recorded["manifest"]


@pytest.mark.skipif(
    RECORDED["rounded"]["by"] != arithmetic(),
    reason=f"recorded with {RECORDED['rounded']['by']}, and this is {arithmetic()}",
)
def test_what_teacher_and_student_computed(demo: Path):
    recorded = RECORDED["rounded"]
    found = digests(demo / "d.zarr")
    assert {name: found.get(name) for name in recorded["files"]} == recorded["files"]
    entries = [json.loads(path.read_text()) for path in sorted((demo / "d.zarr/ledger").iterdir())]
    assert {entry["clip"]["name"]: entry["digest"] for entry in entries} == recorded["clips"]
    (checkpoint, *_) = sorted((demo / "run/checkpoints").iterdir(), reverse=True)
    tensors = {name: digest for name, digest in digests(checkpoint).items() if name.endswith(".safetensors")}
    assert tensors == recorded["checkpoint"]
