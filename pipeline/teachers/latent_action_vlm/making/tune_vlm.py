"""Teaches a Qwen2.5-VL to say latent actions: adapters on its language model, and the rows of the codes.

Dimension letters: B sequences, N codes of a frame.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from pydantic import Field

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import RequestError
from cache_schema.format.features import Record
from cache_schema.progress import SILENT
from cache_schema.storage.atomic_io import make_folder
from cache_schema.storage.locks import hold
from cache_schema.storage.paths import refuse_inside_store
from cache_schema.terminal import table
from cache_schema.vocabulary.latent_actions import CODE_LABELS, CODES_A_TRANSITION
from pipeline.teachers import teacher_preset
from pipeline.teachers.latent_action_vlm.making.clips.labelled_frames import LabelledFrames
from pipeline.teachers.latent_action_vlm.making.forced_codes import CodeRows, forced_nll
from pipeline.teachers.latent_action_vlm.making.lora import adapt
from pipeline.teachers.latent_action_vlm.making.merged_model import write_merged
from pipeline.teachers.latent_action_vlm.making.training_loop import (
    Recipe,
    Remembered,
    fit,
    join_processes,
    prefetched,
)
from pipeline.teachers.latent_action_vlm.presets import LatentActionPreset
from pipeline.teachers.latent_action_vlm.sequences import Sequences
from pipeline.teachers.options import changed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from rich.table import Table
    from torch import Tensor

    from cache_schema.progress import Progress
    from pipeline.source import Source
    from pipeline.teachers.latent_action_vlm.teacher import LatentActionTeacher

MODEL = "model"
"""Folder of the result, in the folder of the run; beside it lies the state of training."""
HELD_OUT = "val"


class TuningConfig(Recipe):
    """How a vision-language model is taught codes."""

    free = frozenset({"checkpoint_every", "frames_in_memory"})

    batch_size: int = Field(16, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    steps: int = Field(10_000, gt=0)
    rank: int = Field(32, gt=0)
    """Of the adapters; with ``alpha``, UniVLA's."""
    alpha: float = Field(16.0, gt=0)
    """Adapters count alpha / rank times."""
    frames_in_memory: int = Field(2000, ge=0)
    """Frames that stay prepared once they were read; of three cameras at 448x252, one takes 1 MB."""
    check_samples: int = Field(1024, gt=1)
    """Held-out frames, at most, that the check at the end looks at."""


def tuning_config(changes: Mapping[str, str]) -> TuningConfig:
    """Return a configuration with some fields changed, given as texts.

    Raises:
        RequestError: There is no such field, or a value does not fit.
    """
    return changed(TuningConfig(), changes, "that tune-vlm makes")


def tuning_preset(name: str, options: Mapping[str, str]) -> LatentActionPreset:
    """Return the preset of a teacher by name; see ``teacher_preset``.

    Raises:
        RequestError: There is none, it has no such option, or it does not tell latent actions.
    """
    preset = teacher_preset(name, options)
    if not isinstance(preset, LatentActionPreset):
        raise RequestError(
            f"the teacher {name} does not tell latent actions",
            expected="a Qwen2.5-VL, such as latentvla-3b or latentvla-tiny",
            repair="choose another --teacher",
        )
    return preset


class TuningChecks(Record):
    """What was learned, on held-out frames; nats a code."""

    samples: int
    nll: float
    """Of all codes, each after the right ones: it tells little of sight, as one code betrays the next."""
    nll_first: float
    """Of the first code of each transition."""
    nll_first_shuffled: float
    """The same with the images of other frames."""
    entropy_first: float
    """Of how often the labels have each value, at the same places: what can be guessed without looking."""

    def __rich__(self) -> Table:
        """Show them as a table."""
        rows = table("check", "nats a code", title=f"{self.samples} held-out frames")
        rows.add_row("codes, each after the right ones", f"{self.nll:.3f}")
        rows.add_row("first code of each transition", f"{self.nll_first:.3f}")
        rows.add_row("  with the images of other frames", f"{self.nll_first_shuffled:.3f}")
        rows.add_row("  guessed by its frequency", f"{self.entropy_first:.3f}")
        return rows


@dataclass(frozen=True)
class TuneReport:
    """How a run ended."""

    folder: Path
    """Of the tuned model, as ``extract --checkpoint`` takes it."""
    checks: TuningChecks


class LabelledBatch(NamedTuple):
    """Some frames, on the model's device."""

    images: Tensor
    """(B, C, 3, H, W) uint8."""
    prompts: Sequences
    codes: Tensor
    """(B, N) int64."""


