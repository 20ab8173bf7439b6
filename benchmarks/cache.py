"""What a latent dataset costs to keep, write and read, beside one file a frame, in one run.

    python -m benchmarks.cache

Content: what the reference writes about a frame (spec Orion-Lite 1.4), with random queries of realistic
channels through random projections, so that its vision tokens have the structure of real ones. The reference
keeps it as compressed ``.npz``; beside it stand ``.npy`` (one file an array) and safetensors, at the same
full width. Ours keeps the queries that the tokens are made from, and of every agent's futures the likeliest,
once as they are and once with the queries in int8.

Reading: one frame after the other; frames at random, one at a time; and batches of 64 random frames, as
training reads them. Per-frame files are batched by a DataLoader with a process a core, ours by the training
loader; small arrays, which it holds in memory, are loaded before and gathered in time. Everything is read
from the operating system's cache, batches also from a disk whose cache was emptied. MB and GB are of the
content at full width, so that they mean the same number of frames everywhere; in verification, of files.

Then verification, against what the disk hands out and what sha256 takes in; and how long it takes from
nothing to the first frame of a dataset of 1,000 clips.
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

from benchmarks.formats import BATCH, REFERENCE_BYTES, Ours, bytes_of, content, evict, make_ways
from benchmarks.record import hardware, write
from cache_schema.dataset.reader import LatentDataset
from cache_schema.format.ledger import Ledger, digest_of
from cache_schema.integrity.verify import verify
from cache_schema.storage.atomic_io import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.formats import Way

CLIP_FRAMES = 248
"""Of the clips that are verified and opened: a common length in Bench2Drive."""
MANY = 1000
"""Clips of the dataset that is opened."""
READ_TARGET, VERIFY_TARGET, OPEN_TARGET_S = 20.0, 0.8, 0.5
"""Random training reads over the reference's; share of the smaller limit; seconds to the first frame."""


def cpu_s() -> float:
    """Seconds of processor time of this process and of those that it waited for."""
    return sum(
        getattr(resource.getrusage(who), field)
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        for field in ("ru_utime", "ru_stime")
    )


