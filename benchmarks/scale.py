"""The cost of a look at a dataset of many clips, in seconds and in memory.

    python -m benchmarks.scale
    python -m benchmarks.scale --baseline ../other-checkout
    python -m benchmarks.scale --quick    # few clips, each operation once: that it runs, in two minutes

One clip of random values under 20,000 names: its files are hard links, each name has an entry of its own.
Every operation runs in a process of its own, from a page cache that has seen it once. With ``--baseline``,
another checkout runs the same operations in turn, and ratios are printed.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.record import Record, hardware
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.format.array_metadata import as_json, clip_group
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo, FileRecord, Ledger, entry_document
from cache_schema.format.manifest import CodeIdentity, DataIdentity, Manifest, TeacherIdentity
from cache_schema.storage.atomic_io import sha256_bytes

FRAMES = 12
FEATURES = 16
"""Arrays of a clip: about as many as ORION's."""
OPEN = """
try:
    from cache_schema import LatentDataset
except ImportError:  # version 0.1.0
    from cache_schema.store import LatentDataset
dataset = LatentDataset.open({path!r})
"""
OPERATIONS = {
    "open": "",
    "list clips": "dataset.clips",
    "one frame": "dataset.read(dataset.clips[len(dataset.clips) // 2], 'feature_0', 5)",
    "dask()": "dataset.dask('feature_0')",
    "inspect": "from cache_schema.{describe}inspect import inspect; inspect({path!r})",
    "verify --quick": "from cache_schema.{integrity}verify import verify; "
    "assert not verify(Path({path!r}), quick=True).problems",
    "subset of one clip": "from cache_schema.{sharing}subset import ClipFilter, subset; "
    "subset(Path({path!r}), Path({path!r} + '.part'), ClipFilter(clips='clip-7'))",
}
MEASURED = """
import re, time
from pathlib import Path
begun = time.perf_counter()
{operation}
took_s = time.perf_counter() - begun
print(took_s, int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""
QUICK_CLIPS = 500
"""Clips of ``--quick``."""
TARGET_RATIO = 8.0


def write_many(path: Path, clips: int) -> None:
    """Write one clip, and link it under other names."""
    features = tuple(
        FeatureSpec(
            name=f"feature_{number}", shape=(6, 2), axes=("step", "xy"), dtype="float32", role="truth"
        )
        for number in range(FEATURES)
    )
    manifest = Manifest(
        features=features,
        teacher=TeacherIdentity(name="random", weights="random:0", precision="fp32"),
        data=DataIdentity(name="synthetic", licence="CC0-1.0", frame_rate_hz=10.0),
        code=CodeIdentity(teachonce="0", libraries={}),
    )
    values = {
        spec.name: np.random.default_rng(0).standard_normal((FRAMES, 6, 2), np.float32) for spec in features
    }
    with DatasetWriter(path, manifest, {}) as writer:
        clip = writer.clip(ClipInfo(name="clip-0", frames=FRAMES, split="train"))
        clip.append(values)
        clip.commit(wall_s=1.0)
    ledger = Ledger(path)
    entry = ledger.read("clip-0")
    for number in range(1, clips):
        info = entry.clip.model_copy(update={"name": f"clip-{number}"})
        folder = path / "clips" / info.name
        for file in entry.files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            if file != "zarr.json":
                os.link(path / "clips/clip-0" / file, folder / file)
        group = as_json(clip_group(info))
        (folder / "zarr.json").write_bytes(group)
        record = FileRecord(nbytes=len(group), sha256=sha256_bytes(group))
        linked = entry.model_copy(update={"clip": info}).holding({**entry.files, "zarr.json": record}, {})
        (path / "ledger" / f"{info.name}.json").write_bytes(entry_document(linked))


def run(checkout: Path, path: Path, operation: str) -> tuple[float, float]:
    """Run an operation in a process of its own; return seconds and the most MiB of memory."""
    flat = not (checkout / "cache_schema/describe").exists()  # version 0.1.0
    rooms = {room: "" if flat else f"{room}." for room in ("describe", "integrity", "sharing")}
    code = OPERATIONS[operation].format(path=str(path), **rooms)
    opened = OPEN.format(path=str(path)) if "dataset" in code or not code else ""
    shutil.rmtree(f"{path}.part", ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED.format(operation=opened + code)],
        env=os.environ | {"PYTHONPATH": str(checkout)},
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = re.search(r"([\d.e-]+) ([\d.]+)\s*$", done.stdout)
    assert found is not None
    return float(found[1]), float(found[2])


def main(
    clips: Annotated[int, typer.Option(min=8, help="Clips of the dataset.")] = 20_000,
    repeats: Annotated[int, typer.Option(help="How often every operation runs.")] = 3,
    baseline: Annotated[Path | None, typer.Option(help="Another checkout to compare with.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few clips, within two minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
) -> None:
    """Write the dataset, look at it, and print what that takes."""
    if quick:
        clips, repeats = min(clips, QUICK_CLIPS), 1
    console = Console()
    results = Record("scale", out, quick=quick, clips=clips, repeats=repeats)
    checkouts = {"this": Path(__file__).resolve().parents[1]}
    if baseline is not None:
        checkouts["baseline"] = baseline.resolve()
    measured: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "many.zarr"
        write_many(path, clips)
        for operation in OPERATIONS:
            for repeat in range(repeats + 1):
                for name, checkout in checkouts.items():
                    took = run(checkout, path, operation)
                    if repeat:  # the first fills the page cache
                        measured[operation][name].append(took)
                        line = f"{operation}, {name}: {took[0]:.3f} s, {took[1]:.0f} MiB"
                        results.add("seconds and MiB", operation, name, value=took, line=line)
    table = Table(title=f"{clips:,} clips, imports included, on {hardware()}")
    for heading in ("", *(f"{name}, {unit}" for name in checkouts for unit in ("s", "MiB")), "ratio"):
        table.add_column(heading, justify="right" if heading else "left")
    for operation, by_checkout in measured.items():
        medians = {
            name: tuple(statistics.median(values) for values in zip(*runs, strict=True))
            for name, runs in by_checkout.items()
        }
        cells = [text for s, mib in medians.values() for text in (f"{s:.3f}", f"{mib:.0f}")]
        ratio = f"{medians['baseline'][0] / medians['this'][0]:.1f}" if baseline is not None else "-"
        table.add_row(operation, *cells, ratio)
    console.print(table)
    console.print(f"target: {TARGET_RATIO:g} times for dask(), inspect, verify --quick and subset")
    print(f"written to {results.path}")


if __name__ == "__main__":
    typer.run(main)
