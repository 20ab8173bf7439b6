"""Samples of a batch one by one, as the student reads them.

Dimension letters: B sample of a batch, N token of a sequence, n image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from cache_schema.errors import DatasetError
from cache_schema.vocabulary.attention import (
    ANSWER_START,
    CAPABILITIES,
    CAPABILITY,
    IMAGE_EMBEDDINGS,
    IMAGE_PIXELS,
    IMAGE_RUNS,
    TOKEN_IDS,
)
from student.loading.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from student.drive_kd.model import Trainable
    from student.loading.batches import Batch


class Sample(NamedTuple):
    """A question, its images, and the answer."""

    token_ids: Tensor
    """(N) int64."""
    image_runs: Tensor
    """(n, 2) int64."""
    images: Tensor
    """What ``DriveKd.embed`` takes."""
    answer_start: int
    """The first token that is learned."""
    capability: str
    targets: dict[str, Tensor]
    """Feature -> what the teacher says."""

    def target(self, feature: str, *sizes: tuple[int, int]) -> Tensor:
        """Return what the teacher says, compared with the sample's size.

        Args:
            feature: Its name.
            sizes: Pairs of an axis and the length that it must have.

        Raises:
            DatasetError: The dataset has nothing for this sample, or something of another size.
        """
        value = self.targets[feature]
        if any(value.shape[axis] != length for axis, length in sizes):
            wanted = ", ".join(f"{length} on axis {axis}" for axis, length in sizes)
            raise DatasetError(
                f"{feature} of a sample of {self.capability} with {len(self.token_ids)} tokens has the shape "
                f"{tuple(value.shape)}",
                expected=f"the teacher's attention for the same tokens: {wanted}",
                repair="set student.pi to 0 where a signal was not extracted, or extract it for all samples",
            )
        return value


def image_feature(trainable: Trainable) -> str:
    """Return the feature that a student sees."""
    return IMAGE_EMBEDDINGS if trainable == "language" else IMAGE_PIXELS


def samples_of(batch: Batch, trainable: Trainable) -> Iterator[Sample]:
    """Yield the samples of a batch that holds questions, images, and any targets."""
    # The host waits for the device here, and once only.
    numbers = torch.stack([batch[ANSWER_START], batch[CAPABILITY]], dim=1).tolist()
    images = image_feature(trainable)
    inputs = {ANSWER_START, CAPABILITY, TOKEN_IDS, IMAGE_RUNS, images}
    targets = {
        name: values for name, values in batch.items() if name not in inputs and isinstance(values, Ragged)
    }
    for place, (answer_start, capability) in enumerate(numbers):
        yield Sample(
            batch[TOKEN_IDS].item(place),
            batch[IMAGE_RUNS].item(place),
            batch[images].item(place),
            answer_start,
            CAPABILITIES[capability],
            {name: values.item(place) for name, values in targets.items()},
        )
