"""A tiny dataset, really written."""

import hashlib
import itertools
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from werkzeug.serving import make_server

from cache_schema.dataset.writer import DatasetWriter
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import AssetSpec, CodeIdentity, DataIdentity, Manifest, TeacherIdentity
from tests.cache_schema.format_2 import write_format_2
from tests.cache_schema.servers import Bucket, Quiet, Watched, serving

_numbers = itertools.count()

FEATURES = (
    # Above a page: one chunk a frame.
    FeatureSpec(name="queries", shape=(17, 256), axes=("query", "channel"), dtype="float16", role="input"),
    FeatureSpec(name="token", shape=(8,), axes=("channel",), dtype="float32", role="target", unit="1"),
    FeatureSpec(name="command", shape=(), axes=(), dtype="int8", role="truth"),
    FeatureSpec(name="mask", shape=(3,), axes=("step",), dtype="bool", role="truth"),
)
HEADS = {"scene.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}


def values_of(clip: str, frames: int) -> dict[str, np.ndarray]:
    """Values that depend on the clip's name alone; its commands are all zero, which is also a fill value."""
    rng = np.random.default_rng(int.from_bytes(clip.encode()))
    return {
        "queries": rng.normal(size=(frames, 17, 256)).astype(np.float16),
        "token": rng.normal(size=(frames, 8)).astype(np.float32),
        "command": np.zeros(frames, np.int8),
        "mask": rng.random((frames, 3)) < 0.5,
    }


@pytest.fixture
def manifest() -> Manifest:
    content = save(HEADS)
    return Manifest(
        features=FEATURES,
        teacher=TeacherIdentity(name="tiny", weights="random:0", precision="fp32"),
        data=DataIdentity(name="synthetic", licence="Apache-2.0", frame_rate_hz=10),
        code=CodeIdentity(teachonce="0", libraries={}),
        assets=(
            AssetSpec(
                name="heads.safetensors", sha256=hashlib.sha256(content).hexdigest(), nbytes=len(content)
            ),
        ),
    )


@pytest.fixture
def assets() -> dict[str, bytes]:
    return {"heads.safetensors": save(HEADS)}


CLIPS = (
    ClipInfo(name="Accident_Town03_Route1_Weather0", frames=5, split="train", tags={"town": "Town03"}),
    ClipInfo(name="TJunction_Town05_Route2_Weather3", frames=7, split="val", tags={"town": "Town05"}),
)


@pytest.fixture
def dataset(tmp_path: Path, manifest: Manifest, assets: dict[str, bytes]) -> Path:
    """A dataset of two clips."""
    path = tmp_path / "tiny.zarr"
    with DatasetWriter(path, manifest, assets) as writer:
        for info in CLIPS:
            clip = writer.clip(info)
            clip.append(values_of(info.name, info.frames))
            clip.commit(wall_s=1.5)
    return path


@pytest.fixture
def format_2(tmp_path: Path) -> Path:
    """A dataset that uses everything that format 2 adds."""
    return write_format_2(tmp_path / "format_2.zarr")


@pytest.fixture(scope="session")
def _s3() -> Iterator[tuple[Watched, str]]:
    watched = Watched()
    with serving(make_server("127.0.0.1", 0, watched, threaded=True, request_handler=Quiet)) as endpoint:
        yield watched, endpoint


@pytest.fixture
def bucket(_s3: tuple[Watched, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket, with the environment that leads to it."""
    watched, endpoint = _s3
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{next(_numbers)}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT")).close()
    watched.bucket = Bucket(f"s3://{name}/shared/tiny.zarr", endpoint)
    yield watched.bucket
    watched.bucket = None


@pytest.fixture
def carded(dataset: Path) -> Path:
    """The dataset of two clips with a card that states a licence."""
    (dataset / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    return dataset