def tune_vlm(
    run: Path,
    dataset_path: Path,
    source: Source,
    preset: LatentActionPreset,
    checkpoint: Path | None,
    config: TuningConfig,
    *,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> TuneReport:
    """Train to the end, from where a run in this folder was stopped; check, and write the merged model.

    Args:
        run: Folder of the run; made if it does not exist.
        dataset_path: A dataset of the clips, by whatever teacher, with labels.
        source: The raw clips.
        preset: The teacher, with the prompt and the images that it will be asked with.
        checkpoint: Folder of the Qwen2.5-VL to begin with; None: the preset's random weights.
        config: Everything else that decides the result.
        device: Torch device; started by ``accelerate launch``, every process takes its own.
        progress: Counts steps.

    Raises:
        RequestError: The dataset has no labels, or others than the preset's codes; a gradient is not finite.
        CheckpointError: The checkpoint does not fit, or the folder holds another run.
        ClipError: A raw clip is missing or broken.
        DatasetError: Another process trains in the folder, or a label cannot be read.
    """
    dataset = LatentDataset.open(dataset_path)
    frames, held_out = (LabelledFrames(dataset, source, split) for split in ("train", HELD_OUT))
    options = preset.options
    count, least, largest = frames.labels.shape[1], frames.labels.min(), frames.labels.max()
    if count != options.positions or least < 0 or largest >= options.codes:
        raise RequestError(
            f"{dataset} has labels of {count} codes from {least} to {largest}",
            expected=f"{options.positions} from 0 to {options.codes - 1}, as the teacher {preset.name} tells",
            repair="choose the --teacher for these labels, or --set positions=... and codes=...",
        )
    refuse_inside_store(run)
    make_folder(run)
    accelerator = join_processes(config, device)
    with hold(run) if accelerator.is_main_process else contextlib.nullcontext():
        accelerator.wait_for_everyone()
        teacher = preset.load(checkpoint, device=str(accelerator.device), precision=config.precision)
        tuning = _Tuning(teacher, config)
        progress.expect(config.steps)
        fit(
            run / "adapters.safetensors",
            tuning.weights,
            config,
            steps=config.steps,
            samples=len(frames),
            read=tuning.reader(frames),
            loss_of=lambda batch, _: tuning.nll(batch).sum(1).mean(),
            identity={
                "labels": frames.digest,
                "by": dataset.feature(CODE_LABELS).description,
                "teacher": teacher.identity.model_dump(mode="json"),
            },
            accelerator=accelerator,
            progress=progress,
        )
        checks = tuning.check(held_out)
        if accelerator.is_main_process:
            write_merged(run / MODEL, teacher, tuning.rows, checkpoint)
        accelerator.wait_for_everyone()
    return TuneReport(run / MODEL, checks)


class _Tuning:
    """A teacher whose language model is being adapted."""

    def __init__(self, teacher: LatentActionTeacher, config: TuningConfig) -> None:
        self.teacher, self.config = teacher, config
        self.rows = CodeRows(teacher.model, teacher.options.code_ids)
        language_model = teacher.model.model.language_model
        adapted = adapt(language_model, rank=config.rank, alpha=config.alpha, seed=config.seed)
        self.weights = adapted | self.rows.weights

    def reader(self, frames: LabelledFrames) -> Callable[[Iterable[np.ndarray]], Iterator[LabelledBatch]]:
        """Return what yields the frames of every batch of rows."""
        prepared = Remembered(
            lambda row: self.teacher.prepare(frames.sample(row)), self.config.frames_in_memory
        )
        device = self.teacher.model.device

        def read(batches: Iterable[np.ndarray]) -> Iterator[LabelledBatch]:
            for rows, inputs in prefetched(batches, prepared):
                images, prompts = self.teacher.collate(inputs)
                codes = torch.from_numpy(frames.labels[rows])
                on_device = Sequences(*(part.to(device) for part in prompts))
                yield LabelledBatch(images.to(device), on_device, codes.to(device))

        return read

    def nll(self, batch: LabelledBatch) -> Tensor:
        """Return (B, N) minus the log-probability of each code."""
        return forced_nll(self.teacher.model, self.rows, *batch)

    @torch.no_grad()
    def check(self, frames: LabelledFrames) -> TuningChecks:
        """Look at held-out frames."""
        config = self.config
        # In no order: the next frame of a batch, whose images are shown instead, may be of any clip.
        rows = np.random.default_rng(config.seed).permutation(len(frames))[: config.check_samples]
        batches = np.array_split(rows, -(-len(rows) // config.batch_size))
        right, shuffled = [], []
        for batch in self.reader(frames)(batches):
            right.append(self.nll(batch))
            shuffled.append(self.nll(batch._replace(images=batch.images.roll(1, 0))))
        first = slice(None, None, CODES_A_TRANSITION)
        nll, others = (torch.cat(parts).double() for parts in (right, shuffled))
        return TuningChecks(
            samples=len(rows),
            nll=nll.mean().item(),
            nll_first=nll[:, first].mean().item(),
            nll_first_shuffled=others[:, first].mean().item(),
            entropy_first=float(np.mean([_entropy(column) for column in frames.labels[rows][:, first].T])),
        )


def _entropy(values: np.ndarray) -> float:
    counts = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(counts * np.log(counts)).sum())
