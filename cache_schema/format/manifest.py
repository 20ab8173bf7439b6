"""The manifest: which teacher made a latent dataset, from which data, and what every clip of it holds."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, model_serializer, model_validator

from cache_schema.errors import DatasetError, UnknownFormatError
from cache_schema.format.derivations import Derivation
from cache_schema.format.features import FeatureSpec, Record
from cache_schema.format.ledger import FORMAT_1_TAGS, TagName, fits_format_1
from cache_schema.format.limits import (
    ASSET_BYTES,
    ASSETS,
    AXES,
    DERIVATIONS,
    FEATURES,
    FRAME_BYTES,
    FRAMES,
    TAGS,
)
from cache_schema.storage.atomic_io import sha256_bytes
from cache_schema.storage.safe_io import canonical_json, parse_json

if TYPE_CHECKING:
    from pydantic import SerializerFunctionWrapHandler

FORMAT_VERSIONS = (1, 2)
"""The formats that this program reads and writes; FORMAT.md defines them."""
SEAL = "teachonce_sha256"
"""Root attribute beside the manifest: sha256 of its canonical JSON. Early datasets have none."""


class TeacherIdentity(Record):
    """Everything that decides a teacher's outputs. Two datasets mix only if all of it agrees."""

    name: str
    """Preset or class of the teacher."""
    weights: str
    """``sha256:...`` of the weights; ``random:SEED`` of random ones, ``random:SEED@cuda`` from a GPU."""
    precision: str
    """Precision of the forward pass, such as ``fp32`` or ``fp16 backbone, fp32 heads``."""
    quantization: str | None = None
    """Quantisation of the language model; None for none."""
    prompt: tuple[int, ...] = ()
    """Constant prompt as token ids; -200 stands for the vision tokens."""
    preprocessing: dict[str, Any] = Field(default_factory=dict)
    """How images were resized, cropped and normalised."""
    architecture: dict[str, Any] = Field(default_factory=dict)
    """Sizes of the model, enough to build it again."""


class DataIdentity(Record):
    """The raw data that the teacher saw."""

    name: str
    """Name of the data set, such as ``synthetic``."""
    licence: str
    """Licence of the raw data, which binds what is derived from it."""
    frame_rate_hz: float
    """Frames per second; 0 where they do not follow each other at a rate."""

    def __str__(self) -> str:
        """Name and rate."""
        return f"{self.name} at {self.frame_rate_hz:g} Hz" if self.frame_rate_hz else self.name


class CodeIdentity(Record):
    """The program that wrote the dataset."""

    teachonce: str
    """Version of this package."""
    libraries: dict[str, str]
    """Versions of the libraries that decide numbers."""


