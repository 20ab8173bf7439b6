"""The images of questions, as a student gets them: a second dataset, which belongs to that student.

If the student's vision tower is frozen, that is what the tower makes of them; otherwise their pixels.

Dimension letters: B slots, n image, S side of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from cache_schema.format.manifest import TeacherIdentity
from cache_schema.progress import SILENT
from cache_schema.vocabulary.attention import IMAGE_EMBEDDINGS, IMAGE_PIXELS, IMAGES_SAMPLE, STUDENT
from pipeline.teachers.device import make_current
from pipeline.teachers.internvl3.inputs import QuestionReader, pinned, sequence_features
from pipeline.teachers.internvl3.model.checkpoint import load_weights
from pipeline.teachers.internvl3.model.network import build
from pipeline.teachers.precision import TYPES, compute_exact_float32

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cache_schema.progress import Progress
    from pipeline.questions.sample import QuestionSample
    from pipeline.teachers.internvl3.inputs import QuestionInputs
    from pipeline.teachers.internvl3.model.checkpoint import Checkpoint, RandomWeights
    from pipeline.teachers.internvl3.options import Options


@dataclass(frozen=True)
class SlotState:
    """What a slot carries from question to question."""

    clip: str = ""
    samples: int = 0
    """Questions of this clip so far."""
    images: tuple[str, ...] = ()
    """Digests of the images of the last question."""
    held_at: int = 0
    """Place in the clip of the question that holds them."""


class StudentVision:
    """The frozen vision tower of a student, or nothing but its pixels; implements ``Teacher``.

    Args:
        name: Part of its identity.
        options: What was chosen.
        weights: The whole student: a checkpoint, or random weights; and sizes and tokenizer.
        embeds: Whether the tower sees the images, or they are stored as pixels.
        device: Where it runs.
        precision: A key of ``TYPES``, of the tower and the projector.
        progress: Counts tensors.
    """

    kind = "questions"
    fresh_inputs = True

    def __init__(
        self,
        name: str,
        options: Options,
        weights: Checkpoint | RandomWeights,
        *,
        embeds: bool,
        device: str,
        precision: str,
        progress: Progress = SILENT,
    ) -> None:
        compute_exact_float32()
        sizes = weights.sizes
        self.features = options.image_features(sizes, embeds=embeds)
        self.device = device
        self._weights = weights
        self._reader = QuestionReader(weights.tokenizer, sizes, options.layout)
        self._embeds = embeds
        self._tokens, self._width = sizes.tokens_per_image, sizes.language.width
        self._stored: torch.dtype = getattr(torch, options.stored)
        self.model = build(sizes, 0)
        self.model.language_model = nn.Identity()
        used = self.model if self._embeds else None
        origin = load_weights(used, weights, device, TYPES[precision], progress)
        self.identity = TeacherIdentity(
            name=name,
            weights=origin,
            precision=precision if self._embeds else "fp32",
            preprocessing=self._reader.preprocessing,
            architecture={"model": sizes.arguments()},
        )

    def prepare(self, sample: QuestionSample) -> QuestionInputs:
        """Tokenise a question and read its images; see ``Teacher``."""
        return self._reader.read(sample)

    def collate(self, inputs: Sequence[QuestionInputs | None]) -> list[QuestionInputs | None]:
        """Return the inputs as they are, with pixels on their way to a GPU; see ``Teacher``."""
        return pinned(inputs, self.device) if self._embeds else list(inputs)

    def begin(self, slots: int) -> list[SlotState]:
        """Return the state before the first question of ``slots`` clips."""
        make_current(self.device)
        return [SlotState()] * slots

    @torch.inference_mode()
    def step(
        self, batch: Sequence[QuestionInputs | None], state: Sequence[SlotState]
    ) -> tuple[dict[str, Tensor | list[Tensor]], list[SlotState]]:
        """Compute the features of one question a slot; see ``Teacher``."""
        states, images = [], []
        for inputs, before in zip(batch, state, strict=True):
            if inputs is None:
                states.append(before)
                images.append(torch.zeros(0))
                continue
            sample = before.samples if before.clip == inputs.clip else 0
            held = sample > 0 and before.images == inputs.images
            images.append(self._images(inputs.pixels[:0] if held else inputs.pixels))
            held_at = before.held_at if held else sample
            states.append(SlotState(inputs.clip, sample + 1, inputs.images, held_at))
        name = IMAGE_EMBEDDINGS if self._embeds else IMAGE_PIXELS
        held_at = torch.tensor([slot.held_at for slot in states], dtype=torch.int32)
        return {**sequence_features(batch), IMAGES_SAMPLE: held_at, name: images}, states

    def assets(self) -> dict[str, dict[str, Tensor]]:
        """Return the tokenizer and all weights of the student, in the type that they are stored in."""
        return {**self._reader.tokenizer.asset(), STUDENT: dict(self._weights.tensors())}

    def _images(self, pixels: Tensor) -> Tensor:
        """Turn (n, S, S, 3) uint8 into what is stored of the images. Too large a value becomes infinity."""
        if not self._embeds:
            return pixels
        if not len(pixels):
            return torch.zeros(0, self._tokens, self._width, dtype=self._stored)
        pixels = self._reader.recipe.normalise(pixels.to(self.device, non_blocking=True))
        return self.model.get_image_features(pixels).pooler_output.to(self._stored)
