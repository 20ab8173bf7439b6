"""How a student is trained."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cache_schema.errors import RequestError
from cache_schema.plugins import resolve

Mask = Literal["complete", "orion"]
"""Which frames have a truth: every one that the clip can give, or ORION's own reading, which leaves out the
first ten frames of a clip."""


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
    """Which frames have a truth: ``complete`` or ``orion``."""

    epochs: int = Field(20, gt=0)
    """Passes over the training frames."""
    batch_size: int = Field(64, gt=0)
    """Frames of a training step; the last batch of an epoch may be smaller."""
    learning_rate: float = Field(5e-5, gt=0)
    """Of AdamW, constant."""
    weight_decay: float = Field(1e-4, ge=0)
    """Of AdamW, on every weight."""
    clip_norm: float = Field(1.0, gt=0)
    """Limit of the gradient's global norm."""
    seed: int = Field(0, ge=0)
    """Decides the first weights, the order of frames, dropout and noise."""
    log_every: int = Field(50, gt=0)
    """Steps between two step lines of the log."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> TrainConfig:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is no multiple of heads {self.heads}")
        return self


MAY_CHANGE = frozenset({"epochs", "log_every"})
"""Fields that decide nothing of what a run has computed so far, so that it may go on with others."""

PRESETS = {
    "orion-lite": "student.presets:ORION_LITE",
    "demo": "student.presets:DEMO",
}
"""Name of a recipe -> where it is defined."""


def preset(name: str) -> TrainConfig:
    """Return a recipe by name, or one of the user's own by ``package.module:NAME``.

    Raises:
        RequestError: There is none of that name, or what the name stands for is no recipe.
    """
    recipe = resolve(PRESETS, name, kind="preset")
    if not isinstance(recipe, TrainConfig):
        raise RequestError(
            f"the preset {name!r} is a {type(recipe).__name__}",
            expected="a TrainConfig of student.config",
            repair="correct the name, or what it stands for",
        )
    return recipe
