"""Latency of a served student by its parts, for 1, 4 and 8 drives at once.

    python -m benchmarks.serving
    python -m benchmarks.serving --quick

The real agent file, in a process for each drive, replays clips of six JPEGs a tick to the policy server. The
teacher's vision has its tiny sizes, and the student has not been trained: neither changes what is computed.
Medians over all ticks, in ms: what the server took to decode (``prepare``), to wait for the others of a round
(``queue``), for vision and student, in all; and what is left between two ticks of a drive: the agent, the
wire, and the stand-in of the leaderboard.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from benchmarks.record import Record
from cache_schema.dataset.reader import LatentDataset
from pipeline.bench2drive.source import Bench2Drive
from pipeline.bench2drive.synthetic import write_demo_data
from pipeline.extraction.run import extract
from pipeline.perception.loading import open_perception
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM
from student.policy import policy_of
from student.runs.presets import preset
from student.serving.address import Address
from student.serving.agent_file import agent_source
from student.serving.server import serving
from student.serving.student_policy import StudentPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

SESSIONS = (1, 4, 8)
REHEARSAL = ("-m", "pipeline.bench2drive.rehearsal")


def latencies(log: Path) -> dict[str, float]:
    """Return the medians of all parts over the ticks of a server's log, ms."""
    parts, last = defaultdict(list), {}
    for line in map(json.loads, log.read_text().splitlines()):
        if line["event"] != "tick":
            continue
        for name, ms in line["ms"].items():
            parts[name].append(ms)
        drive = line["session"], line["save_name"]
        if drive in last:
            parts["agent, wire and leaderboard"].append(
                1e3 * (line["time"] - last[drive]) - line["ms"]["total"]
            )
        last[drive] = line["time"]
    return {name: round(statistics.median(values), 1) for name, values in parts.items()}


def replayed(data: Path, folder: Path, address: Address, sessions: int) -> None:
    """Replay all clips to a server, by so many processes."""
    with agent_source() as agent:
        command = [
            sys.executable,
            *REHEARSAL,
            f"--clips={data}",
            f"--agent={agent}",
            f"--agent-config={address}",
        ]
        running = [
            subprocess.Popen([*command, f"--checkpoint={folder / f'{sessions}-{number}.json'}"])
            for number in range(sessions)
        ]
        ended = [process.wait() for process in running]
        if any(ended):
            raise RuntimeError("a drive has failed")


def main(
    sessions: Annotated[list[int] | None, typer.Option(help="Drives at once. [1, 4 and 8]")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Short drives: within two minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="File of the results.")] = None,
) -> None:
    """Measure, print each number, and write all to ``benchmarks/results``."""
    counts: Sequence[int] = sessions or SESSIONS
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    conditions = {"teacher": "vision of orion-tiny-random", "student": "demo, untrained"}
    record = Record("serving", out, quick=quick, **conditions)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_demo_data(folder / "data", clips=2, frames=10 if quick else 40)
        selection = Bench2Drive(folder / "data").select()
        extract(selection, ORION_TINY_RANDOM.load(None, device=str(device)), folder / "latents.zarr")
        dataset, system = LatentDataset.open(folder / "latents.zarr"), preset("demo", {}).make_system()
        model = system.build(dataset)
        for count in counts:
            vision = open_perception(dataset, policy_of(system, model).features, None, device=str(device))
            policy = StudentPolicy(vision, system, model, slots=count, device=device)
            log = folder / f"{count}.jsonl"
            address = Address.parse(f"unix://{folder}/{count}")
            with serving(policy, address, mode="parity", allow_replay=True, log=log) as bound:
                replayed(folder / "data", folder, bound, count)
            found = latencies(log)
            record.set("ms", str(count), value=found, line=f"{count} drives: {found}")


if __name__ == "__main__":
    typer.run(main)
