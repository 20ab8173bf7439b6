"""LatentVLA-R: training from the cache against the model in the loop, plans a second, bytes a frame.

    python -m benchmarks.latentvla
    python -m benchmarks.latentvla --quick

Weights are random; depths and images are the released ones, and widths are divided, which leaves the ratio
of operations near the released one. Both ratios are told. Trained is a distilled student, from the cache, and
by the same steps with the vision-language model in the loop, which tells codes and states of prepared frames
anew for every batch. Planned is one frame: by the distilled student, and by the fused planner behind the
model.

Bytes are those of the ledger. Strips and states are noise, which hardly compresses.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer

from benchmarks.latent_actions import frames
from benchmarks.latentvla_set import POSITIONS, write_set
from benchmarks.latentvla_speed import (
    TRAINED,
    counted,
    milliseconds,
    rates,
    set_sizes,
    student_flops,
    student_sizes,
    teacher_flops,
    teacher_sizes,
    told,
    training,
)
from benchmarks.record import Record
from cache_schema.dataset.reader import LatentDataset
from cache_schema.format.clip_files import feature_of
from cache_schema.vocabulary.latent_actions import CAMERA_STRIP, LATENT_ACTION_CODES
from pipeline.teachers.latent_action_vlm.presets import LATENTVLA_3B, LATENTVLA_TINY
from student.latentvla.model import DRIVING, STATES
from student.loading.batches import LatentSamples
from student.runs.presets import preset

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.teachers.latent_action_vlm.teacher import LatentActionTeacher

SPEED_AT_LEAST = 20.0
CODES = POSITIONS, LATENT_ACTION_CODES
CLIP_FRAMES = 8
RELEASED_PROMPT = 510
"""Tokens of a prompt by Qwen's tokenizer, images included (spec LatentVLA 3)."""
KL_ONLY, FULL = "latentvla-distilled-kl-only", "latentvla-distilled"
PERCENTILES = (50, 95)


