"""How a student is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cache_schema.errors import RequestError
from cache_schema.plugins import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

Mask = Literal["complete", "orion"]
"""Which frames have a truth: every one that the clip can give, or ORION's own reading, which leaves out the
first ten frames of a clip."""

Shuffle = Literal["frames", "runs"]
"""A permutation of all frames, or of runs of neighbouring frames that are then mixed with a few others."""

Resident = Literal["none", "ram", "device"]
"""Where the training frames stay while a run goes on: on the disk, in host memory, or on the GPU."""

Precision = Literal["fp32", "bf16", "fp16"]
"""Numbers that the decoder computes in; weights, the planner and losses stay float32."""

Schedule = Literal["constant", "cosine"]


class TrainConfig(BaseModel):
    """Everything a run depends on besides its dataset. The defaults are the released recipe.

    The width of a token, the number of queries and the planner's sizes come from the dataset.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    hidden: int = Field(1024, gt=0)
    """Width of the student's decoder."""
    layers: int = Field(6, gt=0)
    """Layers of the decoder."""
    heads: int = Field(16, gt=0)
    """Attention heads of each layer; they divide the width."""
    feedforward: int = Field(4096, gt=0)
    """Inner width of each layer's feed-forward network."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout while training."""
    batch_mixing: bool = False
    """Emulate the reference's mixing of the planner's first states across the batch."""

    objectives: dict[str, dict[str, Any]] = Field(
        default={"mimic": {}, "regression": {}, "boundary": {}, "collision": {}, "latent": {}}, min_length=1
    )
    """Terms of the loss by name, each with its options."""
    mask: Mask = "orion"
    """Which frames have a truth: ``complete`` or ``orion``. The released run never sees the truth of a clip's
    first ten frames, 4 % of all, though the clip has it."""
    term_warmup_steps: dict[str, int] = {}
    """Steps over which a term of the loss rises linearly to its weight, by the objective's name. The released
    run's divergence explodes in the first epoch (up to 1e6), and clipping then leaves nothing of the other
    terms' gradients."""

    epochs: int = Field(20, gt=0)
    """Passes over the training frames."""
    batch_size: int = Field(64, gt=0)
    """Frames of a training step over all processes; the last batch of an epoch may be smaller."""
    shuffle: Shuffle = "frames"
    """How frames are shuffled: ``runs`` for disks and networks that are slow at single frames."""
    learning_rate: float = Field(5e-5, gt=0)
    """Of AdamW; the highest, where there is a schedule."""
    schedule: Schedule = "constant"
    """How the learning rate goes on after its warm-up: ``constant``, or along a ``cosine`` to 0 at the end of
    the last epoch. At a constant rate the released run's validation error varies by 10 % to its very end."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate rises linearly. AdamW's first steps are as large as any, on moments
    of a handful of gradients, and the planner starts out trained."""
    weight_decay: float = Field(1e-4, ge=0)
    """Of AdamW."""
    decay: Literal["all", "matrices"] = "all"
    """What decays: ``all`` weights, or ``matrices`` alone: a norm's gain and a bias have no size to lose."""
    clip_norm: float = Field(1.0, gt=0)
    """Limit of the gradient's global norm."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay of a moving average of the weights, which is what is then validated, evaluated and exported. It
    evens out the last steps, which a constant rate leaves to chance."""
    precision: Precision = "fp32"
    """Numbers that the decoder computes in: ``bf16`` or ``fp16`` where the hardware is fast at them."""
    compile: bool = False
    """Compile the network with torch.compile: faster steps after a minute's start."""
    seed: int = Field(0, ge=0)
    """Decides the first weights, the order of frames, dropout and noise."""
    log_every: int = Field(50, gt=0)
    """Steps between two step lines of the log."""
    checkpoint_every: int | None = Field(None, gt=0)
    """Steps between two checkpoints, besides the one at every epoch's end; None for that alone."""

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is no multiple of heads {self.heads}")
        if unknown := sorted(self.term_warmup_steps.keys() - self.objectives.keys()):
            raise ValueError(f"term_warmup_steps names no objective of the run: {', '.join(unknown)}")
        return self

    def may_change(self) -> frozenset[str]:
        """Fields that decide nothing of what a run has computed so far, so that it may go on with others."""
        free = {"log_every", "checkpoint_every"}
        # A cosine has its end in view from the first step on.
        return frozenset(free | {"epochs"} if self.schedule == "constant" else free)


PRESETS = {
    "orion-lite": "student.orion_lite.presets:ORION_LITE",
    "orion-lite-plus": "student.orion_lite.presets:ORION_LITE_PLUS",
    "orion-lite-mse": "student.orion_lite.presets:MSE",
    "orion-lite-huber": "student.orion_lite.presets:HUBER",
    "orion-lite-kl": "student.orion_lite.presets:KL",
    "orion-lite-trajectory": "student.orion_lite.presets:TRAJECTORY",
    "orion-lite-mimic": "student.orion_lite.presets:MIMIC",
    "orion-lite-2-layers": "student.orion_lite.presets:LAYERS_2",
    "orion-lite-4-layers": "student.orion_lite.presets:LAYERS_4",
    "orion-lite-8-layers": "student.orion_lite.presets:LAYERS_8",
    "orion-lite-16-layers": "student.orion_lite.presets:LAYERS_16",
    "demo": "student.orion_lite.presets:DEMO",
    "demo-trajectory": "student.orion_lite.presets:DEMO_TRAJECTORY",
    "demo-mimic": "student.orion_lite.presets:DEMO_MIMIC",
}
"""Name of a recipe -> where it is defined."""


def preset(name: str, changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """Return a recipe by name, or one of the user's own by ``package.module:NAME``.

    Args:
        name: Which recipe.
        changes: Fields that differ from it.

    Raises:
        RequestError: There is none of that name, what the name stands for is no recipe, or a change does not
            fit.
    """
    recipe = resolve(PRESETS, name, kind="preset")
    if not isinstance(recipe, TrainConfig):
        raise RequestError(
            f"the preset {name!r} is a {type(recipe).__name__}",
            expected="a TrainConfig of student.runs.config",
            repair="correct the name, or what it stands for",
        )
    try:
        return TrainConfig.model_validate({**recipe.model_dump(), **(changes or {})})
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"])
        raise RequestError(
            f"the preset {name!r} cannot be changed so: {field}: {fault['msg']}",
            expected=f"a value that fits one of {', '.join(TrainConfig.model_fields)}",
            repair="correct the change, or leave it out",
        ) from error