def measure(
    ways: Sequence[Way], clips: int, frames: int, *, repeats: int, singles: int, batches: int
) -> dict[str, dict[str, list[float]]]:
    """Read every way in turn, again and again: numbers by way and by what they are."""
    found: dict[str, dict[str, list[float]]] = {way.name: defaultdict(list) for way in ways}
    for repeat in range(repeats):
        rng = np.random.default_rng(repeat)
        order = [(int(row) // frames, int(row) % frames) for row in rng.permutation(clips * frames)]
        shuffled = [order[number % len(order)] for number in range(batches * BATCH)]
        for way in ways:
            numbers = found[way.name]
            if repeat == 0:
                way.read_clip(0, frames)  # opens what stays open
                way.batch_rate(shuffled[: 2 * BATCH])
            spent, begun = cpu_s(), time.perf_counter()
            for clip in range(clips):
                way.read_clip(clip, frames)
            numbers["in order, frames/s"].append(clips * frames / (time.perf_counter() - begun))
            numbers["in order, CPU s/GB"].append((cpu_s() - spent) / (clips * frames * REFERENCE_BYTES / 1e9))
            took = []
            for place in order[:singles]:
                begun = time.perf_counter()
                way.read(*place)
                took.append(time.perf_counter() - begun)
            numbers["random, frames/s"].append(len(took) / sum(took))
            numbers["random, p50 ms"].append(1e3 * float(np.percentile(took, 50)))
            numbers["random, p99 ms"].append(1e3 * float(np.percentile(took, 99)))
            spent = cpu_s()
            numbers["batches, frames/s"].append(way.batch_rate(shuffled))
            numbers["batches, CPU s/GB"].append((cpu_s() - spent) / (len(shuffled) * REFERENCE_BYTES / 1e9))
            evict(way.folder)
            numbers["cold batches, frames/s"].append(way.batch_rate(shuffled))
    return found


def verification(folder: Path, *, repeats: int) -> dict[str, list[float]]:
    """MB/s of verifying a dataset from disk and from memory, and of its two limits over the same bytes."""
    files = [path for path in (folder / "clips").rglob("*") if path.is_file()]
    size = bytes_of(folder) / 1e6
    cores = os.cpu_count() or 1

    def read(path: Path) -> None:
        buffer = memoryview(bytearray(2**20))
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    contents = [path.read_bytes() for path in files]

    def rate(work: Callable[[], object]) -> float:
        begun = time.perf_counter()
        work()
        return size / (time.perf_counter() - begun)

    def whole() -> None:
        report = verify(folder)
        if report.problems:
            raise RuntimeError(f"the benchmark's own dataset is damaged: {report.problems[0]}")

    found: dict[str, list[float]] = defaultdict(list)
    # A disk gives most to many that wait for it, a processor to as many as it has cores. But to hand out what
    # a disk has read takes the processor, too: both together are what a check of digests cannot do without.
    with ThreadPoolExecutor(cores) as hashers, ThreadPoolExecutor(4 * cores) as readers:
        for _ in range(repeats):
            found["sha256"].append(rate(lambda: list(hashers.map(hashlib.sha256, contents))))
            evict(folder)
            found["disk"].append(rate(lambda: list(readers.map(read, files))))
            evict(folder)
            found["disk and sha256"].append(rate(lambda: list(readers.map(sha256_of, files))))
            evict(folder)
            found["verify from disk"].append(rate(whole))
            found["verify from memory"].append(rate(whole))
    return found


def opening(folder: Path, *, repeats: int) -> dict[str, list[float]]:
    """Seconds from nothing to a first frame of many clips: links to the one that is there."""
    ledger = Ledger(folder)
    (model,) = ledger.clips()
    entry = ledger.read(model)
    for number in range(MANY - 1):
        info = entry.clip.model_copy(update={"name": f"link-{number}"})
        shutil.copytree(folder / "clips" / model, folder / "clips" / info.name, copy_function=os.link)
        ledger.commit(entry.model_copy(update={"clip": info, "digest": digest_of(info, entry.files)}))
    code = (
        "import sys; from cache_schema.dataset.reader import LatentDataset\n"
        "d = LatentDataset.open(sys.argv[1]); "
        "d.read(d.clips[int(sys.argv[2])], 'scene_queries', 5)"
    )
    found: dict[str, list[float]] = defaultdict(list)
    for repeat in range(repeats):
        begun = time.perf_counter()
        dataset = LatentDataset.open(folder)
        dataset.read(dataset.clips[1 + repeat], "scene_queries", 5)
        found["in a running process"].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, folder, str(MANY - 1 - repeat)], check=True)
        found["in a new process, imports included"].append(time.perf_counter() - begun)
    return found


