"""Manifests of datasets whose features are only their shapes, dtypes and encodings."""

from collections.abc import Iterable

from cache_schema.format.features import FeatureSpec
from cache_schema.format.manifest import CodeIdentity, DataIdentity, Manifest, TeacherIdentity


def manifest_of(features: Iterable[tuple]) -> Manifest:
    """Name, shape, dtype and encoding of each feature."""
    return Manifest(
        features=tuple(
            FeatureSpec(
                name=name,
                shape=shape,
                axes=tuple(f"axis{number}" for number in range(len(shape))),
                dtype=dtype,
                role="input",
                encoding=encoding,
            )
            for name, shape, dtype, encoding in features
        ),
        teacher=TeacherIdentity(name="tiny", weights="random:0", precision="fp32"),
        data=DataIdentity(name="synthetic", licence="CC0-1.0", frame_rate_hz=10.0),
        code=CodeIdentity(teachonce="0", libraries={}),
    )
