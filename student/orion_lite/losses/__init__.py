"""What Orion-Lite is trained for: one file a term of the loss, and a table of their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from student.system import LossConfig

if TYPE_CHECKING:
    from torch import Tensor

    from student.loading.batches import Batch
    from student.orion_lite.model import Prediction

LOSSES = {
    "mimic": "student.orion_lite.losses.mimic:Mimic",
    "regression": "student.orion_lite.losses.regression:Regression",
    "boundary": "student.orion_lite.losses.boundary:Boundary",
    "collision": "student.orion_lite.losses.collision:Collision",
    "latent": "student.orion_lite.losses.latent:Latent",
}
"""Name -> class; its options are the class's fields."""


class Loss(LossConfig):
    """A term of Orion-Lite's loss."""

    def elements(self, predicted: Prediction, batch: Batch) -> Tensor:
        """Return the elements whose mean the term is, weight and mask included."""
        raise NotImplementedError

    def __call__(self, predicted: Prediction, batch: Batch) -> Tensor:
        """Return the weighted term, (), for B samples."""
        return self.elements(predicted, batch).mean()
