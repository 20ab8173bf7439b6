import hashlib
import json
from typing import Any

import pytest
from pydantic import ValidationError

from cache_schema.errors import DatasetError
from cache_schema.format.features import FeatureSpec
from cache_schema.format.manifest import Manifest, parse_root, root_document
from tests.cache_schema.format_2 import manifest_of
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


def test_a_manifest_without_anything_of_format_2_is_format_1(manifest: Manifest):
    held = json.loads(root_document(manifest))["attributes"]["teachonce"]
    assert held["format_version"] == 1
    assert held.keys() == {
        "format_version", "features", "teacher", "data", "code", "assets", "frame_step",
    }  # fmt: skip
    assert manifest.tags == ("scenario", "town", "route", "weather")
    assert manifest.replace(tags=("town",)) == manifest
    assert manifest.replace(derivations=()) == manifest


RAGGED = FeatureSpec(name="ragged", shape=(None,), axes=("a",), dtype="float16", role="truth")
TRIANGLE = FeatureSpec(
    name="half", shape=(2, 2), axes=("a", "b"), dtype="float16", role="target", encoding="lower-triangle"
)
BYTES = FeatureSpec(name="bytes", shape=(4,), axes=("a",), dtype="uint8", role="target")


@pytest.mark.parametrize("spec", [RAGGED, TRIANGLE, BYTES], ids=lambda spec: spec.name)
def test_the_version_follows_from_the_features(manifest: Manifest, spec: FeatureSpec):
    more = manifest.replace(features=(*manifest.features, spec))
    assert more.format_version == 2
    assert parse_root(root_document(more), "here") == more
    assert more.replace(features=manifest.features) == manifest
    assert more.identity()["format_version"] == 2
    for version in (1, 2):
        wrong = changed(manifest if version == 2 else more, *HELD, "format_version", value=version)
        with pytest.raises(DatasetError, match=f"this is a dataset of format {3 - version}, not {version}"):
            parse_root(wrong, "here")


def test_tags_beyond_the_four_are_format_2(manifest: Manifest):
    more = manifest.replace(tags=("weather", "city"))
    assert (more.format_version, more.tags) == (2, ("city", "weather"))
    assert json.loads(root_document(more))["attributes"]["teachonce"]["tags"] == ["city", "weather"]
    assert parse_root(root_document(more), "here") == more
    for tags in (("City",), ("a", "a"), ("",), tuple(f"t{number}" for number in range(65))):
        with pytest.raises(ValidationError):
            manifest.replace(tags=tags)


def derivation(**changes: Any) -> dict:
    segment = {"input": "queries", "begin": 0, "length": 17, "projection": "up"}
    segment |= {key: value for key, value in changes.items() if key in segment}
    rest = {key: value for key, value in changes.items() if key not in segment}
    segments = [{"name": "all", **segment}]
    return {"name": "wide", "width": 9, "asset": "heads", "segments": segments} | rest


def test_declared_derivations_are_format_2(manifest: Manifest):
    more = manifest.replace(derivations=(derivation(),))
    assert more.format_version == 2
    assert more.derivations[0].spec.shape == (17, 9)
    assert parse_root(root_document(more), "here") == more
    assert more.identity()["derivations"].keys() == {"wide"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": "colour"}, "there are no rows 'colour'"),
        ({"input": "ragged"}, "there are no rows 'ragged'"),
        ({"input": "command"}, "there are no rows 'command'"),
        ({"length": 18}, "queries has 17 rows, fewer than 18"),
        ({"projection": None}, "queries is 256 wide, not 9"),
        ({"asset": "planner"}, "there is no asset 'planner'"),
        ({"asset": "../heads"}, "pattern"),
        ({"name": "token"}, "feature names repeat"),
        ({"width": 2**25}, "more than 8 axes or"),
        ({"code": "import os"}, "Extra inputs"),
    ],
)
def test_derivations_that_cannot_be(manifest: Manifest, changes: dict, message: str):
    features = (*manifest.features, RAGGED)
    with pytest.raises(ValidationError, match=message):
        manifest.replace(features=features, derivations=(derivation(**changes),))
    sound = manifest.replace(features=features, derivations=(derivation(),))
    hostile = changed(sound, *HELD, "derivations", 0, value=derivation(**changes))
    with pytest.raises(DatasetError, match="the manifest of here does not parse"):
        parse_root(hostile, "here")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("shape",), [None, None]),
        (("shape",), [-1]),
        (("shape",), ["n"]),
        (("shape",), [0]),
        (("encoding",), "int8-per-channel"),
        (("encoding",), "lower-triangle"),
        (("encoding",), "bfloat16"),
        (("segments",), [["a", 1]]),
    ],
    ids=str,
)
def test_a_hostile_ragged_feature_is_refused(manifest: Manifest, path: tuple, value: Any):
    ragged = manifest.replace(features=(RAGGED,))
    with pytest.raises(DatasetError, match="here"):
        parse_root(changed(ragged, *HELD, "features", 0, *path, value=value), "here")


def test_a_ragged_feature_with_huge_fixed_axes_is_refused(manifest: Manifest):
    spec = FeatureSpec(name="x", shape=(None, 2**28), axes=("a", "b"), dtype="float32", role="input")
    with pytest.raises(ValidationError, match="1073741824 bytes"):
        manifest.replace(features=(spec,))


def test_every_flipped_bit_of_format_2_is_refused():
    content = root_document(manifest_of())
    for position in range(0, 8 * len(content), 13):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(DatasetError, match="here"):
            parse_root(bytes(flipped), "here")
