"""A small dataset whose frames share values: two tables of attention, and where each frame's are stored."""

import struct
from pathlib import Path

import google_crc32c
import numpy as np

from cache_schema.dataset.writer import DatasetWriter
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import CodeIdentity, DataIdentity, Manifest, TeacherIdentity
from tests.cache_schema.tampering import record_again

INDEX = FeatureSpec(name="prefix_sample", shape=(), axes=(), dtype="int32", role="target")
TABLE = FeatureSpec(
    name="table",
    shape=(None, 30, 40),
    axes=("image", "row", "column"),
    dtype="float32",
    role="input",
    stored_at="prefix_sample",
)
"""Values of 4,800 bytes and more, so that training reads them one by one."""
MAPS = FeatureSpec(
    name="maps",
    shape=(2, None, None),
    axes=("layer", "row", "column"),
    dtype="float32",
    role="target",
    encoding="lower-triangle",
    stored_at="prefix_sample",
)
"""Small values, which training holds in memory."""
TOKENS = FeatureSpec(name="tokens", shape=(None,), axes=("token",), dtype="int32", role="input")
NUMBER = FeatureSpec(name="frame_index", shape=(), axes=(), dtype="int32", role="truth")
FEATURES = (INDEX, TABLE, MAPS, TOKENS, NUMBER)

HOLDERS = {
    "a": (0, 0, 0, 3, 3, 0),  # of the last, behind another's
    "b": (0, 1, 1, 1),
    "c": (0, 1),
    "d": (0, 0, 0, 0, 4),
}
SPLITS = {"a": "train", "b": "train", "c": "val", "d": "train"}
IMAGES = {"a": {0: 2, 3: 1}, "b": {0: 3, 1: 1}, "c": {0: 1, 1: 0}, "d": {0: 1, 4: 2}}
"""Images of every frame that stores its value; none in the last of c."""


def value_of(spec: FeatureSpec, clip: str, frame: int) -> np.ndarray:
    """The value that readers get for a frame."""
    holder = HOLDERS[clip][frame]
    count = IMAGES[clip][holder]
    rng = np.random.default_rng([ord(clip), holder])
    if spec.name == "table":
        return rng.integers(-99, 99, (count, 30, 40)).astype(np.float32)
    return np.tril(rng.integers(1, 99, (2, 1 + count, 1 + count))).astype(np.float32)


def stored_values(clip: str) -> dict[str, list[np.ndarray] | np.ndarray]:
    """What is written of a clip."""
    holders = HOLDERS[clip]
    shared = {
        spec.name: [
            value_of(spec, clip, frame)
            if holder == frame
            else np.zeros([0 if length is None else length for length in spec.shape], np.float32)
            for frame, holder in enumerate(holders)
        ]
        for spec in (TABLE, MAPS)
    }
    return shared | {
        "prefix_sample": np.array(holders, np.int32),
        "tokens": [np.arange(frame, dtype=np.int32) for frame in range(len(holders))],
        "frame_index": np.arange(len(holders), dtype=np.int32),
    }


def manifest_of(features: tuple[FeatureSpec, ...] = FEATURES) -> Manifest:
    return Manifest(
        features=features,
        teacher=TeacherIdentity(name="tiny", weights="random:0", precision="fp32"),
        data=DataIdentity(name="synthetic", licence="Apache-2.0", frame_rate_hz=2),
        code=CodeIdentity(teachonce="0", libraries={}),
    )


def write_shared(path: Path, features: tuple[FeatureSpec, ...] = FEATURES, clips: str = "abcd") -> Path:
    with DatasetWriter(path, manifest_of(features), {}) as writer:
        for name in clips:
            clip = writer.clip(ClipInfo(name=name, frames=len(HOLDERS[name]), split=SPLITS[name]))
            values = stored_values(name)
            clip.append({spec.name: values[spec.name] for spec in features})
            clip.commit(wall_s=1.0)
    return path


def put_index(path: Path, holders: list[int]) -> None:
    """Write another index of the first clip, and make all digests fit."""
    content = np.array(holders, "<i4").tobytes()
    file = path / "clips/a/prefix_sample/c.0"
    file.write_bytes(content + struct.pack("<I", google_crc32c.value(content)))
    record_again(path, "a")
