"""The manifest of a dataset that this package writes."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

from cache_schema.format.ledger import FORMAT_1_TAGS
from cache_schema.format.manifest import AssetSpec, CodeIdentity, Manifest
from cache_schema.storage.atomic_io import sha256_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.manifest import DataIdentity, TeacherIdentity


def new_manifest(
    features: Iterable[FeatureSpec],
    teacher: TeacherIdentity,
    data: DataIdentity,
    assets: Mapping[str, bytes],
    *,
    libraries: Iterable[str],
    tags: Iterable[str] = FORMAT_1_TAGS,
) -> Manifest:
    """Return a manifest with the versions of the code that runs now.

    Args:
        features: Features of every clip.
        teacher: Model that computed them.
        data: Raw data that it saw.
        assets: Content of the files under ``assets/``, by name.
        libraries: Distributions whose versions decide the values.
        tags: Names of the tags that clips may have.
    """
    return Manifest(
        features=tuple(features),
        tags=tuple(tags),
        teacher=teacher,
        data=data,
        code=CodeIdentity(
            teachonce=importlib.metadata.version("teachonce"),
            libraries={name: importlib.metadata.version(name) for name in libraries},
        ),
        assets=tuple(
            AssetSpec(name=name, sha256=sha256_bytes(content), nbytes=len(content))
            for name, content in sorted(assets.items())
        ),
    )
