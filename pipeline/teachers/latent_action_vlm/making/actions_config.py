"""How latent actions are learned: sizes, data and the two stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from cache_schema.errors import RequestError
from pipeline.teachers.latent_action_vlm.making.clips.observations import PATCH, Observation
from pipeline.teachers.latent_action_vlm.making.clips.transitions import CONDITION_WIDTH
from pipeline.teachers.options import changed

if TYPE_CHECKING:
    from collections.abc import Mapping
from pipeline.teachers.latent_action_vlm.making.latent_action_model import LatentActionConfig
from pipeline.teachers.latent_action_vlm.making.training_loop import Recipe


class ActionsConfig(Recipe):
    """Sizes and training of a latent action model; by default those of UniVLA (spec LatentVLA, section 2)."""

    free = frozenset({"checkpoint_every", "images_in_memory"})

    batch_size: int = Field(512, gt=0)
    observation: Observation = "dinov2"
    """What is seen of an image, and rebuilt."""
    image_size: int = Field(224, gt=0, multiple_of=PATCH)
    """Rows and columns that the front camera's image is shrunk to."""
    width: int = Field(768, gt=0)
    heads: int = Field(12, gt=0)
    encoder_layers: int = Field(12, gt=0)
    decoder_layers: int = Field(12, gt=0)
    code_width: int = Field(128, gt=0)
    tokens: int = Field(4, gt=0)
    """Action tokens of a transition, of either kind."""
    ego_codes: int = Field(16, gt=1, le=128)
    """Labels are stored as int8."""
    environment_codes: int = Field(16, gt=1)
    steps_1: int = Field(100_000, gt=0)
    """Of stage 1, which learns environment codes."""
    steps_2: int = Field(200_000, gt=0)
    """Of stage 2, which learns ego codes."""
    warmup_without_codes: float = Field(1 / 3, ge=0, lt=1)
    """Part of stage 1 in which the decoder has the condition alone, so that codes need not tell of the ego's
    motion; 0 is the literal recipe."""
    stage2_environment: Literal["frozen-encoder", "kin"] = "frozen-encoder"
    """What gives environment codes in stage 2: all of stage 1, frozen; or, as UniVLA's, a new encoder with
    stage 1's codebook."""
    ego_head: float = Field(0.0, ge=0)
    """Weight of a linear prediction of the ego's motion from its codes; 0 is the literal recipe."""
    restart_every: int = Field(50, gt=0)
    """Steps after which codes that are hardly used are put elsewhere."""
    restart_below: float = Field(0.01, ge=0, le=1)
    """Part of its share, 1/K, below which a code counts as hardly used."""
    restart_until: float = Field(0.6, ge=0, le=1)
    """Part of a stage after which codes stay where they are."""
    images_in_memory: int = Field(20_000, ge=0)
    """Images that stay decoded once they were read; at 224 pixels, one takes 150 kB."""
    check_samples: int = Field(8192, gt=1)
    """Transitions of either split, at most, that the checks at the end look at."""

    @model_validator(mode="after")
    def _heads_divide(self) -> ActionsConfig:
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width {self.width} is not even, or no multiple of {self.heads} heads")
        return self

    def network(self, feature_width: int) -> LatentActionConfig:
        """Return the sizes of the network, for features of a width."""
        own = self.model_dump(include=LatentActionConfig.model_fields.keys() & type(self).model_fields.keys())
        return LatentActionConfig(feature_width=feature_width, condition_width=CONDITION_WIDTH, **own)


PRESETS = {
    "published": ActionsConfig(checkpoint_every=1000),
    "tiny": ActionsConfig(
        batch_size=32,
        learning_rate=1e-3,
        checkpoint_every=100,
        observation="random-dinov2",
        image_size=4 * PATCH,
        width=32,
        heads=2,
        encoder_layers=2,
        decoder_layers=1,
        code_width=8,
        steps_1=400,
        steps_2=400,
        check_samples=512,
    ),
}
"""Configurations by name: UniVLA's sizes, and small ones for a laptop."""


def preset_of(name: str, changes: Mapping[str, str] = {}) -> ActionsConfig:
    """Return a configuration by name, with some fields changed, given as texts.

    Raises:
        RequestError: There is no such preset or field, or a value does not fit.
    """
    if name not in PRESETS:
        raise RequestError(
            f"there is no preset {name!r} of latent actions",
            expected=f"one of {', '.join(PRESETS)}",
            repair="correct --preset",
        )
    return changed(PRESETS[name], changes, "that train-actions makes")
