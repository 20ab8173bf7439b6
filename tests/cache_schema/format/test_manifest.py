import hashlib
import json
from typing import Any

import pytest
from pydantic import ValidationError

from cache_schema.errors import DatasetError
from cache_schema.format.features import FeatureSpec
from cache_schema.format.manifest import Manifest, parse_root, root_document
from tests.paths import GOLDEN

STORE = GOLDEN / "format_1.zarr"


def test_the_manifest_and_its_seal_by_hand(manifest: Manifest):
    root = json.loads(root_document(manifest))
    assert root.keys() == {"zarr_format", "node_type", "attributes"}
    assert root["attributes"].keys() == {"teachonce", "teachonce_sha256"}
    canonical = json.dumps(root["attributes"]["teachonce"], sort_keys=True, separators=(",", ":"))
    assert root["attributes"]["teachonce_sha256"] == hashlib.sha256(canonical.encode()).hexdigest()
    assert parse_root(root_document(manifest), "here") == manifest


def test_every_flipped_bit_is_refused(manifest: Manifest):
    content = root_document(manifest)
    for position in range(0, 8 * len(content), 13):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(DatasetError, match="here"):
            parse_root(bytes(flipped), "here")


def test_a_manifest_from_before_the_seals_is_read():
    content = (STORE / "zarr.json").read_bytes()
    assert b"teachonce_sha256" not in content
    assert [spec.name for spec in parse_root(content, "here").features] == [
        "queries",
        "token",
        "pose",
        "command",
        "mask",
    ]


def changed(manifest: Manifest, *path: str | int, value: Any, seal: bool = True) -> bytes:
    """The root with one value changed, and a seal that fits."""
    root = json.loads(root_document(manifest))
    node = root
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    if seal:
        canonical = json.dumps(root["attributes"]["teachonce"], sort_keys=True, separators=(",", ":"))
        root["attributes"]["teachonce_sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps(root).encode()


HELD = ("attributes", "teachonce")
HUGE = 2**40


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((*HELD, "features", 0, "name"), "../../outside"),
        ((*HELD, "features", 0, "name"), "x\n"),
        ((*HELD, "features", 0, "name"), "token"),
        ((*HELD, "features", 0, "shape"), [HUGE, HUGE]),
        ((*HELD, "features", 0, "shape"), [2**32, 2**32]),
        ((*HELD, "features", 0, "shape"), [10**30, 1]),
        ((*HELD, "features", 0, "shape"), [-1, -1]),
        ((*HELD, "features", 0, "dtype"), "object"),
        ((*HELD, "features", 0, "encoding"), "pickle"),
        ((*HELD, "features", 0, "code"), "import os"),
        ((*HELD, "features", 0, "description"), "\x1b[2J"),
        ((*HELD, "assets", 0, "name"), "../heads.safetensors"),
        ((*HELD, "assets", 0, "name"), "/etc/heads.safetensors"),
        ((*HELD, "assets", 0, "name"), "heads.pkl"),
        ((*HELD, "assets", 0, "nbytes"), HUGE),
        ((*HELD, "assets", 0, "nbytes"), -1),
        ((*HELD, "data", "frame_rate_hz"), "10"),
        ((*HELD, "teacher", "architecture"), json.loads("[" * 40 + "]" * 40)),
        (("consolidated_metadata",), {"kind": "inline"}),
        (("zarr_format",), 2),
        (("node_type",), "array"),
        (("attributes", "more"), 1),
    ],
    ids=str,
)
def test_a_hostile_manifest_is_refused(manifest: Manifest, path: tuple, value: Any):
    with pytest.raises(DatasetError, match="here"):
        parse_root(changed(manifest, *path, value=value), "here")


def test_many_axes_are_refused(manifest: Manifest):
    spec = {"name": "x", "shape": [1] * 9, "axes": list("abcdefghi"), "dtype": "int8", "role": "input"}
    with pytest.raises(DatasetError, match="more than 8 axes"):
        parse_root(changed(manifest, *HELD, "features", 0, value=spec), "here")


def test_more_features_than_anybody_has_are_refused(manifest: Manifest):
    specs = [
        {"name": f"f{number}", "shape": [], "axes": [], "dtype": "int8", "role": "input"}
        for number in range(257)
    ]
    assert len(parse_root(changed(manifest, *HELD, "features", value=specs[:256]), "here").features) == 256
    with pytest.raises(DatasetError, match="at most 256"):
        parse_root(changed(manifest, *HELD, "features", value=specs), "here")


@pytest.mark.parametrize("key", ["teachonce_sha25", "teachonce_sha2567", "Teachonce_sha256"])
def test_a_seal_under_another_name_does_not_disappear(manifest: Manifest, key: str):
    content = root_document(manifest).replace(b"teachonce_sha256", key.encode())
    with pytest.raises(DatasetError, match=key):
        parse_root(content, "here")


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{}", b'{"attributes": []}', b"\xff\xfe{\0}\0", b"{" * 5000, b"[" * 100_000],
    ids=range(8),
)
def test_what_is_no_root_at_all_is_refused(content: bytes):
    with pytest.raises(DatasetError, match="not the root of a latent dataset"):
        parse_root(content, "here")


def test_a_frame_that_no_reader_would_take_is_refused_when_it_is_promised(manifest: Manifest):
    spec = FeatureSpec(name="x", shape=(2**17, 2**10), axes=("a", "b"), dtype="float32", role="input")
    with pytest.raises(ValidationError, match=r"536870912 bytes"):
        Manifest.model_validate({**dict(manifest), "features": (spec,)})
