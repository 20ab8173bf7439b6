"""What can be chosen of an InternVL3, and the features that follow from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cache_schema.vocabulary.attention import (
    CAPABILITIES,
    SEQUENCE,
    attention_features,
    embedding_features,
    pixel_features,
)
from pipeline.teachers.internvl3.attention import LayersRead
from pipeline.teachers.internvl3.sequence import Layout
from pipeline.teachers.internvl3.windows import groups

if TYPE_CHECKING:
    from cache_schema.format.features import FeatureSpec
    from pipeline.teachers.internvl3.model.sizes import InternVLSizes


class Options(BaseModel):
    """What can be chosen of every InternVL3, by ``--set FIELD=VALUE``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout = "intended"
    """What stands between images: nothing, or what Drive-KD's program puts there by mistake."""
    stored: Literal["float16", "float32"] = "float16"
    """Type that attention, or embeddings of images, are stored in."""

    def image_features(self, sizes: InternVLSizes, *, embeds: bool) -> tuple[FeatureSpec, ...]:
        """Return the features of every question to a student that gets embeddings, or pixels, of images."""
        if not embeds:
            return (*SEQUENCE, *pixel_features(sizes.vision.image_size))
        return (*SEQUENCE, *embedding_features(sizes.tokens_per_image, sizes.language.width, self.stored))


class AttentionOptions(Options):
    """What can be chosen of a teacher of attention."""

    signals: tuple[str, ...] = CAPABILITIES
    """Capabilities that are taught, separated by commas. Layers that none of them needs are not computed."""
    student_layers: int = Field(default=24, ge=1)
    """Layers of the student's language model. InternVL3-1B has 24, -2B has 28."""
    start: int = 0
    """First layer, of teacher and student, that teaches reasoning."""
    end: int = -2
    """Last one; -1 is the last layer of all."""
    max_tokens: int = Field(default=4096, ge=1)
    """Longest sequence: twice what six cameras and a long answer take. The attention of one layer of the 14B
    takes up to 8 GB at that length."""
    share_prefix: bool = True
    """Whether questions about the same images compute and store once what they share."""

    @field_validator("signals", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("signals")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [part for part in value if part not in CAPABILITIES]:
            raise ValueError(f"there is no {', '.join(map(repr, unknown))} among {', '.join(CAPABILITIES)}")
        if not value:
            raise ValueError(f"it is empty, which is none of {', '.join(CAPABILITIES)}")
        return tuple(known for known in CAPABILITIES if known in value)

    def layers_read(self, layers: int) -> LayersRead:
        """Return which of a teacher's layers are read.

        Raises:
            RequestError: There are none that teach reasoning.
        """
        reasoning = "reasoning" in self.signals
        return LayersRead(
            first="perception" in self.signals,
            penultimate=layers - 2 if "planning" in self.signals else None,
            groups=groups(self.student_layers, layers, self.start, self.end) if reasoning else (),
        )

    def attention_features(self, layers: int) -> tuple[FeatureSpec, ...]:
        """Return the features of every question to a teacher of so many layers."""
        read = self.layers_read(layers)
        return (*SEQUENCE, *attention_features(len(read.groups), self.signals, self.stored))