def speed(record: Record, folder: Path, *, narrower: int, seconds: float, batch: int, repeats: int) -> None:
    """Measure operations, bytes, training and planning."""
    made, config = teacher_sizes(narrower), student_sizes("latentvla-distilled", narrower)
    teacher = made.load(None, device="cpu")
    states = set_sizes(narrower).width
    tiny = LATENTVLA_TINY.load(None, device="cpu")
    by_formula = teacher_flops(LATENTVLA_TINY.sizes, tiny.options, _prompt(tiny)) / 1e6
    as_counted = counted(lambda: told(tiny, frames(tiny, 1))) / 1e6
    line = f"latentvla-tiny: {by_formula:.2f} MFLOP a frame by formula, {as_counted:.2f} as counted"
    record.set("MFLOP of latentvla-tiny", value={"formula": by_formula, "counted": as_counted}, line=line)
    ours = teacher_flops(made.sizes, made.options, _prompt(teacher))
    _ratio(record, f"widths / {narrower}", ours, student_flops(config, states, CODES))
    released = student_flops(preset("latentvla-distilled"), set_sizes(1).width, CODES)
    _ratio(
        record, "released", teacher_flops(LATENTVLA_3B.sizes, LATENTVLA_3B.options, RELEASED_PROMPT), released
    )

    for name, divided in (("released", 1), (f"widths / {narrower}", narrower)):
        path = folder / f"bytes-{divided}.zarr"
        write_set(path, set_sizes(divided), clips={"train": 1, "val": 1}, frames=CLIP_FRAMES)
        for kind, value in bytes_a_frame(LatentDataset.open(path)).items():
            record.set(
                "bytes a frame", name, kind, value=value, line=f"{name}, {kind}: {value:,.0f} bytes a frame"
            )

    dataset = LatentDataset.open(folder / f"bytes-{narrower}.zarr")
    system = config.make_system()
    samples = LatentSamples(dataset, "all", system.required_features(), device=torch.device("cpu"))
    prepared = frames(teacher, len(samples))
    rounds = [
        [rows] for _ in range(10_000) for rows in np.split(np.arange(len(samples)), len(samples) // batch)
    ]
    found = {}
    for way in ("from the cache", "model in the loop"):
        torch.manual_seed(0)
        model = system.build(dataset).train()
        stream = samples.stream(rounds)
        if way == "from the cache":
            batches = (values for _, values in stream)
        else:
            batches = (values | told(teacher, [prepared[row] for row in rows]) for rows, values in stream)
        found[way] = rates(training(system, model, config, batches), seconds)
        stream.close()
        line = ", ".join(f"{value:.3g} a {clock} second" for clock, value in found[way].items())
        record.set("training frames/s", way, value=found[way], line=f"training {way}: {line}")
    for clock in ("wall", "CPU"):
        times = found["from the cache"][clock] / found["model in the loop"][clock]
        line = f"from the cache : in the loop, {clock} time = {times:.1f} (target {SPEED_AT_LEAST:g})"
        record.set("training ratio", clock, value=times, line=line)
    planning(record, teacher, dataset, narrower, seconds, at_least=repeats)


def planning(
    record: Record,
    teacher: LatentActionTeacher,
    dataset: LatentDataset,
    narrower: int,
    seconds: float,
    *,
    at_least: int,
) -> None:
    """Time one frame of each planner: of the distilled one, and of the fused one behind the model."""
    networks = {}
    for name in (FULL, "latentvla-fused", "latent-transfuser"):
        torch.manual_seed(0)
        networks[name] = student_sizes(name, narrower).make_system().build(dataset).eval()
    frame = LatentSamples(dataset, "all", DRIVING, device=torch.device("cpu")).read(np.array([0]))
    seen = [frame[name] for name in DRIVING]
    prepared = frames(teacher, 1)

    def fused() -> None:
        values = told(teacher, prepared)
        networks["latentvla-fused"](*seen, states=[values[name] for name in STATES])

    ways: dict[str, Callable[[], object]] = {
        "distilled": lambda: networks[FULL](*seen),
        "model and fused": fused,
        "planner alone": lambda: networks["latent-transfuser"](*seen),
    }
    with torch.inference_mode():
        for name, plan in ways.items():
            times = milliseconds(plan, seconds, at_least)
            found = {f"p{at}": float(np.percentile(times, at)) for at in PERCENTILES} | {
                "repeats": len(times)
            }
            line = f"one plan, {name}: p50 {found['p50']:.1f} ms, p95 {found['p95']:.1f} ms of {len(times)}"
            record.set("latency ms", name, value=found, line=line)
    p50 = {name: record.content["latency ms"][name]["p50"] for name in ways}
    times_faster = p50["model and fused"] / p50["distilled"]
    record.set("latency ratio", value=times_faster, line=f"model and fused : distilled = {times_faster:.1f}")


def bytes_a_frame(dataset: LatentDataset) -> dict[str, float]:
    """Return the bytes a frame, by the ledger, of what students read: from codes alone, and with states."""
    entries = [dataset.entry(clip) for clip in dataset.clips]
    count = sum(entry.clip.frames for entry in entries)
    found = {}
    for kind, name in (("KL only", KL_ONLY), ("full", FULL)):
        read = {*preset(name).make_system().required_features()}
        for label, features in ((kind, read), (f"{kind}, without strips", read - {CAMERA_STRIP})):
            stored = (
                file.nbytes
                for entry in entries
                for path, file in entry.files.items()
                if feature_of(path) in features
            )
            found[label] = sum(stored) / count
    return found


def _prompt(teacher: LatentActionTeacher) -> int:
    """Return the tokens of a teacher's prompt, with its padding."""
    return teacher.collate(frames(teacher, 1)).prompts.ids.shape[1]


def _ratio(record: Record, sizes: str, model: int, forward: int) -> None:
    """Write the operations of a model and of a student's training step."""
    ratio = model / (TRAINED * forward)
    found = {"model": model, "student's forward pass": forward, "model : step": ratio}
    shown = f"model {model / 1e9:,.1f} GFLOP, step {TRAINED * forward / 1e9:,.2f} GFLOP a frame"
    line = f"{sizes}: {shown}, {ratio:.1f} times as many"
    record.set("FLOPs", sizes, value=found, line=line)


def main(
    narrower: Annotated[int, typer.Option(help="Divides the released widths: 2 or 4.")] = 4,
    seconds: Annotated[float, typer.Option(help="Of each measurement, at least.")] = 20.0,
    batch: Annotated[int, typer.Option(help="Frames of a training step.")] = 2,
    repeats: Annotated[int, typer.Option(help="Of a plan, at least.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Single frames, two repeats.")] = False,
    out: Annotated[Path | None, typer.Option(help="File of the results.")] = None,
) -> None:
    """Measure, print each number, and write all to ``benchmarks/results``."""
    if quick:
        seconds, batch, repeats = 1.0, 1, 2
    facts = {"weights": "random", "narrower": narrower, "batch": batch, "load_average": os.getloadavg()}
    record = Record("latentvla", out, quick=quick, **facts)
    with tempfile.TemporaryDirectory() as folder:
        speed(record, Path(folder), narrower=narrower, seconds=seconds, batch=batch, repeats=repeats)


if __name__ == "__main__":
    typer.run(main)
