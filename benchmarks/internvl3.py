"""InternVL3-8B as a teacher, InternVL3-1B as its student, at full width: samples a second and memory.

    python -m benchmarks.internvl3            # random weights at the released sizes, on a GPU
    python -m benchmarks.internvl3 --dry      # tiny width, to see that it runs; so on a CPU

The teacher's step is one question about one image, or about six: pixels and tokens from host memory, all
three kinds of attention to host memory; no two questions share a prefix. The student's step is that of
``teachonce train`` with every term and projected gradients, four samples from their dataset. A language
model of 600 words stands for one of 151,674, so that the student's head is not measured.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer

from benchmarks.drive_kd import WINDOW, steps
from benchmarks.record import Record
from cache_schema.dataset.join import open_dataset
from pipeline.bench2drive.synthetic import write_demo_data
from pipeline.bench2drive.synthetic.questions import write_demo_questions
from pipeline.extraction.outputs import HostOutputs
from pipeline.extraction.run import extract
from pipeline.source import open_source
from pipeline.teachers.internvl3.presets import (
    INTERNVL3_1B_VISION,
    INTERNVL3_8B,
    INTERNVL3_TINY,
    INTERNVL3_TINY_VISION,
)
from student.drive_kd.presets import DRIVE_KD
from student.drive_kd.system import DriveKdSystem
from student.loading.batches import LatentSamples
from student.runs.presets import changed

if TYPE_CHECKING:
    from pipeline.questions.sample import QuestionSample
    from pipeline.source import Selection
    from pipeline.teachers.internvl3.presets import InternVL3Preset, StudentPreset
    from pipeline.teachers.internvl3.teacher import AttentionTeacher

VIEWS = (1, 6)
WARM_UP = 2


def presets(device: str, *, dry: bool) -> tuple[InternVL3Preset, StudentPreset]:
    """Return teacher and student with random weights, drawn on the device."""
    if dry:
        return INTERNVL3_TINY, INTERNVL3_TINY_VISION
    words = INTERNVL3_TINY.sizes.language.vocabulary

    def drawn(preset: InternVL3Preset | StudentPreset) -> InternVL3Preset | StudentPreset:
        language = replace(preset.sizes.language, vocabulary=words)
        sizes = replace(preset.sizes, language=language, image_token=words - 1)
        return replace(preset, sizes=sizes, random_seed=0, random_device=device)

    return drawn(INTERNVL3_8B), drawn(INTERNVL3_1B_VISION)  # ty: ignore[invalid-return-type]


def with_views(sample: QuestionSample, count: int, number: int) -> QuestionSample:
    """Return a question about so many images, in a clip of its own: nothing is shared with another."""
    images = (sample.images * count)[:count]
    text = sample.question.replace("<image>", "").strip()
    return replace(sample, clip=f"clip {number}", question="<image>\n" * count + text, images=images)


def teaching(
    record: Record, teacher: AttentionTeacher, sample: QuestionSample, views: int, repeats: int
) -> None:
    """Time questions about so many images."""
    inputs = [teacher.prepare(with_views(sample, views, number)) for number in range(WARM_UP + repeats)]
    state, took_s = teacher.begin(1), []
    if teacher.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for given in inputs:
        begun = time.perf_counter()
        values, state = teacher.step(teacher.collate([given]), state)
        HostOutputs(values, 1).wait()
        took_s.append(time.perf_counter() - begun)
    row = {
        "views": views,
        "tokens": len(inputs[0].token_ids),
        "samples/s": 1 / statistics.median(took_s[WARM_UP:]),
        "GiB": torch.cuda.max_memory_allocated() / 2**30 if teacher.device == "cuda" else None,
    }
    line = (
        f"teacher, {views} views, {row['tokens']} tokens: {row['samples/s']:.2f} samples/s, {row['GiB']} GiB"
    )
    record.add("teacher", value=row, line=line)


def learning(
    record: Record, pair: tuple[AttentionTeacher, StudentPreset], selection: Selection, repeats: int
) -> None:
    """Time the student's steps from datasets of these questions."""
    teacher, student = pair
    device = teacher.device
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "attention.zarr", Path(folder) / "images.zarr"
        extract(selection, teacher, stored[0])
        extract(selection, student.load(None, device=device, precision="fp32"), stored[1])
        dataset = open_dataset(*stored)
        config = changed(DRIVE_KD, {"precision": "fp32"})
        system = DriveKdSystem(config.student, config.losses)
        rows = LatentSamples(dataset, "all", system.required_features(), device=torch.device(device))
        model = system.build(dataset).to(device).train()
        order = [np.array([n % len(rows)]) for n in range(WINDOW * (WARM_UP + repeats + 1))]
        stream = rows.stream([[rows_of] for rows_of in order])
        taken = steps(system, model, lambda _: next(stream)[1], torch.device(device))
        for _ in range(WARM_UP):
            next(taken)
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        for _ in range(repeats):
            next(taken)
        if device == "cuda":
            torch.cuda.synchronize()
        per_second = WINDOW * repeats / (time.perf_counter() - begun)
        stream.close()
    row = {
        "samples/s": per_second,
        "GiB": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
    }
    record.set("student", value=row, line=f"student, cached: {per_second:.2f} samples/s, {row['GiB']} GiB")


def main(
    precision: Annotated[str, typer.Option(help="Of the teacher.")] = "bf16",
    repeats: Annotated[int, typer.Option(min=1)] = 10,
    dry: Annotated[bool, typer.Option("--dry", help="Tiny width.")] = False,
    out: Annotated[Path | None, typer.Option(help="File of the results.")] = None,
) -> None:
    """Measure, and print and write every number."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dry = dry or device == "cpu"
    preset, student = presets(device, dry=dry)
    options = preset.configured({"student_layers": str(student.sizes.language.layers)})
    record = Record("internvl3", out, quick=dry, presets=[preset.name, student.name], precision=precision)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_demo_data(data, clips=4, frames=10, seed=0)
        write_demo_questions(data, Path(folder) / "questions.json")
        selection = open_source("drive-kd", Path(folder) / "questions.json").select()
        clip = selection.clips[0]
        teacher = options.load(None, device=device, precision="fp32" if dry else precision)
        for views in VIEWS:
            teaching(record, teacher, clip.open().sample(0), views, repeats)
        learning(record, (teacher, student), selection, repeats)


if __name__ == "__main__":
    typer.run(main)
