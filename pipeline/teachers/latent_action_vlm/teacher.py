"""A Qwen2.5-VL that tells latent actions as a ``Teacher``: frames in, codes and the states behind them out.

Dimension letters: B slots, C cameras, H and W of an image as the model sees it.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cache_schema.errors import RequestError
from cache_schema.format.manifest import TeacherIdentity
from cache_schema.vocabulary.latent_actions import (
    ACT_HIDDEN,
    CODE_LOGITS,
    CODE_MASS,
    CODES,
    VIS_POOLED,
)
from pipeline.teachers.device import make_current
from pipeline.teachers.latent_action_vlm.extractor import latent_actions
from pipeline.teachers.latent_action_vlm.images import MEAN, STD, pooled, shrink
from pipeline.teachers.latent_action_vlm.network import sizes_of
from pipeline.teachers.latent_action_vlm.prompt import EgoState, Prompt
from pipeline.teachers.latent_action_vlm.sequences import Sequences, sequences
from pipeline.teachers.precision import compute_exact_float32

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import Qwen2_5_VLForConditionalGeneration

    from pipeline.bench2drive.source import DrivingSample
    from pipeline.teachers.latent_action_vlm.options import LatentActionOptions
    from pipeline.teachers.latent_action_vlm.prompt import PromptTokenizer

VISION_TOKENS = -200
"""Stands for all tokens of an image in the prompt of an identity."""


class FrameInputs(NamedTuple):
    """One frame."""

    images: Tensor
    """(C, 3, H, W) uint8 RGB."""
    prompt: tuple[int, ...]
    """Token ids."""


class FrameBatch(NamedTuple):
    """One frame a slot."""

    images: Tensor
    """(B, C, 3, H, W) uint8 RGB."""
    prompts: Sequences


class LatentActionTeacher:
    """A frozen Qwen2.5-VL; implements ``Teacher``.

    Args:
        name: Part of its identity.
        options: What it is shown and asked, and its codes.
        model: With its weights, on the device.
        tokenizer: Of the prompt.
        weights: Where the weights come from, as an identity records it.
        precision: A key of ``pipeline.teachers.precision.TYPES``, of all weights.

    Raises:
        RequestError: The model's tokens of images are other than the prompt's.
    """

    kind = "driving"
    fresh_inputs = True

    def __init__(
        self,
        name: str,
        options: LatentActionOptions,
        model: Qwen2_5_VLForConditionalGeneration,
        tokenizer: PromptTokenizer,
        *,
        weights: str,
        precision: str,
    ) -> None:
        compute_exact_float32()
        self.options = options
        self.model = model
        self.features = options.features(model.lm_head.in_features)
        self.prompt = Prompt(tokenizer, options.cameras, math.prod(options.grid), ego=options.prompt == "ego")
        self._device = model.device
        self._image_token = model.config.image_token_id
        standing = self.prompt.ids(EgoState(command=0))
        shown = len(options.cameras) * self.prompt.image_tokens
        if standing.count(self._image_token) != shown:
            raise RequestError(
                f"a prompt has {standing.count(self._image_token)} tokens of images, as the model knows them",
                expected=f"{shown}: {self.prompt.image_tokens} an image",
                repair="give the model the tokenizer that it was trained with",
            )
        black = torch.zeros(len(options.cameras), 3, *options.image_size[::-1], dtype=torch.uint8)
        self._idle = FrameInputs(black, standing)
        self.identity = TeacherIdentity(
            name=name,
            weights=weights,
            precision=precision,
            prompt=self._shortened(standing),
            preprocessing={**options.model_dump(mode="json"), "mean": list(MEAN), "std": list(STD)},
            architecture=sizes_of(model.config),
        )

    def _shortened(self, prompt: tuple[int, ...]) -> tuple[int, ...]:
        """Return a prompt with one token for each image."""
        image = self._image_token
        return tuple(
            VISION_TOKENS if token == image else token
            for before, token in itertools.pairwise((VISION_TOKENS, *prompt))
            if not before == token == image
        )

    def prepare(self, sample: DrivingSample) -> FrameInputs:
        """Decode and shrink the images of a frame, and write its prompt; see ``Teacher``."""
        options = self.options
        images = [shrink(sample.image(camera), options.image_size) for camera in options.cameras]
        prompt = self.prompt.ids(EgoState.of(sample.command, sample.can_bus))
        return FrameInputs(torch.from_numpy(np.stack(images)), prompt)

    def collate(self, inputs: Sequence[FrameInputs | None]) -> FrameBatch:
        """Stack one frame a slot; an idle slot is shown black images. See ``Teacher``."""
        rows = [self._idle if row is None else row for row in inputs]
        images = torch.stack([row.images for row in rows])
        prompts = sequences(
            [row.prompt for row in rows], self.prompt.length, self._image_token, self.options.grid
        )
        if self._device.type == "cuda":  # which need not wait for a copy from pinned memory
            images, prompts = images.pin_memory(), Sequences(*(part.pin_memory() for part in prompts))
        return FrameBatch(images, prompts)

    def begin(self, slots: int) -> None:
        """Begin without memory: a frame depends on no other one."""
        del slots
        make_current(self._device)

    @torch.inference_mode()
    def step(self, batch: FrameBatch, state: None) -> tuple[dict[str, Tensor], None]:
        """Compute the features of one frame a slot; see ``Teacher``."""
        prompts = Sequences(*(part.to(self._device, non_blocking=True) for part in batch.prompts))
        images = batch.images.to(self._device, non_blocking=True)
        options = self.options
        told = latent_actions(self.model, images, prompts, options.code_ids, options.positions)
        values = {
            CODES: told.codes,
            CODE_LOGITS: told.code_logits,
            CODE_MASS: told.code_mass,
            ACT_HIDDEN: told.act_hidden,
            VIS_POOLED: pooled(told.visual_hidden, options.grid, options.cells),
        }
        return {spec.name: values[spec.name].to(getattr(torch, spec.dtype)) for spec in self.features}, state

    def assets(self) -> dict[str, dict[str, Tensor]]:
        """Return nothing: readers need no weights of it."""
        return {}
