"""Who made a latent dataset, from what, and what it promises to hold."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cache_schema.features import FeatureSpec

FORMAT_VERSION = 1
"""The only format this code writes; FORMAT.md is its definition."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TeacherIdentity(_Record):
    """Everything that decides what a teacher says. Two datasets mix only if all of it agrees."""

    name: str
    """Preset or class, such as ``orion-7b``."""
    weights: str
    """``sha256:...`` of the weights in use, or ``random:SEED`` for random weights."""
    precision: str
    """Arithmetic of the forward pass, such as ``fp32`` or ``fp16 backbone, fp32 heads``."""
    quantization: str | None = None
    """Quantisation of the language model; None for none."""
    prompt: tuple[int, ...] = ()
    """Constant prompt as token ids; -200 is the place of the vision tokens."""
    preprocessing: dict[str, Any] = Field(default_factory=dict)
    """How images were resized, cropped and normalised."""
    architecture: dict[str, Any] = Field(default_factory=dict)
    """Sizes of the model, enough to build it again."""


class DataIdentity(_Record):
    """The raw data that the teacher saw."""

    name: str
    """Such as ``Bench2Drive`` or ``synthetic``."""
    licence: str
    """Licence of the raw data, which binds what is derived from it."""
    frame_rate_hz: float
    """Frames a second."""


class CodeIdentity(_Record):
    """The program that wrote the dataset."""

    teachonce: str
    """Version of this package."""
    libraries: dict[str, str]
    """Versions of the libraries that decide numbers."""


class AssetSpec(_Record):
    """A small file of weights under ``assets/`` that readers need."""

    name: str = Field(pattern=r"^[a-z0-9_]{1,64}\.safetensors$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    nbytes: int = Field(ge=0)


class Manifest(_Record):
    """The group attribute ``teachonce`` of a latent dataset."""

    format_version: int = FORMAT_VERSION
    features: tuple[FeatureSpec, ...]
    teacher: TeacherIdentity
    data: DataIdentity
    code: CodeIdentity
    assets: tuple[AssetSpec, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Manifest:
        names = [spec.name for spec in self.features]
        if len(set(names)) != len(names):
            raise ValueError(f"feature names repeat: {sorted(names)}")
        return self

    def feature(self, name: str) -> FeatureSpec | None:
        """Return the feature called ``name``, or None."""
        return next((spec for spec in self.features if spec.name == name), None)

    def identity(self) -> dict[str, Any]:
        """What must agree before another run may add clips: everything but the code's own versions."""
        identity = self.model_dump(mode="json", exclude={"code"})
        for named in ("features", "assets"):
            identity[named] = {entry["name"]: entry for entry in identity[named]}
        return identity
