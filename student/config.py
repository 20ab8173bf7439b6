"""How a student is trained."""

from __future__ import annotations

import difflib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cache_schema.errors import RequestError

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


PRESETS = {
    "orion-lite": TrainConfig(),
    "demo": TrainConfig(
        hidden=96,
        layers=2,
        heads=4,
        feedforward=192,
        epochs=30,
        batch_size=32,
        learning_rate=1e-3,
        mask="complete",
        log_every=10,
    ),
}
"""Named recipes: the released one, and a small one for minutes on a laptop."""


def preset(name: str) -> TrainConfig:
    """Return a recipe by name.

    Raises:
        RequestError: There is none of that name.
    """
    if name in PRESETS:
        return PRESETS[name]
    nearest = difflib.get_close_matches(name, PRESETS, n=1)
    raise RequestError(
        f"there is no training preset {name!r}" + (f"; did you mean {nearest[0]!r}?" if nearest else ""),
        expected=f"one of {', '.join(PRESETS)}",
        repair="choose one of these",
    )
