"""ORION as a ``Teacher``: frames in, features out, one memory a slot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_schema.format.manifest import TeacherIdentity
from cache_schema.progress import SILENT
from cache_schema.vocabulary.orion import HEADS, PLANNER
from pipeline.teachers.orion.checkpoints.reader import as_json, read_weights
from pipeline.teachers.orion.checkpoints.tensors import (
    PLANNER_PREFIX,
    build,
    model_shapes,
    random_planner,
    random_weights,
    teacher_shapes,
)
from pipeline.teachers.orion.features import orion_features
from pipeline.teachers.orion.stream import OrionStream, complete
from pipeline.teachers.precision import compute_exact_float32
from pipeline.teachers.weights import Fingerprint, random_origin

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from cache_schema.progress import Progress
    from pipeline.teachers.orion.images import ImagePreprocessing
    from pipeline.teachers.orion.network.config import OrionConfig
    from pipeline.teachers.orion.precision import PrecisionConfig


class OrionTeacher(OrionStream):
    """A frozen ORION; implements ``Teacher``.

    Args:
        name: Part of its identity.
        config: Sizes.
        images: How camera images are prepared.
        weights: A checkpoint, or the seed of random weights.
        device: Where it runs.
        precision: Number formats that it computes in.
        compiled: Whether its layers are compiled.
        random_device: Where random weights are drawn; see ``random_weights``.
        progress: Counts tensors.
    """

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
        progress: Progress = SILENT,
    ) -> None:
        model = build(config)
        super().__init__(model, config, images, orion_features(config), device=device)
        self.compiled = compiled
        compute_exact_float32()
        # One weight at a time, so that host and device hold no more than what is computed with.
        if isinstance(weights, int):
            shapes = model_shapes(config)
            progress.expect(len(shapes))
            for key, weight in random_weights(shapes, weights, random_device):
                precision.place(model, key, weight, device)
                progress.advance()
            # Drawn only when needed: at full token width it is far larger than a tiny model.
            self._planner = lambda: random_planner(config, weights, random_device)
            origin = random_origin(weights, random_device)
        else:
            fingerprint, planner = Fingerprint(), {}
            progress.expect(len(teacher_shapes(config)))
            for key, weight in read_weights(weights, config):
                fingerprint.add(key, weight)
                if key.startswith(PLANNER_PREFIX):
                    planner[key.removeprefix(PLANNER_PREFIX)] = weight
                else:
                    precision.place(model, key, weight, device)
                progress.advance()
            self._planner = lambda: planner
            origin = str(fingerprint)
        complete(model, precision, device)
        if compiled:
            model.compile_layers(language_model=precision.compiles)
        self.identity = TeacherIdentity(
            name=name,
            weights=origin,
            precision=precision.description(device),
            quantization=precision.quantize,
            prompt=config.language.prompt,
            preprocessing=as_json(images),
            architecture=as_json(config),
        )

    def assets(self) -> dict[str, dict[str, Tensor]]:
        """Return the projections of queries to vision tokens, and the planner by its checkpoint names."""
        return {HEADS: self.model.projections(), PLANNER: self._planner()}