class AssetSpec(Record):
    """A small file of weights under ``assets/`` that readers need."""

    name: str = Field(pattern=r"^[a-z0-9_]{1,64}\.safetensors$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    nbytes: int = Field(ge=0, le=ASSET_BYTES)


class Manifest(Record):
    """The group attribute ``teachonce`` of a latent dataset."""

    format_version: int = 0
    """2 where the dataset uses anything that format 2 adds, else 1. Computed; a given one must be right."""
    features: tuple[FeatureSpec, ...] = Field(max_length=FEATURES)
    teacher: TeacherIdentity
    data: DataIdentity
    code: CodeIdentity
    assets: tuple[AssetSpec, ...] = Field(default=(), max_length=ASSETS)
    frame_step: int = Field(default=1, ge=1, le=FRAMES)
    """One frame in so many of a clip is held, from the first on. The teacher saw them all."""
    derivations: tuple[Derivation, ...] = Field(default=(), max_length=DERIVATIONS)
    """Features that are not stored but computed from stored ones when they are read."""
    tags: tuple[TagName, ...] = Field(default=FORMAT_1_TAGS, max_length=TAGS)
    """Names of the tags that clips may have. Those of format 1 are implied where they suffice."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        named = {
            "feature": [spec.name for spec in (*self.features, *self.derivations)],
            "asset": [asset.name for asset in self.assets],
            "tag": list(self.tags),
        }
        for kind, names in named.items():
            if len(set(names)) != len(names):
                raise ValueError(f"{kind} names repeat: {sorted(names)}")
        return self

    @model_validator(mode="after")
    def _shared_values_have_an_index(self) -> Self:
        for spec in self.features:
            index = None if spec.stored_at is None else self.feature(spec.stored_at)
            if spec.stored_at is not None and (
                index is None or index.shape != () or np.dtype(index.dtype).kind not in "iu"
            ):
                raise ValueError(
                    f"{spec.name} is stored at {spec.stored_at}, which is no stored feature () of integers"
                )
        return self

    @model_validator(mode="after")
    def _frames_are_bounded(self) -> Self:
        for spec in (*self.features, *(derivation.spec for derivation in self.derivations)):
            # Python's integers do not wrap around, NumPy's would.
            known = math.prod(length for length in spec.shape if length is not None)
            nbytes = known * np.dtype(spec.dtype).itemsize
            if len(spec.shape) > AXES or nbytes > FRAME_BYTES:
                raise ValueError(
                    f"{spec.name}: a frame of {len(spec.shape)} axes and {nbytes} bytes, "
                    f"more than {AXES} axes or {FRAME_BYTES} bytes"
                )
        return self

    @model_validator(mode="after")
    def _derivations_have_inputs(self) -> Self:
        features = {spec.name: spec for spec in self.features}
        for derivation in self.derivations:
            misfit = derivation.misfit(features)
            if misfit is None and self.asset(derivation.asset) is None:
                misfit = f"there is no asset {derivation.asset!r}"
            if misfit is not None:
                raise ValueError(f"{derivation.name} cannot be derived: {misfit}")
        return self

    @model_validator(mode="after")
    def _version_is_computed(self) -> Self:
        tags = FORMAT_1_TAGS if fits_format_1(self.tags) else tuple(sorted(self.tags))
        object.__setattr__(self, "tags", tags)
        uses_format_2 = (
            any(spec.ragged for spec in self.features)
            or any(spec.encoding == "lower-triangle" or spec.dtype == "uint8" for spec in self.features)
            or any(spec.stored_at is not None for spec in self.features)
            or bool(self.derivations)
            or not fits_format_1(tags)
        )
        version = 2 if uses_format_2 else 1
        if self.format_version not in (0, version):
            raise ValueError(f"this is a dataset of format {version}, not {self.format_version}")
        object.__setattr__(self, "format_version", version)
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what format 1 does not have."""
        fields = serialize(self)
        if not self.derivations:
            fields.pop("derivations", None)
        if self.tags == FORMAT_1_TAGS:
            fields.pop("tags", None)
        return fields

    def replace(self, **changes: Any) -> Self:
        """Return a manifest with some fields changed, validated again, its format version computed anew.

        Raises:
            ValueError: The fields contradict each other.
        """
        return self.model_validate({**dict(self), "format_version": 0, **changes})

    def feature(self, name: str) -> FeatureSpec | None:
        """Return the stored feature called ``name``, or None."""
        return next((spec for spec in self.features if spec.name == name), None)

    def asset(self, stem: str) -> AssetSpec | None:
        """Return the asset whose file is called ``<stem>.safetensors``, or None."""
        return next((asset for asset in self.assets if asset.name == f"{stem}.safetensors"), None)

    def identity(self) -> dict[str, Any]:
        """Return what must agree before another run may add clips: all but the code's own versions."""
        identity = self.model_dump(mode="json", exclude={"code"})
        for named in ("features", "assets", "derivations"):
            if named in identity:
                identity[named] = {entry["name"]: entry for entry in identity[named]}
        return identity


def root_document(manifest: Manifest) -> bytes:
    """Return the root zarr.json of a dataset: a Zarr group that carries the manifest and its seal."""
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
    if type(version) is not int or version not in FORMAT_VERSIONS:
        raise UnknownFormatError(
            f"{where} has format version {version!r}",
            expected=f"format version {' or '.join(map(str, FORMAT_VERSIONS))}, which this program reads",
            repair="install the version of teachonce that wrote it, or a newer one",
        )
    seal = attributes.pop(SEAL, None)
    try:
        # Nothing else may stand there, or a changed key could make the seal disappear.
        if root != {"zarr_format": 3, "node_type": "group"} or attributes:
            raise ValueError(f"it also has {sorted({*root, *attributes} - {'zarr_format', 'node_type'})}")
        if seal is not None and seal != sha256_bytes(canonical_json(held)):
            raise ValueError("it was changed after it was written: its seal does not fit")
        return Manifest.model_validate_json(canonical_json(held), strict=True)
    except ValueError as error:
        raise DatasetError(
            f"the manifest of {where} does not parse: {str(error)[:1000]}",
            expected="the manifest of FORMAT.md, as it was written",
            repair="fetch the dataset's zarr.json again",
        ) from error
