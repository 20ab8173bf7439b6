"""What accidents and attackers do to a dataset."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema.dataset.writer import DatasetWriter
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import CodeIdentity, DataIdentity, Manifest, TeacherIdentity

SMALL = (
    # int8 with a scale: the scale is a shard, a chunk a frame.
    FeatureSpec(
        name="queries",
        shape=(2, 6),
        axes=("query", "channel"),
        dtype="float16",
        role="input",
        encoding="int8-per-channel",
    ),
    FeatureSpec(
        name="token", shape=(3,), axes=("channel",), dtype="float32", role="target", encoding="bfloat16"
    ),
    FeatureSpec(name="pose", shape=(2,), axes=("xy",), dtype="float64", role="truth", unit="m"),
    FeatureSpec(name="command", shape=(), axes=(), dtype="int8", role="truth"),
    FeatureSpec(name="mask", shape=(3,), axes=("step",), dtype="bool", role="truth"),
)
"""Every encoding, in a few hundred bytes."""


def write_small(
    path: Path, clips: int, assets: dict[str, bytes], features: tuple[FeatureSpec, ...] = SMALL
) -> None:
    """A dataset of a few kilobytes."""
    frames = 3
    manifest = Manifest.model_validate(
        {
            "features": features,
            "teacher": TeacherIdentity(name="tiny", weights="random:0", precision="fp32"),
            "data": DataIdentity(name="synthetic", licence="Apache-2.0", frame_rate_hz=10),
            "code": CodeIdentity(teachonce="0", libraries={}),
            "assets": [
                {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "nbytes": len(content)}
                for name, content in assets.items()
            ],
        }
    )
    with DatasetWriter(path, manifest, assets) as writer:
        for number in range(clips):
            rng = np.random.default_rng(number)
            info = ClipInfo(name=f"Accident_Town0{number}_Route1_Weather0", frames=frames, split="train")
            clip = writer.clip(info)
            values = {
                "queries": rng.normal(size=(frames, 2, 6)).astype(np.float16),
                "token": rng.normal(size=(frames, 3)).astype(np.float32),
                "pose": rng.normal(size=(frames, 2)),
                "command": rng.integers(0, 6, frames).astype(np.int8),
                "mask": rng.random((frames, 3)) < 0.5,
            }
            clip.append({spec.name: values[spec.name] for spec in features})
            clip.commit(wall_s=1.25)


def flip_a_bit(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def edit_root(path: Path, edit: Callable[[dict], object]) -> None:
    """Change the manifest as an attacker who knows about its seal."""
    root = json.loads((path / "zarr.json").read_bytes())
    edit(root["attributes"]["teachonce"])
    root["attributes"]["teachonce_sha256"] = hashlib.sha256(
        canonical(root["attributes"]["teachonce"])
    ).hexdigest()
    (path / "zarr.json").write_text(json.dumps(root))


def edit_entry(path: Path, clip: str, edit: Callable[[dict], object] = lambda _: None) -> None:
    """Change a ledger entry as an attacker who knows how digests and seals are made."""
    file = path / "ledger" / f"{clip}.json"
    entry = json.loads(file.read_bytes())
    edit(entry)
    content = {key: entry[key] for key in ("clip", "files", "values") if entry.get(key)}
    entry["digest"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    del entry["seal"]
    entry["seal"] = hashlib.sha256(canonical(entry)).hexdigest()
    file.write_text(json.dumps(entry))


def record_again(path: Path, clip: str) -> None:
    """Make the ledger agree with whatever lies in a clip's folder."""
    folder = path / "clips" / clip
    files = {
        file.relative_to(folder).as_posix(): {
            "nbytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    edit_entry(path, clip, lambda entry: entry.update(files=files))
