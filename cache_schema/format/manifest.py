"""Who made a latent dataset, from what, and what it promises to hold."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cache_schema.errors import DatasetError
from cache_schema.format.features import FeatureSpec
from cache_schema.storage.atomic_io import sha256_bytes
from cache_schema.storage.safe_io import (
    ASSET_BYTES,
    ASSETS,
    AXES,
    FEATURES,
    FRAME_BYTES,
    FRAMES,
    canonical_json,
    parse_json,
)

FORMAT_VERSION = 1
"""The only format this code writes; FORMAT.md is its definition."""
SEAL = "teachonce_sha256"
"""Root attribute beside the manifest: sha256 of its canonical JSON. Early datasets have none."""


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
    nbytes: int = Field(ge=0, le=ASSET_BYTES)


class Manifest(_Record):
    """The group attribute ``teachonce`` of a latent dataset."""

    format_version: int = FORMAT_VERSION
    features: tuple[FeatureSpec, ...] = Field(max_length=FEATURES)
    teacher: TeacherIdentity
    data: DataIdentity
    code: CodeIdentity
    assets: tuple[AssetSpec, ...] = Field(default=(), max_length=ASSETS)
    frame_step: int = Field(default=1, ge=1, le=FRAMES)
    """One frame in so many of a clip is held, from the first on. The teacher saw them all."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Manifest:
        for kind, named in (("feature", self.features), ("asset", self.assets)):
            names = [entry.name for entry in named]
            if len(set(names)) != len(names):
                raise ValueError(f"{kind} names repeat: {sorted(names)}")
        return self

    @model_validator(mode="after")
    def _frames_are_bounded(self) -> Manifest:
        for spec in self.features:
            # Python's integers do not wrap around, NumPy's would.
            nbytes = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
            if len(spec.shape) > AXES or nbytes > FRAME_BYTES:
                raise ValueError(
                    f"{spec.name}: a frame of {len(spec.shape)} axes and {nbytes} bytes, "
                    f"more than {AXES} axes or {FRAME_BYTES} bytes"
                )
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


def root_document(manifest: Manifest) -> bytes:
    """The root zarr.json of a dataset: a Zarr group that carries the manifest and its seal."""
    held = manifest.model_dump(mode="json")
    root = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"teachonce": held, SEAL: sha256_bytes(canonical_json(held))},
    }
    # As UTF-8: of an escape, a flipped bit may make another spelling of the same character.
    return json.dumps(root, indent=1, ensure_ascii=False).encode()


def parse_root(content: bytes, where: str) -> Manifest:
    """Return the manifest in a root zarr.json.

    Args:
        content: Bytes of the file.
        where: The dataset, for messages.

    Raises:
        DatasetError: It is no root of a latent dataset, of another format, or changed since it was written.
    """
    try:
        root = parse_json(content)
        attributes = root.pop("attributes")
        held = attributes.pop("teachonce")
        version = held.get("format_version")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{where}/zarr.json is not the root of a latent dataset: {error!r}",
            expected="a Zarr v3 group with an attribute 'teachonce'",
            repair="point to the folder that `teachonce extract` made",
        ) from error
    if version != FORMAT_VERSION:
        raise DatasetError(
            f"{where} has format version {version!r}",
            expected=f"format version {FORMAT_VERSION}, the one this program reads",
            repair="install the version of teachonce that wrote it, or a newer one",
        )
    seal = attributes.pop(SEAL, None)
    try:
        # Nothing else may stand there, or a changed key could make the seal disappear.
        if root != {"zarr_format": 3, "node_type": "group"} or attributes:
            raise ValueError(f"it also says {sorted({*root, *attributes} - {'zarr_format', 'node_type'})}")
        if seal is not None and seal != sha256_bytes(canonical_json(held)):
            raise ValueError("it was changed after it was written: its seal does not fit")
        return Manifest.model_validate_json(canonical_json(held), strict=True)
    except ValueError as error:
        raise DatasetError(
            f"the manifest of {where} does not parse: {str(error)[:1000]}",
            expected="the manifest of FORMAT.md, as it was written",
            repair="fetch the dataset's zarr.json again",
        ) from error
