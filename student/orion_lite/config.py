"""Sizes and options of Orion-Lite, except what the dataset decides."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from student.open_loop.ground_truth import Mask


class OrionLiteConfig(BaseModel):
    """Sizes and options of the student; the defaults are the released ones.

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
    """Emulate the reference's mixing of the planner's initial states across the batch."""
    mask: Mask = "orion"
    """Which samples have ground truth: ``complete`` or ``orion``. The released run never sees that of a
    clip's first ten frames, 4 % of all, though the clip has it."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> OrionLiteConfig:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is no multiple of heads {self.heads}")
        return self
