"""Size of a latent dataset and speed of writing and reading it, against one file per frame, in one run.

    python -m benchmarks.cache
    python -m benchmarks.cache --quick    # less of everything: that it runs, in two minutes

Content: see ``benchmarks.formats``. The reference stores whole vision tokens in compressed ``.npz`` files;
``.npy`` (one file per array) and safetensors files hold the same. Ours stores the queries that the tokens are
computed from, and only the likeliest future of every agent: once in float16, once with the queries in int8.

Reading: one frame after the other; random frames, one at a time; and batches of 64 random frames, as in
training. Per-frame files are batched by a DataLoader with one process per core, ours by the training loader.
It loads small arrays into memory beforehand, which is not timed, and gathers batches from them, which is.
Everything is read from the page cache; batches are also read from the disk, after the cache was dropped.
MB and GB are those of the reference's uncompressed content, so that they mean the same number of frames in
every format; for verification they are those of the files.

Then the speed of verification, compared with reading the disk and with sha256; and the time from opening a
dataset of 1,000 clips to its first frame.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.formats import (
    BATCH,
    REFERENCE_BYTES,
    LatentFormat,
    bytes_of,
    content,
    evict,
    make_formats,
    random_heads,
)
from benchmarks.record import Record, hardware
from cache_schema.dataset.reader import LatentDataset
from cache_schema.format.ledger import Ledger, digest_of
from cache_schema.integrity.verify import verify
from cache_schema.processors import usable_processors
from cache_schema.storage.atomic_io import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.formats import StorageFormat

CLIP_FRAMES = 248
"""Frames of the clips that are verified and opened: a common length in Bench2Drive."""
OPENED_CLIPS = 1000
"""Clips of the dataset whose opening is timed."""
READ_TARGET, VERIFY_TARGET, OPEN_TARGET_S = 20.0, 0.8, 0.5
"""Ratio of random training reads to the reference's; ratio of verification to the smaller of its two limits;
seconds to the first frame."""


def cpu_s() -> float:
    """Return the processor time of this process and of its finished child processes."""
    return sum(
        getattr(resource.getrusage(processes), field)
        for processes in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        for field in ("ru_utime", "ru_stime")
    )


class Numbers:
    """What was measured of one thing, by quantity; every number is printed and written at once.

    Args:
        results: Where they are written.
        of: Where they stand there.
    """

    def __init__(self, results: Record, *of: str) -> None:
        self._results, self._of = results, of
        self.values: dict[str, list[float]] = defaultdict(list)

    def add(self, quantity: str, value: float) -> None:
        """Take in one number."""
        self.values[quantity].append(value)
        line = f"{self._of[-1]}: {quantity} {value:,.{0 if value > 1000 else 3}f}"
        self._results.add(*self._of, quantity, value=value, line=line)


def measure(
    formats: Mapping[StorageFormat, Numbers],
    clips: int,
    frames: int,
    *,
    repeats: int,
    singles: int,
    batches: int,
) -> None:
    """Read every format in turn, ``repeats`` times."""
    for repeat in range(repeats):
        rng = np.random.default_rng(repeat)
        order = [(int(row) // frames, int(row) % frames) for row in rng.permutation(clips * frames)]
        shuffled = [order[number % len(order)] for number in range(batches * BATCH)]
        for storage, numbers in formats.items():
            if repeat == 0:
                storage.read_clip(0, frames)  # opens files that stay open
                storage.batch_rate(shuffled[: 2 * BATCH])
            cpu_before_s, begun = cpu_s(), time.perf_counter()
            for clip in range(clips):
                storage.read_clip(clip, frames)
            took_s, busy_s = time.perf_counter() - begun, cpu_s() - cpu_before_s
            numbers.add("in order, frames/s", clips * frames / took_s)
            numbers.add("in order, CPU s/GB", busy_s / (clips * frames * REFERENCE_BYTES / 1e9))
            each_s = []
            for clip, frame in order[:singles]:
                begun = time.perf_counter()
                storage.read(clip, frame)
                each_s.append(time.perf_counter() - begun)
            numbers.add("random, frames/s", len(each_s) / sum(each_s))
            numbers.add("random, p50 ms", 1e3 * float(np.percentile(each_s, 50)))
            numbers.add("random, p99 ms", 1e3 * float(np.percentile(each_s, 99)))
            cpu_before_s = cpu_s()
            rate, busy_s = storage.batch_rate(shuffled), cpu_s() - cpu_before_s
            numbers.add("batches, frames/s", rate)
            numbers.add("batches, CPU s/GB", busy_s / (len(shuffled) * REFERENCE_BYTES / 1e9))
            evict(storage.folder)
            numbers.add("cold batches, frames/s", storage.batch_rate(shuffled))


def verification(folder: Path, numbers: Numbers, *, repeats: int) -> None:
    """Measure the MB/s of verifying a dataset from disk and from memory, and of its limits."""
    files = [path for path in (folder / "clips").rglob("*") if path.is_file()]
    size_mb = bytes_of(folder) / 1e6
    cores = usable_processors()

    def read(path: Path) -> None:
        buffer = memoryview(bytearray(2**20))
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    contents = [path.read_bytes() for path in files]

    def rate(work: Callable[[], object]) -> float:
        begun = time.perf_counter()
        work()
        return size_mb / (time.perf_counter() - begun)

    def verify_all() -> None:
        report = verify(folder)
        if report.problems:
            raise RuntimeError(f"the benchmark's dataset is damaged: {report.problems[0]}")

    # A disk is fastest with many readers, hashing with one thread per core. But reading takes processor time,
    # too, so that a check of digests can be no faster than both together.
    with ThreadPoolExecutor(cores) as hashers, ThreadPoolExecutor(4 * cores) as readers:
        for _ in range(repeats):
            numbers.add("sha256", rate(lambda: list(hashers.map(hashlib.sha256, contents))))
            evict(folder)
            numbers.add("disk", rate(lambda: list(readers.map(read, files))))
            evict(folder)
            numbers.add("disk and sha256", rate(lambda: list(readers.map(sha256_of, files))))
            evict(folder)
            numbers.add("verify from disk", rate(verify_all))
            numbers.add("verify from memory", rate(verify_all))


def opening(folder: Path, numbers: Numbers, *, repeats: int) -> None:
    """Measure the seconds to the first frame of a dataset, after linking its one clip under many names."""
    ledger = Ledger(folder)
    (original,) = ledger.clips()
    entry = ledger.read(original)
    for number in range(OPENED_CLIPS - 1):
        info = entry.clip.model_copy(update={"name": f"link-{number}"})
        shutil.copytree(folder / "clips" / original, folder / "clips" / info.name, copy_function=os.link)
        ledger.commit(entry.model_copy(update={"clip": info, "digest": digest_of(info, entry.files)}))
    code = (
        "import sys; from cache_schema.dataset.reader import LatentDataset\n"
        "d = LatentDataset.open(sys.argv[1]); "
        "d.read(d.clips[int(sys.argv[2])], 'scene_queries', 5)"
    )
    for repeat in range(repeats):
        begun = time.perf_counter()
        dataset = LatentDataset.open(folder)
        dataset.read(dataset.clips[1 + repeat], "scene_queries", 5)
        numbers.add("in a running process", time.perf_counter() - begun)
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, folder, str(OPENED_CLIPS - 1 - repeat)], check=True)
        numbers.add("in a new process, imports included", time.perf_counter() - begun)


def main(
    repeats: Annotated[int, typer.Option(help="How often everything is read.")] = 5,
    clips: Annotated[int, typer.Option(help="Clips of each format.")] = 8,
    frames: Annotated[int, typer.Option(help="Frames of each of these clips.")] = 48,
    singles: Annotated[int, typer.Option(help="Frames read one at a time.")] = 200,
    batches: Annotated[
        int, typer.Option(min=3, help="Batches of 64 frames that are read in a row; an odd number.")
    ] = 5,
    verified: Annotated[int, typer.Option(help="Clips of 248 frames that are verified.")] = 8,
    quick: Annotated[bool, typer.Option("--quick", help="Less of everything, within two minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
) -> None:
    """Write, read, verify and open, and print tables of ratios."""
    if quick:
        repeats, clips, frames, singles, batches, verified = 1, 2, 32, 30, 3, 1
    torch.set_num_threads(1)
    heads = random_heads()
    targets = {"batches": READ_TARGET, "verify": VERIFY_TARGET, "open_s": OPEN_TARGET_S}
    results = Record(
        "cache",
        out,
        quick=quick,
        load_average=os.getloadavg(),
        frames=clips * frames,
        repeats=repeats,
        targets=targets,
    )
    with tempfile.TemporaryDirectory() as temporary:
        formats = {
            storage: Numbers(results, "ways", storage.name)
            for storage in make_formats(Path(temporary), heads)
        }
        for clip in range(clips):
            values = content(frames, heads, clip)
            for storage, numbers in formats.items():
                begun = time.perf_counter()
                storage.write(clip, values)
                took_s = time.perf_counter() - begun
                numbers.add("written, MB/s", frames * REFERENCE_BYTES / 1e6 / took_s)
        for storage, numbers in formats.items():
            nbytes = bytes_of(storage.folder)
            if isinstance(storage, LatentFormat):
                # Without manifest and assets, which a dataset has once.
                nbytes = sum(bytes_of(storage.folder / part) for part in ("clips", "ledger"))
            numbers.add("bytes/frame", nbytes / (clips * frames))
        measure(
            formats, clips, frames, repeats=repeats, singles=min(singles, clips * frames), batches=batches
        )
        for storage in formats:
            shutil.rmtree(storage.folder)
        latent = next(storage for storage in formats if isinstance(storage, LatentFormat))
        _, tiled = content(frames, heads, 0)
        tiled = {name: array[np.arange(CLIP_FRAMES) % frames] for name, array in tiled.items()}
        for clip in range(verified):
            latent.write(clip, ({}, tiled))
        verifying = Numbers(results, "verify, MB/s")
        verification(latent.folder, verifying, repeats=repeats)
        shutil.rmtree(latent.folder)
        latent.write(0, ({}, tiled))
        opened = Numbers(results, f"open {OPENED_CLIPS} clips, s")
        opening(latent.folder, opened, repeats=repeats)
    report(
        {storage.name: numbers.values for storage, numbers in formats.items()},
        verifying.values,
        opened.values,
    )
    print(f"written to {results.path}")


def report(
    results: dict[str, dict[str, list[float]]],
    verifying: dict[str, list[float]],
    opened: dict[str, list[float]],
) -> None:
    """Print medians of the reference, and how many times better the other formats are."""
    console = Console()
    reference, *others = results
    console.print(f"Storing and reading frames of {REFERENCE_BYTES:,} bytes on {hardware()}")
    table = Table(title=f"{reference}, and how many times better the others are")
    table.add_column("", no_wrap=True)
    for name in results:
        table.add_column(name, justify="right")
    for quantity, values in results[reference].items():
        larger_is_better = "frames/s" in quantity or "MB/s" in quantity
        ratios = [
            statistics.median(
                a / b if larger_is_better else b / a
                for a, b in zip(results[name][quantity], values, strict=True)
            )
            for name in others
        ]
        table.add_row(
            quantity,
            f"{statistics.median(values):,.{0 if values[0] > 1000 else 2}f}",
            *(f"{ratio:.3g}" for ratio in ratios),
        )
    console.print(table)
    ratios = [
        a / b
        for a, b in zip(
            results["ours"]["batches, frames/s"], results[reference]["batches, frames/s"], strict=True
        )
    ]
    console.print(
        f"random training reads: {statistics.median(ratios):.1f} times the reference's "
        f"({min(ratios):.1f} - {max(ratios):.1f}), target {READ_TARGET:g}"
    )

    def share(quantity: str, *limits: str) -> str:
        bounds = [min(rates) for rates in zip(*(verifying[limit] for limit in limits), strict=True)]
        shares = [a / b for a, b in zip(verifying[quantity], bounds, strict=True)]
        return f"{statistics.median(shares):.0%} ({min(shares):.0%} - {max(shares):.0%})"

    speeds = ", ".join(f"{quantity} {statistics.median(rates):,.0f}" for quantity, rates in verifying.items())
    console.print(
        f"verify from memory: {share('verify from memory', 'sha256')} of sha256; from disk: "
        f"{share('verify from disk', 'disk', 'sha256')} of the smaller of disk and sha256, each alone on "
        f"all cores, and {share('verify from disk', 'disk and sha256')} of the two together; "
        f"target {VERIFY_TARGET:.0%}; MB/s: {speeds}"
    )
    for where, seconds in opened.items():
        console.print(f"first frame of {OPENED_CLIPS} clips, {where}: {statistics.median(seconds):.3f} s")
    console.print(f"target: {OPEN_TARGET_S:g} s in a running process")


if __name__ == "__main__":
    typer.run(main)
