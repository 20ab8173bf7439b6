"""A small dataset that uses everything that format 2 adds."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from cache_schema.dataset.writer import DatasetWriter
from cache_schema.format.derivations import Derivation, DerivedSegment
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import AssetSpec, CodeIdentity, DataIdentity, Manifest, TeacherIdentity
from cache_schema.storage.atomic_io import sha256_bytes

FEATURES = (
    FeatureSpec(name="tokens", shape=(None,), axes=("token",), dtype="int32", role="target"),
    FeatureSpec(name="image", shape=(None,), axes=("byte",), dtype="uint8", role="input"),
    FeatureSpec(
        name="attention", shape=(None, None), axes=("text", "vision"), dtype="float16", role="target"
    ),
    FeatureSpec(
        name="maps",
        shape=(2, None, None),
        axes=("layer", "row", "column"),
        dtype="float32",
        role="target",
        encoding="lower-triangle",
    ),
    FeatureSpec(
        name="points",
        shape=(None, 3),
        axes=("point", "xyz"),
        dtype="float32",
        role="input",
        unit="m",
        encoding="bfloat16",
    ),
    FeatureSpec(
        name="square",
        shape=(2, 3, 3),
        axes=("head", "row", "column"),
        dtype="float16",
        role="target",
        encoding="lower-triangle",
    ),
    FeatureSpec(name="rows", shape=(3, 2), axes=("row", "channel"), dtype="float16", role="input"),
    FeatureSpec(name="frame_index", shape=(), axes=(), dtype="int32", role="truth"),
)
RAGGED = tuple(spec for spec in FEATURES if spec.ragged)
HEADS = {
    "up.weight": np.array([[1, 0], [0, 1], [1, 1]], np.float32),
    "up.bias": np.array([0, 0, 5], np.float32),
}
WIDE = Derivation(
    name="wide",
    width=3,
    asset="heads",
    segments=(
        DerivedSegment(name="late", input="rows", begin=2, length=1, projection="up"),
        DerivedSegment(name="early", input="rows", begin=0, length=2, projection="up"),
    ),
    description="The rows, projected, the last one first.",
)
CLIPS = (
    ClipInfo(name="scene-1", frames=5, split="train", tags={"city": "Boston", "weather": "rain"}),
    ClipInfo(name="scene-2", frames=3, split="val", tags={"city": "Singapore"}),
    ClipInfo(name="scene-3", frames=2, split="val"),
)
LENGTHS = {
    # Of the ragged axes, frame by frame; the second clip has one empty frame, the third no value at all.
    "scene-1": (3, 1, 4, 1, 5),
    "scene-2": (2, 0, 6),
    "scene-3": (0, 0),
}
IMAGE_BYTES = 20_000
"""Bytes of an image for one unit of length: of the first clip, all together take more than three chunks."""


def values_of(clip: str) -> dict[str, list[np.ndarray] | np.ndarray]:
    """Every feature of a clip: a list of arrays where it is ragged."""
    rng = np.random.default_rng(int.from_bytes(clip.encode()))
    lengths = LENGTHS[clip]
    frames = len(lengths)
    return {
        "tokens": [rng.integers(0, 30_000, n).astype(np.int32) for n in lengths],
        "image": [rng.integers(0, 256, n * IMAGE_BYTES).astype(np.uint8) for n in lengths],
        # Frame 1 of the first clip has an empty axis beside a full one.
        "attention": [
            rng.random((n, 0 if (clip, number) == ("scene-1", 1) else 2 * n)).astype(np.float16)
            for number, n in enumerate(lengths)
        ],
        "maps": [np.tril(rng.normal(size=(2, n, n))).astype(np.float32) for n in lengths],
        # Whole numbers of eight bits, which bfloat16 holds.
        "points": [rng.integers(-255, 256, (n, 3)).astype(np.float32) for n in lengths],
        "square": np.tril(rng.normal(size=(frames, 2, 3, 3))).astype(np.float16),
        "rows": rng.integers(-9, 9, (frames, 3, 2)).astype(np.float16),
        "frame_index": np.arange(frames, dtype=np.int32),
    }


def manifest_of(features: tuple[FeatureSpec, ...] = FEATURES) -> Manifest:
    content = save(HEADS)
    return Manifest(
        features=features,
        teacher=TeacherIdentity(name="tiny", weights="random:0", precision="fp32"),
        data=DataIdentity(name="synthetic", licence="Apache-2.0", frame_rate_hz=2),
        code=CodeIdentity(teachonce="0", libraries={}),
        assets=(AssetSpec(name="heads.safetensors", sha256=sha256_bytes(content), nbytes=len(content)),),
        derivations=(WIDE,),
        tags=("city", "weather"),
    )


def write_format_2(path: Path, clips: tuple[ClipInfo, ...] = CLIPS) -> Path:
    with DatasetWriter(path, manifest_of(), {"heads.safetensors": save(HEADS)}) as writer:
        for info in clips:
            clip = writer.clip(info)
            clip.append(values_of(info.name))
            clip.commit(wall_s=1.5)
    return path


def assert_equal(found, expected) -> None:
    """Compare values of a feature, one array or a list of them."""
    assert type(found) is type(expected)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert np.asarray(one).dtype == np.asarray(other).dtype
        np.testing.assert_array_equal(one, other)
