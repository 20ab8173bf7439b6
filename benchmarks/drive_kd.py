"""Speed of Drive-KD's training: teachers in the loop as released, one shared pass, and cached, in one run.

    python -m benchmarks.drive_kd
    python -m benchmarks.drive_kd --quick

The same student takes the same steps: four samples, all four terms, projected gradients, the language model
alone trained. What differs is where the teacher's attention comes from:

- **three teachers**: every step runs the whole teacher once for each kind of attention, up to its head, and
  holds the attention of all heads of all layers, as the released program does; the student's own vision tower
  sees the images;
- **shared pass**: one pass of our teacher for all three kinds, to the last layer that is read;
- **cached**: the latent datasets, from the page cache.

Weights are random. Sizes are small, chosen so that teacher and student take floating-point operations in
the ratio of InternVL3-8B and -1B (14 to 1, language models alone), which the run counts and prints. Beside
that: samples per second of extraction with and without shared prefixes, and bytes a sample of each signal.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer
from torch.utils.flop_counter import FlopCounterMode
from transformers import InternVLForConditionalGeneration

from benchmarks.record import Record
from cache_schema.dataset.join import open_dataset
from cache_schema.dataset.reader import LatentDataset
from cache_schema.format.clip_files import feature_of
from cache_schema.vocabulary.attention import (
    ATTENTION_FIRST,
    ATTENTION_GROUPS,
    ATTENTION_GROUPS_PREFIX,
    ATTENTION_GROUPS_TO_PREFIX,
    ATTENTION_PENULTIMATE,
    CAPABILITIES,
    CAPABILITY,
    IMAGE_EMBEDDINGS,
    TOKEN_IDS,
)
from pipeline.bench2drive.synthetic import write_demo_data
from pipeline.bench2drive.synthetic.questions import write_demo_questions
from pipeline.extraction.run import extract
from pipeline.source import open_source
from pipeline.teachers.internvl3.inputs import sequence_features
from pipeline.teachers.internvl3.model.network import configuration, random_weights
from pipeline.teachers.internvl3.model.sizes import InternVLSizes, LanguageSizes, VisionSizes
from pipeline.teachers.internvl3.options import AttentionOptions
from pipeline.teachers.internvl3.presets import InternVL3Preset, StudentPreset
from student.drive_kd.presets import DRIVE_KD
from student.drive_kd.system import DriveKdSystem
from student.loading.batches import LatentSamples
from student.loading.ragged import Ragged
from student.runs.presets import changed
from student.step import StepContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from pipeline.questions.sample import QuestionSample
    from pipeline.teachers.internvl3.inputs import QuestionInputs
    from pipeline.teachers.internvl3.teacher import AttentionTeacher
    from pipeline.teachers.internvl3.vision import StudentVision
    from student.loading.batches import Batch

TARGETS = {"three teachers": 5.0, "shared pass": 2.5}
"""Samples per second of training from the cache, as a multiple of these."""
CPU = torch.device("cpu")
WINDOW = 4
"""Samples of a step."""
SIGNALS = {
    "perception": (ATTENTION_FIRST,),
    "planning": (ATTENTION_PENULTIMATE,),
    "reasoning": (ATTENTION_GROUPS, ATTENTION_GROUPS_TO_PREFIX, ATTENTION_GROUPS_PREFIX),
}


def sizes(*, quick: bool) -> tuple[InternVLSizes, InternVLSizes]:
    """Return teacher and student: depths 7 and 6, widths so that the teacher costs fourteen times as much."""
    vocabulary = 600
    vision = VisionSizes(width=64, layers=4, heads=4, mlp_width=256, image_size=56, patch_size=7)
    unit = 48 if quick else 128

    def model(width: int, layers: int, heads: int) -> InternVLSizes:
        language = LanguageSizes(
            width=width,
            layers=layers,
            heads=heads,
            kv_heads=2,
            mlp_width=5 * width,
            vocabulary=vocabulary,
        )
        return InternVLSizes(language, vision, image_token=vocabulary - 1)

    return model(unit * 7, 7, 14), model(unit * 2, 6, 8)


class Online:
    """A teacher in the loop, and the student's own vision tower.

    Args:
        questions: Where samples are read.
        teacher: Reads them, and computes attention in one pass.
        tower: The student's.
        whole: The whole teacher, as released; None for the one pass.
    """

    def __init__(
        self,
        questions: Sequence[QuestionSample],
        teacher: AttentionTeacher,
        tower: StudentVision,
        whole: InternVLForConditionalGeneration | None,
    ) -> None:
        self.questions, self.teacher, self.tower, self.whole = questions, teacher, tower, whole

    def batch(self, row: int) -> Batch:
        """Return one sample as a dataset would give it."""
        sample = self.questions[row]
        inputs = self.teacher.prepare(sample)
        with torch.inference_mode():
            seen, _ = self.tower.step([inputs], self.tower.begin(1))
            if self.whole is None:
                attention, _ = self.teacher.step([inputs], self.teacher.begin(1))
            else:
                attention = self._released(self.whole, inputs)
        batch = {**attention, IMAGE_EMBEDDINGS: seen[IMAGE_EMBEDDINGS]}
        found = {name: _as_read(values) for name, values in batch.items()}
        return {**found, CAPABILITY: torch.tensor([CAPABILITIES.index(sample.capability)])}

    def _released(
        self, whole: InternVLForConditionalGeneration, inputs: QuestionInputs
    ) -> dict[str, Tensor | list[Tensor]]:
        """Run the whole teacher three times; take from each pass one kind of attention."""
        ids = inputs.token_ids.long()[None]
        pixels = self.teacher._reader.recipe.normalise(inputs.pixels)
        is_image = ids[0] == whole.config.image_token_id
        found = sequence_features([inputs])
        groups = self.teacher.identity.architecture["attention"]["groups"]
        for signal in SIGNALS:
            maps = whole(input_ids=ids, pixel_values=pixels, output_attentions=True).attentions
            if signal == "reasoning":
                means = [layer[0].float().mean(dim=0) for layer in maps]
                windows = [torch.stack(means[first : last + 1]).mean(dim=0) for _, first, last in groups]
                found[ATTENTION_GROUPS] = [torch.stack(windows)]
                found[ATTENTION_GROUPS_TO_PREFIX] = [torch.zeros(len(groups), ids.shape[1], 0)]
                found[ATTENTION_GROUPS_PREFIX] = [torch.zeros(len(groups), 0, 0)]
            else:
                layer = maps[0 if signal == "perception" else -2]
                found[SIGNALS[signal][0]] = [layer[0].float().mean(dim=0)[~is_image][:, is_image]]
        return found


def _as_read(values: Tensor | list[Tensor]) -> Tensor | Ragged:
    """Return values as ``LatentSamples`` does."""
    if isinstance(values, torch.Tensor):
        return values.long()
    flat = torch.cat([value.flatten() for value in values]).clone()
    shapes = torch.tensor([value.shape for value in values])
    return Ragged(flat.float() if flat.is_floating_point() else flat.long(), shapes)


def steps(
    system: DriveKdSystem,
    model: torch.nn.Module,
    batch_of: Callable[[int], Batch],
    device: torch.device = CPU,
) -> Iterator[int]:
    """Train for ever; yield the number of samples after each step."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=5e-5, weight_decay=0.0, fused=True)
    for step in itertools.count():
        for place in range(WINDOW):
            position = np.array([place])
            context = StepContext(0, step, samples=WINDOW, positions=position, device=device)
            output = system.training_step(model, batch_of(step * WINDOW + place), context)
            system.gradients(output.losses, weights, lambda loss: loss / WINDOW, context)
        system.gradients.end_step(weights, lambda values: values, context)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield (step + 1) * WINDOW


