"""LatentVLA-R: what students learn from the codes of an ideal teacher, and what the cache saves.

    python -m benchmarks.latentvla
    python -m benchmarks.latentvla --quick

**Students** learn from synthetic strips that decide the codes; see ``benchmarks.latentvla_set``. Every preset
is trained with several seeds, at tiny sizes, and measured on held-out strips: KL(teacher || student) of codes
behind the teacher's, as a share of that of a student that always tells the mean; the same with the images of
other frames, **behind the student's own codes**, as the teacher's would betray what the images show; and the
distance of the plan. A student that knows every rule of the codes and sees nothing would have the share
``unseeing``. States are codes in a little noise, so that fused planners are told what they need not see.

**Speed**, with random weights at the released depths and images and widths divided: training a distilled
student from the cache against the same steps with the vision-language model in the loop, which tells codes
and states of prepared frames anew for every batch; planning with the distilled student against the model with
the fused planner. Widths divided leave the ratio of their operations near the released one; both are told.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file

from benchmarks.latent_actions import frames
from benchmarks.latentvla_set import POSITIONS, SetSizes, write_set
from benchmarks.latentvla_speed import (
    TRAINED,
    counted,
    milliseconds,
    rate,
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
from cache_schema.processors import usable_processors
from cache_schema.vocabulary.latent_actions import CAMERA_STRIP, LATENT_ACTION_CODES
from pipeline.teachers.latent_action_vlm.presets import LATENTVLA_3B
from student.latentvla.system import DRIVING, STATES
from student.loading.batches import LatentSamples
from student.runs.evaluate import ARRAYS, evaluate
from student.runs.presets import preset
from student.training.train import train

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.teachers.latent_action_vlm.teacher import LatentActionTeacher

PRESETS = (
    "latentvla-distilled-tiny",
    "latentvla-distilled-parallel-tiny",
    "latentvla-distilled-labels-tiny",
    "latentvla-fused-tiny",
    "latentvla-fused-zero-tiny",
    "latentvla-fused-noise-tiny",
)
STRIP, CELLS, WIDTH = (96, 32), 6, 64
CLIP_FRAMES = 128
CHANGES = {"training.learning_rate": 4e-3, "student.planner.bev_pixels": 32, "losses.agents": "off"}
"""What is changed of the presets: strips are smaller than theirs, and no vehicles are looked for."""
BELOW = {"latentvla-distilled-tiny": 0.1, "latentvla-distilled-parallel-tiny": 0.5}
"""Share of the constant student's KL below which a preset shall be."""
BLIND_ABOVE, CODES_AT_LEAST, SPEED_AT_LEAST = 0.9, 9, 20.0
CODES = POSITIONS, LATENT_ACTION_CODES
RELEASED_PROMPT = 510
"""Tokens of a prompt by Qwen's tokenizer, images included (spec LatentVLA 3)."""
KL_ONLY, FULL = "latentvla-distilled-kl-only", "latentvla-distilled"
PERCENTILES = (50, 95)


def student(name: str, seed: int, epochs: int, dataset: Path, run: Path) -> dict[str, object]:
    """Train and measure one student; see ``main``."""
    torch.set_num_threads(1)
    config = preset(name, {**CHANGES, "training.seed": seed, "training.epochs": epochs})
    train(dataset, run, config, resident="ram", trackers=())
    numbers = evaluate(run, dataset).numbers()
    row: dict[str, object] = {"seed": seed, "L2 m": numbers["at_mean"]}
    if "code_kl" in numbers:
        constant = numbers["code_kl_constant"]
        shares = {"KL": "code_kl", "KL, other images": "code_kl_other_images"}
        row |= {name: numbers[measure] / constant for name, measure in shares.items()}
        row["agreement"] = numbers["code_agreement"]
        row["codes in use"] = len(np.unique(load_file(run / ARRAYS)["codes.student"]))
    return row


def students(record: Record, folder: Path, *, clips: int, epochs: int, seeds: int) -> None:
    """Train every preset with every seed, as many at once as there are processors, and print their table."""
    dataset = folder / "squares.zarr"
    write_set(dataset, SetSizes(STRIP, CELLS, WIDTH), clips={"train": clips, "val": 3}, frames=CLIP_FRAMES)
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(usable_processors(), mp_context=spawned) as pool:
        jobs = {
            pool.submit(student, name, seed, epochs, dataset, folder / f"{name}-{seed}"): name
            for seed, name in itertools.product(range(seeds), PRESETS)
        }
        for job in as_completed(jobs):
            row, name = job.result(), jobs[job]
            said = ", ".join(f"{key} {value:.3g}" for key, value in row.items() if value is not None)
            record.add("students", name, value=row, line=f"{name}: {said}")
    told_by = {name: record.content["students"][name] for name in PRESETS}
    for name, target in BELOW.items():
        rows = told_by[name]
        met = {
            f"KL below {target}": all(row["KL"] < target for row in rows),
            f"other images above {BLIND_ABOVE}": all(row["KL, other images"] > BLIND_ABOVE for row in rows),
            f"{CODES_AT_LEAST} codes in use": all(row["codes in use"] >= CODES_AT_LEAST for row in rows),
        }
        line = f"{name}, every seed: " + ", ".join(
            f"{what}: {'yes' if is_so else 'NO'}" for what, is_so in met.items()
        )
        record.set("met", name, value=met, line=line)
    Console().print(_table(told_by))


