"""ORION while something drives: without its language model for a student, all of it for the teacher itself.

A student sees through all of the teacher's features but the planning token, to the same bits: the weights of
its backbone and heads are read, and the same code runs.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from cache_schema.errors import IdentityError
from cache_schema.processors import usable_processors
from cache_schema.progress import SILENT
from cache_schema.vocabulary.orion import HEADS, PLANNER
from pipeline.bench2drive.geometry import CAMERAS
from pipeline.bench2drive.source import DrivingSample
from pipeline.teachers.orion.checkpoints.reader import as_json, read_weights
from pipeline.teachers.orion.checkpoints.tensors import (
    PLANNER_PREFIX,
    build_part,
    prefixed_planner_shapes,
    random_planner,
    random_weights,
)
from pipeline.teachers.orion.features import orion_features, vision_features
from pipeline.teachers.orion.inputs import prepare
from pipeline.teachers.orion.network.memory import choose_slots
from pipeline.teachers.orion.network.model import Orion
from pipeline.teachers.orion.network.vision import VisionStack
from pipeline.teachers.orion.stream import OrionState, OrionStream, complete
from pipeline.teachers.precision import compute_exact_float32
from pipeline.teachers.weights import random_origin

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from cache_schema.dataset.reader import LatentDataset
    from cache_schema.progress import Progress
    from cache_schema.vocabulary.observation import Observation
    from pipeline.teachers.orion.images import ImagePreprocessing
    from pipeline.teachers.orion.inputs import OrionBatch, OrionInputs
    from pipeline.teachers.orion.network.config import OrionConfig
    from pipeline.teachers.orion.network.vision import VisionOutput
    from pipeline.teachers.orion.precision import PrecisionConfig


class OrionVision(OrionStream):
    """A frozen vision stack; implements ``Perception``. Other arguments are those of ``OrionTeacher``.

    Args:
        whole: Whether the language model runs behind it, so that planning tokens are computed as well.
    """

    cameras = tuple(CAMERAS)

    def __init__(
        self,
        name: str,
        config: OrionConfig,
        images: ImagePreprocessing,
        weights: Path | int,
        *,
        device: str,
        precision: PrecisionConfig,
        compiled: bool = False,
        random_device: str = "cpu",
        whole: bool = False,
        progress: Progress = SILENT,
    ) -> None:
        model = build_part(Orion if whole else VisionStack, config)
        features = orion_features(config) if whole else vision_features(config)
        super().__init__(model, config, images, features, device=device)
        self._weights, self._random_device = weights, random_device
        # A vehicle waits for its six images; those of a clip are prepared ahead.
        self._each_image = ThreadPoolExecutor(max(len(CAMERAS), usable_processors()), "image").map
        compute_exact_float32()
        shapes = {key: tuple(weight.shape) for key, weight in model.state_dict().items()}
        progress.expect(len(shapes))
        if isinstance(weights, int):
            read = random_weights(shapes, weights, random_device)
        else:
            read = read_weights(weights, config, shapes)
        for key, weight in read:
            precision.place(model, key, weight, device)
            progress.advance()
        complete(model, precision, device)
        if compiled:
            model.compile_layers()
        seen = name if whole else f"vision of {name}"
        self.identity = {"perception": seen, "precision": precision.description(device)}

    def prepare(self, sample: DrivingSample | Observation) -> OrionInputs:
        """Decode the images of a frame, several at once, and shrink them unless a GPU does.

        Raises:
            ClipError: An image is not a whole JPEG of 1600x900.
            RequestError: An observation's cameras are not Bench2Drive's.
        """
        sample = sample if isinstance(sample, DrivingSample) else DrivingSample.of(sample)
        return prepare(sample, self.images, shrink=self.shrink_on is None, each=self._each_image)

    @torch.inference_mode()
    def forward(self, batch: OrionBatch, state: OrionState) -> tuple[VisionOutput, OrionState]:
        """Run the model as a teacher does, but keep the memory of idle slots: their drives go on."""
        output, after = super().forward(batch, state)
        if all(batch.clips):
            return output, after
        busy = torch.tensor([bool(clip) for clip in batch.clips], device=self.device)
        clips = tuple(now or before for now, before in zip(batch.clips, state.clips, strict=True))
        return output, OrionState(clips, choose_slots(busy, after.memory, state.memory))

    def check_made(self, dataset: LatentDataset) -> None:
        """Check that a dataset was made by the teacher that this is the vision of.

        Compared are sizes, the preparation of images, and the weights that the dataset holds itself: those of
        the projections to vision tokens and of the planner. The digest that the dataset has of all weights
        would need the language model.

        Raises:
            IdentityError: It was made by another teacher.
            RequestError: The dataset does not hold these weights.
        """
        teacher = dataset.manifest.teacher
        differing = []
        if teacher.architecture != as_json(self.config):
            differing.append("the sizes of the model")
        if teacher.preprocessing != as_json(self.images):
            differing.append("the preparation of images")
        if isinstance(self._weights, int):
            origin = random_origin(self._weights, self._random_device)
            if teacher.weights != origin:
                differing.append(f"the weights, {teacher.weights} there and {origin} here,")
        if not differing:
            for stem, tensors in {HEADS: self.model.projections(), PLANNER: self._planner()}.items():
                differing += _differing(stem, tensors, dataset.asset(stem))
        if differing:
            raise IdentityError(
                f"{', '.join(differing)} of this checkpoint and of {teacher.name}, the teacher of {dataset}, "
                "differ",
                expected="the teacher that the student's dataset was extracted with",
                repair="give that teacher's --checkpoint, or a run that learned from this teacher",
            )

    def _planner(self) -> dict[str, Tensor]:
        """Read the planner, which is compared, and needed for nothing else."""
        if isinstance(self._weights, int):
            return random_planner(self.config, self._weights, self._random_device)
        read = read_weights(self._weights, self.config, prefixed_planner_shapes(self.config))
        return {key.removeprefix(PLANNER_PREFIX): weight for key, weight in read}


def _differing(stem: str, mine: dict[str, Tensor], theirs: dict[str, np.ndarray]) -> list[str]:
    """Return the names of tensors that are not the same on both sides."""
    return [
        f"{stem}.{name}"
        for name in sorted({*mine, *theirs})
        if name not in mine or name not in theirs or not np.array_equal(mine[name].numpy(), theirs[name])
    ]
