"""Options of Drive-KD; sizes of the student come from its dataset."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cache_schema.vocabulary.attention import CAPABILITIES
from student.drive_kd.model import Trainable

Row = tuple[float, float, float]


class Pi(BaseModel):
    """How much each kind of attention teaches samples of each capability.

    A row has one number for the terms ``perception``, ``reasoning`` and ``planning``. Negative ones count as
    0, and the row is divided by its sum. Where it has 0, the term does not exist for that sample.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    perception: Row = (1.0, 0.0, 0.0)
    """Of samples that ask for perception."""
    reasoning: Row = (0.0, 1.0, 0.0)
    """Of samples that ask for reasoning."""
    planning: Row = (0.0, 0.0, 1.0)
    """Of samples that ask for planning."""

    def row(self, capability: str) -> dict[str, float]:
        """Return the share of every term for samples of a capability."""
        numbers = [max(number, 0.0) for number in getattr(self, capability)]
        whole = sum(numbers) or 1.0
        return {term: number / whole for term, number in zip(CAPABILITIES, numbers, strict=True)}


class DriveKdConfig(BaseModel):
    """What is trained, and how the terms of the loss become one gradient."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    trainable: Trainable = "language"
    """What learns: the ``language`` model and its head, as the paper's figure has it, or ``all``, the vision
    tower and the projector too, as the released script has it."""
    pi: Pi = Pi()
    """Shares of the terms by capability."""
    weighting: Literal["static", "gradnorm"] = "static"
    """Whether terms keep the weights of their options, or ``gradnorm`` changes them step by step so that
    their gradients have norms in proportion to those weights."""
    weight_learning_rate: float = Field(3e-4, gt=0)
    """Of the optimiser that changes the weights."""
    alpha: float = Field(0.0, ge=0)
    """How much more weight a term gets that has fallen less than the others; 0 for none."""
    combination: Literal["sum", "agp"] = "agp"
    """Gradients are added up as they are, or ``agp`` projects those that contradict each other first."""
    projection: Literal["per-sample", "per-step"] = "per-sample"
    """What is projected: the gradients of every sample, or once a step the means over all its samples. That
    costs a part, and is another method than the released one."""
    stage_1: bool = True
    """Whether what contradicts the gradient of the answer is taken out of the other terms' gradients."""
    stage_2: bool = True
    """Whether what then contradicts the gradient of another term is taken out as well."""
    ce_once: bool = False
    """Whether the gradient of the answer counts once. As released it counts once for every other term of a
    sample: projecting also means weighing the answer up to three times."""
