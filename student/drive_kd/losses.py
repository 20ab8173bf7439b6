"""What the student is trained for: the answer, and the teacher's attention.

A term is computed for one sample, unweighted. Attention is post-softmax, the mean over heads.

Dimension letters: N token of a sequence, T token that stands for no image, V token that does, L group of the
teacher's layers, P token of the stored prefix, S token behind it (N - P).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field

from cache_schema.vocabulary.attention import (
    ATTENTION_FIRST,
    ATTENTION_GROUPS,
    ATTENTION_GROUPS_PREFIX,
    ATTENTION_GROUPS_TO_PREFIX,
    ATTENTION_PENULTIMATE,
)
from student.drive_kd.model import text_and_vision
from student.system import LossConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from student.drive_kd.model import DriveKd, StudentOutput
    from student.drive_kd.sample import Sample

ANSWER_CE = "answer_ce"
LOSSES = {
    ANSWER_CE: "student.drive_kd.losses:AnswerCe",
    "perception": "student.drive_kd.losses:Perception",
    "reasoning": "student.drive_kd.losses:Reasoning",
    "planning": "student.drive_kd.losses:Planning",
}
"""Name -> class; its options are the class's fields. The last three are the capabilities."""


class Block(NamedTuple):
    """A part of a map, as both see it."""

    student: Tensor
    teacher: Tensor


class Loss(LossConfig):
    """A term of Drive-KD's loss."""

    weight: float = Field(1.0, gt=0)
    """Factor of the term; with gradnorm its first weight, and its share of the gradient's norm."""

    def layers(self, model: DriveKd) -> Sequence[int]:
        """Return the layers of the student whose attention the term reads."""
        raise NotImplementedError

    def __call__(self, output: StudentOutput, sample: Sample, model: DriveKd) -> Tensor:
        """Return the unweighted term of a sample, ()."""
        raise NotImplementedError


class AnswerCe(Loss):
    """Cross-entropy of the assistant's turn, its header and end included; the mean over its tokens."""

    def layers(self, model: DriveKd) -> Sequence[int]:
        """See ``Loss``."""
        return ()

    def __call__(self, output: StudentOutput, sample: Sample, model: DriveKd) -> Tensor:
        """See ``Loss``."""
        learned = sample.token_ids[sample.answer_start :]
        # Each token is predicted by the one before it; logits may begin anywhere before the first of these.
        return F.cross_entropy(output.logits[-len(learned) - 1 : -1], learned)


class Attention(Loss):
    """Distance between the student's attention and the teacher's."""

    distance: Literal["mse", "cosine"] = "mse"
    """Mean squared difference of the elements (mse), or 1 minus the cosine of the angle between the two maps,
    as vectors of all elements (cosine). The paper reports a cosine that it does not define; this is ours."""

    def between(self, blocks: Sequence[Block], elements: int) -> Tensor:
        """Return the distance of two maps, (), given where one of them may be other than 0.

        Args:
            blocks: These parts.
            elements: Of the whole maps.
        """
        if self.distance == "mse":
            squares = [(student - teacher).square().sum() for student, teacher in blocks]
            return torch.stack(squares).sum() / max(elements, 1)
        products = torch.stack(
            [torch.stack([(s * t).sum(), s.square().sum(), t.square().sum()]) for s, t in blocks]
        ).sum(dim=0)  # (3)
        both, student, teacher = products.unbind()
        return 1 - both / (student * teacher).clamp(min=torch.finfo(both.dtype).tiny).sqrt()


class TextToVision(Attention):
    """Attention from all tokens that stand for no image to those that do, in one layer."""

    feature: ClassVar[str]
    layer: ClassVar[int]

    def layers(self, model: DriveKd) -> Sequence[int]:
        """See ``Loss``."""
        return (self.layer % model.depth,)

    def __call__(self, output: StudentOutput, sample: Sample, model: DriveKd) -> Tensor:
        """See ``Loss``."""
        tokens, vision = len(sample.token_ids), sample.images.shape[0] * model.config.image_seq_length
        teacher = sample.target(self.feature, (0, tokens - vision), (1, vision))  # (T, V)
        rows, columns = text_and_vision(sample.image_runs, tokens, vision)
        (layer,) = self.layers(model)
        student = output.attention[layer].index_select(0, rows).index_select(1, columns)
        return self.between([Block(student, teacher)], teacher.numel())


class Perception(TextToVision):
    """From text to images in the first layer."""

    required_features: ClassVar[tuple[str, ...]] = (ATTENTION_FIRST,)
    feature: ClassVar[str] = ATTENTION_FIRST
    layer: ClassVar[int] = 0


class Planning(TextToVision):
    """From text to images in the last layer but one."""

    required_features: ClassVar[tuple[str, ...]] = (ATTENTION_PENULTIMATE,)
    feature: ClassVar[str] = ATTENTION_PENULTIMATE
    layer: ClassVar[int] = -2


class Reasoning(Attention):
    """All attention of all layers but the last; the teacher's is the mean of a group of layers."""

    required_features: ClassVar[tuple[str, ...]] = (
        ATTENTION_GROUPS,
        ATTENTION_GROUPS_TO_PREFIX,
        ATTENTION_GROUPS_PREFIX,
    )

    def layers(self, model: DriveKd) -> Sequence[int]:
        """See ``Loss``."""
        return model.group_layers

    def __call__(self, output: StudentOutput, sample: Sample, model: DriveKd) -> Tensor:
        """See ``Loss``."""
        layers, tokens = self.layers(model), len(sample.token_ids)
        prefix = sample.target(ATTENTION_GROUPS_PREFIX, (0, len(layers)))  # (L, P, P)
        shared = prefix.shape[1]
        sizes = ((0, len(layers)), (1, tokens - shared))
        to_prefix = sample.target(ATTENTION_GROUPS_TO_PREFIX, *sizes, (2, shared))  # (L, S, P)
        behind = sample.target(ATTENTION_GROUPS, *sizes, (2, tokens - shared))  # (L, S, S)
        terms = []
        for group, layer in enumerate(layers):
            map_ = output.attention[layer]
            blocks = [
                Block(map_[:shared, :shared], prefix[group]),
                Block(map_[shared:, :shared], to_prefix[group]),
                Block(map_[shared:, shared:], behind[group]),
            ]
            # Above the diagonal both are 0, which counts.
            terms.append(self.between(blocks, tokens * tokens))
        return torch.stack(terms).mean()
