"""A training loop that goes on, to the bit, from wherever it was killed.

Everything that changes from step to step lies in one safetensors file, which takes the place of the one
before it in one move. What is drawn at a step follows from the seed and the step's number.
"""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.nn.utils import clip_grad_norm_

from cache_schema.errors import CheckpointError, RequestError
from cache_schema.format.features import Record
from cache_schema.format.identity import differing_leaves
from cache_schema.processors import usable_processors
from cache_schema.progress import SILENT
from cache_schema.storage.atomic_io import write_durably
from cache_schema.storage.locks import check_held
from pipeline.teachers.device import make_current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from torch import Tensor, nn

    from cache_schema.progress import Progress

Batch = TypeVar("Batch")
Sample = TypeVar("Sample")

KEY = "teachonce"
"""Key of the JSON in the header of a safetensors file. One alone: the order of several is not fixed."""
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of a weight."""


class Recipe(Record):
    """How weights are trained, whatever they are."""

    free: ClassVar[frozenset[str]] = frozenset({"checkpoint_every"})
    """Fields that decide nothing, and that a run may go on with other values of."""
    batch_size: int = Field(gt=0)
    """Samples of a step over all processes."""
    learning_rate: float = Field(1e-4, gt=0)
    """Of AdamW."""
    weight_decay: float = Field(1e-2, ge=0)
    """Of AdamW, on every weight."""
    clip_norm: float = Field(0.1, gt=0)
    """Limit of the gradient's global norm."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Numbers that networks compute in; weights stay float32."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Decides the first weights, and the order of samples."""
    checkpoint_every: int = Field(500, gt=0)
    """Steps between two states that a run goes on from."""


def join_processes(recipe: Recipe, device: str) -> Accelerator:
    """Join the other processes of the run, if ``accelerate`` or ``torchrun`` started some."""
    make_current(device)
    # accelerate keeps one state a process, and the next run may want another precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(
        cpu=torch.device(device).type == "cpu",
        mixed_precision="no" if recipe.precision == "fp32" else recipe.precision,
    )