def main(
    repeats: Annotated[int, typer.Option(help="How often everything is read.")] = 5,
    clips: Annotated[int, typer.Option(help="Clips of each way.")] = 8,
    frames: Annotated[int, typer.Option(help="Frames of each of these clips.")] = 48,
    singles: Annotated[int, typer.Option(help="Frames read one at a time.")] = 200,
    batches: Annotated[int, typer.Option(help="Batches read at a time; an odd number.")] = 5,
    verified: Annotated[int, typer.Option(help="Clips of 248 frames that are verified.")] = 8,
    out: Annotated[Path | None, typer.Option(help="Where the numbers go, as JSON.")] = None,
) -> None:
    """Write, read, verify and open, and print tables of ratios."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    heads: dict[str, np.ndarray] = {}
    for name in ("scene", "map"):
        heads[f"{name}.weight"] = rng.standard_normal((4096, 256), np.float32) / 16
        heads[f"{name}.bias"] = rng.standard_normal(4096, np.float32)
    with tempfile.TemporaryDirectory() as temporary:
        ways = make_ways(Path(temporary), heads)
        written: dict[str, list[float]] = {way.name: [] for way in ways}
        for clip in range(clips):
            values = content(frames, heads, clip)
            for way in ways:
                begun = time.perf_counter()
                way.write(clip, values)
                written[way.name].append(frames * REFERENCE_BYTES / 1e6 / (time.perf_counter() - begun))
        reading = measure(
            ways, clips, frames, repeats=repeats, singles=min(singles, clips * frames), batches=batches
        )
        numbers = {
            way.name: {
                "bytes/frame": [bytes_of(way.folder) / (clips * frames)],
                "written, MB/s": written[way.name],
                **reading[way.name],
            }
            for way in ways
        }
        ours = [way for way in ways if isinstance(way, Ours)]
        # Heads and manifest are a dataset's, not a frame's.
        for way in ours:
            kept = sum(bytes_of(way.folder / part) for part in ("clips", "ledger"))
            numbers[way.name]["bytes/frame"] = [kept / (clips * frames)]
        for way in ways:
            shutil.rmtree(way.folder)
        large = ours[0]
        _, tiled = content(frames, heads, 0)
        tiled = {name: array[np.arange(CLIP_FRAMES) % frames] for name, array in tiled.items()}
        for clip in range(verified):
            large.write(clip, ({}, tiled))
        verifying = verification(large.folder, repeats=repeats)
        shutil.rmtree(large.folder)
        large.write(0, ({}, tiled))
        opened = opening(large.folder, repeats=repeats)
    report(numbers, verifying, opened)
    record = {
        "load_average": os.getloadavg(),
        "frames": clips * frames,
        "targets": {"batches": READ_TARGET, "verify": VERIFY_TARGET, "open_s": OPEN_TARGET_S},
        "ways": numbers,
        "verify, MB/s": verifying,
        f"open {MANY} clips, s": opened,
    }
    write("cache", record, out)


def report(
    numbers: dict[str, dict[str, list[float]]],
    verifying: dict[str, list[float]],
    opened: dict[str, list[float]],
) -> None:
    """Print medians, and how many times better than the reference they are."""
    console = Console()
    reference, *others = numbers
    console.print(f"Frames of {REFERENCE_BYTES:,} bytes, kept and read, on {hardware()}")
    table = Table(title=f"{reference}, and how many times better others are")
    table.add_column("", no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right")
    for what, theirs in numbers[reference].items():
        larger_is_better = "frames/s" in what or "MB/s" in what
        times = [
            statistics.median(
                a / b if larger_is_better else b / a for a, b in zip(numbers[name][what], theirs, strict=True)
            )
            for name in others
        ]
        table.add_row(
            what,
            f"{statistics.median(theirs):,.{0 if theirs[0] > 1000 else 2}f}",
            *(f"{ratio:.3g}" for ratio in times),
        )
    console.print(table)
    ratios = [
        a / b
        for a, b in zip(
            numbers["ours"]["batches, frames/s"], numbers[reference]["batches, frames/s"], strict=True
        )
    ]
    console.print(
        f"random training reads: {statistics.median(ratios):.1f} times the reference's "
        f"({min(ratios):.1f} - {max(ratios):.1f}), target {READ_TARGET:g}"
    )

    def share(of: str, *limits: str) -> str:
        bounds = [min(rates) for rates in zip(*(verifying[limit] for limit in limits), strict=True)]
        shares = [a / b for a, b in zip(verifying[of], bounds, strict=True)]
        return f"{statistics.median(shares):.0%} ({min(shares):.0%} - {max(shares):.0%})"

    speeds = ", ".join(f"{what} {statistics.median(rates):,.0f}" for what, rates in verifying.items())
    console.print(
        f"verify from memory: {share('verify from memory', 'sha256')} of sha256; from disk: "
        f"{share('verify from disk', 'disk', 'sha256')} of the smaller of disk and sha256, each with all "
        f"cores to itself, and {share('verify from disk', 'disk and sha256')} of the two together; "
        f"target {VERIFY_TARGET:.0%}; MB/s: {speeds}"
    )
    for where, seconds in opened.items():
        console.print(f"first frame of {MANY} clips, {where}: {statistics.median(seconds):.3f} s")
    console.print(f"target: {OPEN_TARGET_S:g} s in a running process")


if __name__ == "__main__":
    typer.run(main)
