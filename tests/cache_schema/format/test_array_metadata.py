import json

import pytest

from cache_schema.format.array_metadata import check_document
from cache_schema.format.clip_files import ChunkFile, promised_files
from cache_schema.format.encodings import StoredArray, stored_arrays
from cache_schema.format.manifest import parse_root
from tests.paths import GOLDEN

STORE = GOLDEN / "format_1.zarr"
MANIFEST = parse_root((STORE / "zarr.json").read_bytes(), "golden")
CLIP, FRAMES = "Accident_Town03_Route9001_Weather0", 3
ARRAYS = [stored for spec in MANIFEST.features for stored in stored_arrays(spec)]


def test_the_files_of_the_golden_store_are_those_promised():
    folder = STORE / "clips" / CLIP
    there = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    promised = promised_files(MANIFEST.features, FRAMES, {})
    assert promised.keys() == there.keys()
    for name, what in promised.items():
        if isinstance(what, ChunkFile):
            assert (what.nbytes, what.held) == (there[name].stat().st_size, FRAMES)


def test_a_long_clip_has_shards_of_which_the_last_is_short():
    # 65,536 bytes a frame: 4,096 frames fill a shard of 256 MiB.
    (spec,) = (spec for spec in MANIFEST.features if spec.name == "queries")
    spec = spec.model_copy(update={"shape": (128, 256), "segments": ()})
    files = promised_files((spec,), 10_000, {})
    chunks = {name: what for name, what in files.items() if isinstance(what, ChunkFile)}
    assert {name: what.held for name, what in chunks.items()} == {
        "queries/c.0.0.0": 4096,
        "queries/c.1.0.0": 4096,
        "queries/c.2.0.0": 1808,
    }


@pytest.mark.parametrize("stored", ARRAYS, ids=lambda stored: stored.name)
def test_the_golden_metadata_is_as_promised_and_nothing_less_is(stored: StoredArray):
    content = (STORE / "clips" / CLIP / stored.name / "zarr.json").read_bytes()
    assert check_document(content, stored, FRAMES) is None
    document = json.loads(content)
    for key in document.keys() - {"attributes", "storage_transformers"}:
        less = {name: value for name, value in document.items() if name != key}
        assert check_document(json.dumps(less).encode(), stored, FRAMES) == f"lacks {key!r}"
    more = document | {"consolidated_metadata": None}
    assert "consolidated_metadata" in (check_document(json.dumps(more).encode(), stored, FRAMES) or "")
    assert (check_document(content, stored, FRAMES + 1) or "").startswith("has ")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff", b'{"shape": NaN}', b"[" * 99_999])
def test_what_is_no_metadata_is_reported(content: bytes):
    assert check_document(content, ARRAYS[0], FRAMES) is not None


def test_a_number_is_no_boolean():
    """Python takes 0 for False; JSON does not."""
    (stored,) = (stored for stored in ARRAYS if stored.name == "mask")
    document = json.loads((STORE / "clips" / CLIP / "mask" / "zarr.json").read_bytes())
    assert document["fill_value"] is False
    for other in (0, 0.0, None, "false", True):
        changed = json.dumps(document | {"fill_value": other}).encode()
        assert "fill_value" in (check_document(changed, stored, FRAMES) or "")
