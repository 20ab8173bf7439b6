"""The configuration of a run: how it is trained, what is trained, and for which losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from student.flatten import flatten
from student.loading.sampler import Shuffle
from student.runs.version_0_1 import from_flat, is_flat
from student.systems import named_system

if TYPE_CHECKING:
    from collections.abc import Mapping

    from student.system import System

Precision = Literal["fp32", "bf16", "fp16"]
"""Numbers that the network computes in; weights and losses stay float32."""

Schedule = Literal["constant", "cosine"]


class TrainingConfig(BaseModel):
    """How a student is trained, whatever it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    start_from: str | None = None
    """File of weights, as ``teachonce export`` writes them, that a run starts from instead of random ones.
    What the network has besides stays random."""
    epochs: int = Field(20, gt=0)
    """Passes over the training samples."""
    batch_size: int = Field(64, gt=0)
    """Samples of a training step over all processes; the last batch of an epoch may be smaller."""
    micro_batch_size: int | None = Field(None, gt=0)
    """Samples of one forward pass in one process: a step adds up the gradients of its micro-batches. None for
    all at once."""
    shuffle: Shuffle = "frames"
    """How samples are shuffled: ``runs`` for disks and networks that are slow at single samples."""
    learning_rate: float = Field(5e-5, gt=0)
    """Of AdamW; the highest, where there is a schedule."""
    schedule: Schedule = "constant"
    """How the learning rate goes on after its warm-up: ``constant``, or along a ``cosine`` to 0 at the end of
    the last epoch."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate rises linearly."""
    weight_decay: float = Field(1e-4, ge=0)
    """Of AdamW."""
    decay: Literal["all", "matrices"] = "all"
    """What decays: ``all`` weights, or ``matrices`` alone, without norms and biases."""
    partial_batch: Literal["mean", "fraction"] = "mean"
    """What a smaller last batch counts: its gradient is the ``mean`` over its samples, as of any batch, or of
    that the ``fraction`` which they are of a whole batch."""
    clip_norm: float | None = Field(1.0, gt=0)
    """Limit of the gradient's global norm; None for no limit."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then validated, evaluated and exported
    in their place; None for no average."""
    precision: Precision = "fp32"
    """Numbers that the network computes in: ``bf16`` or ``fp16`` where the hardware is fast at them."""
    compile: bool = False
    """Compile the network with torch.compile, as one graph: faster steps after a minute's start."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Decides the first weights, the order of samples, dropout and noise."""
    log_every: int = Field(50, gt=0)
    """Steps between two step lines of the log."""
    checkpoint_every: int | None = Field(None, gt=0)
    """Steps between two checkpoints, besides the one at every epoch's end; None for that alone."""

    def may_change(self) -> frozenset[str]:
        """Return the fields that a run may resume with other values of: they decided nothing so far."""
        free = {"log_every", "checkpoint_every"}
        # A cosine depends on the run's last step from the first step on.
        return frozenset(free | {"epochs"} if self.schedule == "constant" else free)


class RunConfig(BaseModel):
    """Everything that a run depends on besides its dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    system: str
    """What is trained: a name in ``student.systems.SYSTEMS``, or ``package.module:Class``."""
    training: TrainingConfig = TrainingConfig()
    """How it is trained."""
    student: dict[str, Any] = {}
    """Sizes and options of the network, which the system understands."""
    losses: dict[str, dict[str, Any]] = Field(min_length=1)
    """Terms of the loss by name, each with its options."""

    @model_validator(mode="before")
    @classmethod
    def _read_version_0_1(cls, document: Any) -> Any:
        return from_flat(document) if is_flat(document) else document

    def make_system(self) -> System:
        """Return the configured system.

        It is imported: call this only for a configuration that the user named, never for one read from a run.

        Raises:
            RequestError: There is no such system, or it does not understand the configuration.
        """
        return named_system(self.system)(self.student, self.losses)

    def completed(self, system: System) -> RunConfig:
        """Return the configuration with every default of its system filled in.

        What the system does not understand stays as it is.
        """
        losses = {
            name: _filled_in(type(system.losses[name]), options) if name in system.losses else options
            for name, options in self.losses.items()
        }
        student = _filled_in(type(system.student), self.student)
        return self.model_copy(update={"student": student, "losses": losses})

    def flat(self) -> dict[str, Any]:
        """Return every value by its dotted name, such as ``losses.mimic.weight``."""
        return flatten(self.model_dump(mode="json"))

    def differences(self, other: RunConfig) -> dict[str, tuple[Any, Any]]:
        """Return what differs, by dotted name: the value here and there, None where there is none."""
        here, there = self.flat(), other.flat()
        names = dict.fromkeys((*here, *there))
        return {
            name: (here.get(name), there.get(name)) for name in names if here.get(name) != there.get(name)
        }


def _filled_in(kind: type[BaseModel], options: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return kind.model_validate(dict(options)).model_dump(mode="json")
    except ValidationError:
        return dict(options)