def speed(record: Record, folder: Path, *, narrower: int, seconds: float, batch: int) -> None:
    """Measure operations, bytes, training and planning."""
    made, config = teacher_sizes(narrower), student_sizes("latentvla-distilled", narrower)
    teacher = made.load(None, device="cpu")
    prompt = teacher.collate(frames(teacher, 1)).prompts.ids.shape[1]
    states = set_sizes(narrower).width
    ours = teacher_flops(made.sizes, made.options, prompt)
    of_counter = counted(lambda: told(teacher, frames(teacher, 1)))
    record.set(
        "FLOPs",
        "model, by formula and as counted",
        value=[ours, of_counter],
        line=f"model: {ours / 1e9:.1f} GFLOP a frame by formula, {of_counter / 1e9:.1f} as counted",
    )
    _ratio(record, f"widths / {narrower}", ours, student_flops(config, states, CODES))
    released = student_flops(preset("latentvla-distilled"), set_sizes(1).width, CODES)
    _ratio(
        record, "released", teacher_flops(LATENTVLA_3B.sizes, LATENTVLA_3B.options, RELEASED_PROMPT), released
    )

    for name, divided in (("released", 1), (f"widths / {narrower}", narrower)):
        path = folder / f"bytes-{divided}.zarr"
        write_set(path, set_sizes(divided), clips={"train": 1, "val": 1}, frames=2 * batch)
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
    rates = {}
    for way in ("from the cache", "model in the loop"):
        torch.manual_seed(0)
        model = system.build(dataset).train()
        stream = samples.stream(rounds)
        if way == "from the cache":
            batches = (values for _, values in stream)
        else:
            batches = (values | told(teacher, [prepared[row] for row in rows]) for rows, values in stream)
        rates[way] = rate(training(system, model, config, batches), seconds)
        stream.close()
        record.set(
            "training frames/s", way, value=rates[way], line=f"training {way}: {rates[way]:.3g} frames/s"
        )
    times = rates["from the cache"] / rates["model in the loop"]
    line = f"from the cache : in the loop = {times:.1f} (target {SPEED_AT_LEAST:g})"
    record.set("training ratio", value=times, line=line)
    planning(record, teacher, dataset, narrower, seconds)


def planning(
    record: Record, teacher: LatentActionTeacher, dataset: LatentDataset, narrower: int, seconds: float
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
            times = milliseconds(plan, seconds, at_least=5)
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
        read = set(preset(name).make_system().required_features())
        stored = sum(
            file.nbytes for entry in entries for path, file in entry.files.items() if feature_of(path) in read
        )
        found[kind] = stored / count
        strip_free = read - {CAMERA_STRIP}
        found[f"{kind}, without strips"] = (
            sum(
                file.nbytes
                for entry in entries
                for path, file in entry.files.items()
                if feature_of(path) in strip_free
            )
            / count
        )
    return found


def _ratio(record: Record, sizes: str, model: int, forward: int) -> None:
    """Write the operations of a model and of a student's training step."""
    ratio = model / (TRAINED * forward)
    found = {"model": model, "student's forward pass": forward, "model : step": ratio}
    shown = f"model {model / 1e9:,.1f} GFLOP, step {TRAINED * forward / 1e9:,.2f} GFLOP a frame"
    line = f"{sizes}: {shown}, {ratio:.1f} times as many"
    record.set("FLOPs", sizes, value=found, line=line)


def _table(rows_of: Mapping[str, list[dict]]) -> Table:
    columns = ("KL", "KL, other images", "agreement", "codes in use", "L2 m")
    table = Table("mean of seeds (lowest..highest)", *columns)
    for name, rows in rows_of.items():
        values = {column: [row[column] for row in rows if column in row] for column in columns}
        table.add_row(
            name.removesuffix("-tiny"),
            *(
                f"{statistics.mean(found):.3f} ({min(found):.3f}..{max(found):.3f})" if found else "-"
                for found in values.values()
            ),
        )
    return table


def main(
    clips: Annotated[int, typer.Option(help="Of 128 frames, for students to learn from.")] = 12,
    epochs: Annotated[int, typer.Option(help="Of each student.")] = 9,
    seeds: Annotated[int, typer.Option(help="Students of each preset.")] = 3,
    narrower: Annotated[int, typer.Option(help="Divides the released widths for speed: 4 or 8.")] = 8,
    seconds: Annotated[float, typer.Option(help="Of each measurement of speed, at least.")] = 20.0,
    quick: Annotated[bool, typer.Option("--quick", help="One seed, few frames: within two minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="File of the results.")] = None,
) -> None:
    """Measure, print each number, and write all to ``benchmarks/results``."""
    if quick:
        clips, epochs, seeds, seconds = 1, 1, 1, 1.0
    record = Record(
        "latentvla",
        out,
        quick=quick,
        teacher="ideal, no model",
        presets=dict.fromkeys(PRESETS, CHANGES),
        frames=clips * CLIP_FRAMES,
        epochs=epochs,
        seeds=seeds,
    )
    with tempfile.TemporaryDirectory() as folder:
        speed(record, Path(folder), narrower=narrower, seconds=seconds, batch=4)
        students(record, Path(folder), clips=clips, epochs=epochs, seeds=seeds)


if __name__ == "__main__":
    typer.run(main)