def rows_of(step: int, samples: int, recipe: Recipe) -> np.ndarray:
    """Return the samples of a step, counted from 0; an epoch has each once, but for the last few."""
    size = min(recipe.batch_size, samples)
    epoch, place = divmod(step, samples // size)
    order = np.random.default_rng((recipe.seed, epoch)).permutation(samples)
    return order[place * size : (place + 1) * size]


def prefetched(
    batches: Iterable[np.ndarray], read: Callable[[int], Sample]
) -> Iterator[tuple[np.ndarray, list[Sample]]]:
    """Yield every batch of rows with its samples, read by threads during the batch before."""
    with ThreadPoolExecutor(usable_processors()) as pool:
        waiting: tuple[np.ndarray, list[Future[Sample]]] | None = None
        for rows in itertools.chain(batches, [None]):
            asked = None if rows is None else (rows, [pool.submit(read, int(row)) for row in rows])
            if waiting is not None:
                yield waiting[0], [sample.result() for sample in waiting[1]]
            waiting = asked


class Remembered(Generic[Sample]):
    """Reads samples by their number, and keeps the first so many. Called by several threads at once."""

    def __init__(self, read: Callable[[int], Sample], limit: int) -> None:
        self._read, self._limit = read, limit
        self._kept: dict[int, Sample] = {}

    def __call__(self, number: int) -> Sample:
        """Return one sample, always the same object where it is kept."""
        sample = self._kept.get(number)
        if sample is None:
            sample = self._read(number)
            if len(self._kept) < self._limit:
                self._kept[number] = sample
        return sample


def fit(
    file: Path,
    weights: Mapping[str, nn.Parameter],
    recipe: Recipe,
    *,
    steps: int,
    samples: int,
    read: Callable[[Iterator[np.ndarray]], Iterator[Batch]],
    loss_of: Callable[[Batch, int], Tensor],
    after: Callable[[Batch, int], None] | None = None,
    state: Mapping[str, Tensor] | None = None,
    identity: Mapping[str, Any],
    accelerator: Accelerator,
    progress: Progress = SILENT,
) -> None:
    """Train weights until so many steps are done, from the state in the file if there is one.

    Args:
        file: Where the state lies, in a folder that this run holds.
        weights: What is trained, by name, where it is trained.
        recipe: How.
        steps: Of the whole run.
        samples: How many there are.
        read: Yields a batch for the rows of each step, of which this process has a part.
        loss_of: Returns the loss () of this process's part of a batch at a step.
        after: Called after a step.
        state: Further tensors that change in place.
        identity: JSON of all else that decides the result; of another the state is refused.
        accelerator: The processes, of which each has the same weights.
        progress: Counts steps.

    Raises:
        CheckpointError: The file is damaged, or of another run.
        RequestError: A gradient is not finite, or the processes cannot share a batch.
        DatasetError: The folder was deleted, moved or replaced meanwhile.
    """
    state, processes = state or {}, accelerator.num_processes
    progress = progress if accelerator.is_main_process else SILENT
    if min(recipe.batch_size, samples) % processes:
        raise RequestError(
            f"{processes} processes cannot share a batch of {min(recipe.batch_size, samples)} samples",
            expected="as many samples for each process",
            repair=f"set batch_size to a multiple of {processes} that is no larger than the data",
        )
    optimizer = torch.optim.AdamW(
        [*weights.values()], lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    decides = recipe.model_dump(mode="json", exclude={*recipe.free})
    identity = json.loads(json.dumps({**identity, "recipe": decides}))
    done = _restore(file, weights, optimizer, state, identity) if file.exists() else 0
    progress.advance(done, file.stem)
    rows = (
        rows_of(step, samples, recipe)[accelerator.process_index :: processes] for step in range(done, steps)
    )
    for step, batch in enumerate(read(rows), start=done):
        loss = loss_of(batch, step)
        accelerator.backward(loss)
        gradients = [weight.grad for weight in weights.values() if weight.grad is not None]
        if processes > 1:
            for gradient in gradients:
                gradient.copy_(accelerator.reduce(gradient, "mean"))
        norm = clip_grad_norm_([*weights.values()], recipe.clip_norm)
        if not bool(norm.isfinite()):
            raise RequestError(
                f"the gradient of step {step} is not finite, at a loss of {loss.item():g}",
                expected="finite losses and gradients",
                repair="train in another folder with a lower learning_rate; the state of before is kept",
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if after is not None:
            after(batch, step)
        if step + 1 == steps or (step + 1) % recipe.checkpoint_every == 0:
            if accelerator.is_main_process:
                check_held(file.parent)
                _save(file, weights, optimizer, state, {"step": step + 1, "identity": identity})
            accelerator.wait_for_everyone()
        progress.advance(1, file.stem)


def _save(
    file: Path,
    weights: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Tensor],
    reached: Mapping[str, Any],
) -> None:
    tensors = {f"weights.{name}": weight.detach() for name, weight in weights.items()}
    tensors |= {f"state.{name}": value for name, value in state.items()}
    for name, weight in weights.items():
        moments = optimizer.state.get(weight, {})
        tensors |= {f"{key}.{name}": moments[key] for key in MOMENTS if key in moments}
    contiguous = {name: value.cpu().contiguous() for name, value in tensors.items()}
    write_durably(file, save(contiguous, {KEY: json.dumps(reached)}))


@torch.no_grad()
def _restore(
    file: Path,
    weights: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Tensor],
    identity: Mapping[str, Any],
) -> int:
    """Put a state back; return the steps that it has done."""
    try:
        with safe_open(file, "pt") as stored:
            reached = json.loads((stored.metadata() or {})[KEY])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{file} cannot be read: {error}",
            expected="the state of a run, as it was written",
            repair="restore it from a copy, or delete it to train from the start",
        ) from error
    if reached["identity"] != identity:
        changed = differing_leaves(reached["identity"], identity)
        rows = "; ".join(f"{field} {there!r} there, {now!r} now" for field, there, now in changed)
        raise CheckpointError(
            f"the run in {file.parent} is another one: {rows}",
            expected="the configuration, the data and the weights that the run began with",
            repair="give another folder, or what the run began with",
        )
    for name, weight in weights.items():
        weight.copy_(tensors[f"weights.{name}"])
        own = {key: tensors[f"{key}.{name}"] for key in MOMENTS if f"{key}.{name}" in tensors}
        if own:
            on_device = {key: value.to(weight.device) for key, value in own.items() if key != "step"}
            optimizer.state[weight] = {"step": own["step"], **on_device}
    for name, value in state.items():
        value.copy_(tensors[f"state.{name}"])
    return int(reached["step"])