def rate(taken: Iterator[int], seconds: float) -> float:
    """Return samples per second, without the first step."""
    next(taken)
    begun, first = time.perf_counter(), WINDOW
    for samples in taken:
        if (passed := time.perf_counter() - begun) >= seconds:
            return (samples - first) / passed
    raise AssertionError


def flops(whole: InternVLForConditionalGeneration, tokens: int) -> int:
    """Return the operations of a language model, without its head, for one sequence."""
    language = whole.model.language_model
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        language(inputs_embeds=torch.zeros(1, tokens, language.config.hidden_size))
    return counter.get_total_flops()


def drawn(model_sizes: InternVLSizes, seed: int) -> InternVLForConditionalGeneration:
    """Return a whole model as the released program runs it: eager, so that it has maps."""
    config = configuration(model_sizes)
    config._attn_implementation = config.text_config._attn_implementation = "eager"
    model = InternVLForConditionalGeneration(config).eval()
    model.load_state_dict(dict(random_weights(model_sizes, seed)))
    return model


def main(
    seconds: Annotated[float, typer.Option(help="Of each measurement.")] = 60.0,
    quick: Annotated[bool, typer.Option("--quick", help="Narrow and short: within two minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="File of the results.")] = None,
) -> None:
    """Measure, print each number, and write all to ``benchmarks/results``."""
    torch.set_num_threads(1 if quick else torch.get_num_threads())
    seconds = min(seconds, 6.0) if quick else seconds
    teacher_sizes, student_sizes = sizes(quick=quick)
    record = Record("drive-kd", out, quick=quick, weights="random", samples_per_step=WINDOW)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_demo_data(data, clips=4, frames=10, seed=0)
        write_demo_questions(data, Path(folder) / "questions.json")
        source = open_source("drive-kd", Path(folder) / "questions.json")
        selection = source.select()
        options = AttentionOptions(student_layers=student_sizes.language.layers)
        preset = InternVL3Preset("benchmark", teacher_sizes, random_seed=0, options=options)
        repeated = preset.configured({"share_prefix": "false"})
        stored = Path(folder) / "attention.zarr", Path(folder) / "images.zarr"
        for name, kind, where in (
            ("prefix once", preset, stored[0]),
            ("prefix repeated", repeated, Path(folder) / "repeated.zarr"),
        ):
            report = extract(selection, kind.load(None, device="cpu"), where)
            per_second = report.frames / report.wall_s
            record.set("extraction samples/s", name, value=per_second, line=f"{name}: {per_second:.2f} /s")
            for signal, value in bytes_of(LatentDataset.open(where)).items():
                line = f"{name}, {signal}: {value:,.0f} bytes a sample"
                record.set("bytes a sample", name, signal, value=round(value), line=line)
        tower = StudentPreset("benchmark-student", student_sizes, random_seed=1).load(None, device="cpu")
        extract(selection, tower, stored[1])
        dataset = open_dataset(*stored)
        config = changed(DRIVE_KD, {"precision": "fp32"})
        system = DriveKdSystem(config.student, config.losses)
        features = system.required_features()
        rows = LatentSamples(dataset, "all", features, device=torch.device("cpu"))
        # In the order of the dataset's samples.
        opened = [(clip.open(), clip.samples) for clip in sorted(selection.clips, key=lambda clip: clip.name)]
        questions = [clip.sample(index) for clip, count in opened for index in range(count)]
        order = np.random.default_rng(0).permutation(len(rows))
        whole = drawn(teacher_sizes, 0)
        tokens = int(np.mean([len(rows.read(np.array([row]))[TOKEN_IDS].item(0)) for row in order[:20]]))
        ratio = flops(whole, tokens) / flops(drawn(student_sizes, 1), tokens)
        record.set("tokens", value=tokens, line=f"{tokens} tokens a sample on average")
        record.set("teacher : student FLOPs", value=ratio, line=f"teacher : student FLOPs {ratio:.1f}")
        online = preset.load(None, device="cpu")
        ways: dict[str, Callable[[int], Batch]] = {
            "three teachers": Online(questions, online, tower, whole).batch,
            "shared pass": Online(questions, online, tower, None).batch,
        }
        rates: dict[str, float] = {}
        for name in (*ways, "cached"):
            torch.manual_seed(0)
            model = system.build(dataset).train()
            if name == "cached":
                stream = rows.stream([[order[[n % len(order)]]] for n in range(100_000)])
                found = rate(steps(system, model, lambda _, stream=stream: next(stream)[1]), seconds)
                stream.close()
            else:
                way = ways[name]
                found = rate(steps(system, model, lambda n, way=way: way(order[n % len(order)])), seconds)
            rates[name] = found
            record.set("training samples/s", name, value=found, line=f"{name}: {found:.2f} samples/s")
    for name, target in TARGETS.items():
        multiple = rates["cached"] / rates[name]
        line = f"cached : {name} = {multiple:.2f} (target {target})"
        record.set("ratios", name, value=multiple, line=line)


def bytes_of(dataset: LatentDataset) -> dict[str, float]:
    """Return the stored bytes a sample of each signal."""
    totals = dict.fromkeys(SIGNALS, 0)
    samples = 0
    for clip in dataset.clips:
        entry = dataset.entry(clip)
        samples += entry.clip.frames
        for name, file in entry.files.items():
            for signal, features in SIGNALS.items():
                if feature_of(name) in features:
                    totals[signal] += file.nbytes
    return {signal: total / samples for signal, total in totals.items()}


if __name__ == "__main__":
    typer.run(main)
