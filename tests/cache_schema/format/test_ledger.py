import contextlib
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schema.errors import DatasetError, StorageError
from cache_schema.format.ledger import (
    ClipInfo,
    FileRecord,
    Ledger,
    LedgerEntry,
    digest_of,
    entry_document,
    parse_entry,
    seal_of,
)
from tests.paths import GOLDEN

STORE = GOLDEN / "format_1.zarr"

# Any text that a person could type; control characters are refused.
words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
clips = st.builds(
    ClipInfo,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}", fullmatch=True),
    frames=st.integers(1, 100_000),
    split=st.sampled_from(["train", "val"]),
    scenario=words,
    town=words,
    route=words,
    weather=words,
)
files = st.dictionaries(
    st.from_regex(
        r"[a-z][a-z0-9_]{0,20}(\.scale)?/(zarr\.json|c(\.[0-9]{1,4}){1,4})|zarr\.json", fullmatch=True
    ),
    st.builds(
        FileRecord,
        nbytes=st.integers(0, 2**53),
        sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    ),
    max_size=5,
)


def entry_of(clip: ClipInfo, held: dict[str, FileRecord], wall_s: float, writer: str) -> LedgerEntry:
    return LedgerEntry(clip=clip, files=held, digest=digest_of(clip, held), wall_s=wall_s, writer=writer)


entries = st.builds(entry_of, clips, files, st.floats(0, 1e9), words)
ENTRY = entry_of(
    ClipInfo(name="Accident_Town03_Route1_Weather0", frames=5, split="train", tags={"town": "Town03"}),
    {
        "zarr.json": FileRecord(nbytes=7, sha256="ab" * 32),
        "token/c.0.0": FileRecord(nbytes=9, sha256="cd" * 32),
    },
    1.25,
    "laptop",
)


@given(entries)
@settings(max_examples=60, deadline=None)
def test_what_is_committed_is_read(entry: LedgerEntry):
    assert parse_entry(entry_document(entry), entry.clip.name, "here") == entry


@given(entries, st.integers(0), st.integers(0, 7), st.booleans())
@settings(max_examples=150, deadline=None)
def test_an_entry_with_a_flipped_bit_is_refused(entry: LedgerEntry, place: int, bit: int, digest: bool):
    content = bytearray(entry_document(entry))
    content[place % len(content)] ^= 1 << bit
    with pytest.raises(DatasetError, match="the ledger entry here"):
        parse_entry(bytes(content), entry.clip.name, "here", digest=digest)


@pytest.mark.parametrize("sealed", [True, False])
def test_a_digest_that_lies_is_found_where_digests_count(sealed: bool):
    lying = ENTRY.model_copy(update={"digest": "0" * 64})
    fields = json.loads(entry_document(lying))
    content = json.dumps({key: fields[key] for key in fields if sealed or key != "seal"}).encode()
    with pytest.raises(DatasetError, match="contradicts itself"):
        parse_entry(content, lying.clip.name, "here")
    if sealed:  # to be added up
        assert parse_entry(content, lying.clip.name, "here", digest=False) == lying
    else:
        with pytest.raises(DatasetError, match="contradicts itself"):
            parse_entry(content, lying.clip.name, "here", digest=False)


@given(clips, clips, files, files)
@settings(max_examples=60, deadline=None)
def test_equal_digests_are_equal_clips(one: ClipInfo, other: ClipInfo, these: dict, those: dict):
    assert (digest_of(one, these) == digest_of(other, those)) == ((one, these) == (other, those))
    assert digest_of(one, these) == digest_of(one, dict(reversed(these.items())))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Other"),
        ("frames", 6),
        ("split", "val"),
        ("scenario", "x"),
        ("town", "x"),
        ("route", "x"),
        ("weather", "x"),
    ],
)
def test_the_digest_covers_every_field_of_the_clip(field: str, value: object):
    fields = ENTRY.clip.model_dump()
    assert set(fields) == {"name", "frames", "split", "scenario", "town", "route", "weather"}
    changed = ClipInfo.model_validate(fields | {field: value})
    assert digest_of(changed, ENTRY.files) != ENTRY.digest


def test_the_digest_and_the_seal_by_hand():
    fields = ENTRY.model_dump(mode="json")
    content = json.dumps({"clip": fields["clip"], "files": fields["files"]}, sort_keys=True)
    assert ENTRY.digest == hashlib.sha256(content.encode()).hexdigest()
    written = json.loads(entry_document(ENTRY))
    seal = written.pop("seal")
    sealed = json.dumps(written, sort_keys=True, separators=(",", ":"))
    assert seal == hashlib.sha256(sealed.encode()).hexdigest()


@pytest.mark.parametrize(("field", "value"), [("wall_s", 2.5), ("writer", "elsewhere")])
def test_the_seal_covers_what_the_digest_spares(field: str, value: object):
    fields = json.loads(entry_document(ENTRY)) | {field: value}
    with pytest.raises(DatasetError, match="contradicts itself"):
        parse_entry(json.dumps(fields).encode(), ENTRY.clip.name, "here")


def test_entries_from_before_the_seals_are_read():
    ledger = Ledger(STORE)
    assert [ledger.read(clip).clip.frames for clip in ledger.clips()] == [3, 2]
    assert b"seal" not in (STORE / "ledger" / f"{ledger.clips()[0]}.json").read_bytes()


@pytest.mark.parametrize("key", ["sean", "Seal", "seal "])
def test_a_seal_under_another_name_does_not_disappear(key: str):
    content = entry_document(ENTRY).replace(b'"seal"', f'"{key}"'.encode())
    with pytest.raises(DatasetError, match="Extra inputs"):
        parse_entry(content, ENTRY.clip.name, "here")


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../../outside",
        "token/../../outside",
        "token\\c.0",
        "C:/outside",
        "C:outside",
        "token/c.0\0",
        "token/c.0\n",
        "token//c.0",
        "./zarr.json",
        "token/sub/c.0",
        "token/c." + "0" * 200,
        "token/c" + ".0" * 200,
        "x" * 5000,
        "token/values.npy",
        "token/x.pkl",
        "token/c.0/",
        "~/c.0",
        "",
    ],
)
def test_no_file_name_leaves_the_clip(name: str):
    fields = json.loads(entry_document(ENTRY))
    del fields["seal"]
    fields["files"][name] = fields["files"].pop("zarr.json")
    with pytest.raises(DatasetError, match="cannot be read"):
        parse_entry(json.dumps(fields).encode(), ENTRY.clip.name, "here")


@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        ('"nbytes": 7', '"nbytes": -1'),
        ('"nbytes": 7', '"nbytes": 7.0'),
        ('"nbytes": 7', '"nbytes": "7"'),
        ('"nbytes": 7', '"nbytes": true'),
        ('"nbytes": 7', '"nbytes": 7, "nbytes": 8'),
        ('"nbytes": 7', '"nbytes": 7, "pickle": true'),
        ('"frames": 5', '"frames": 100001'),
        ('"frames": 5', '"frames": 0'),
        ('"wall_s": 1.25', '"wall_s": NaN'),
        ('"wall_s": 1.25', '"wall_s": 1e999'),
        ('"wall_s": 1.25', '"wall_s": -1'),
        ('"wall_s": 1.25', '"wall_s": ' + "9" * 5000),
        ('"writer": "laptop"', '"writer": "\\u001b[2J"'),
        ('"writer": "laptop"', '"writer": "\\ud800"'),
        ('"writer": "laptop"', '"writer": ' + "[" * 50 + "]" * 50),
        ('"writer": "laptop"', '"writer": ' + "[" * 100_000 + "]" * 100_000),
        ('"writer": "laptop"', '"writer": "' + "x" * 5_000_000 + '"'),
    ],
)
@pytest.mark.parametrize("sealed", [True, False])
def test_hostile_json_is_refused(was: str, is_now: str, sealed: bool):
    fields = json.loads(entry_document(ENTRY))
    del fields["seal"]
    text = json.dumps(fields)
    assert was in text
    text = text.replace(was, is_now)
    if sealed:
        with contextlib.suppress(ValueError, RecursionError):
            text = text.removesuffix("}") + f', "seal": "{seal_of(json.loads(text))}"}}'
    with pytest.raises(DatasetError, match="cannot be read"):
        parse_entry(text.encode(), ENTRY.clip.name, "here")


def test_an_entry_that_no_reader_would_take_is_not_written(tmp_path: Path):
    with pytest.raises(DatasetError, match="control characters"):
        Ledger(tmp_path).commit(ENTRY.model_copy(update={"writer": "lap\x07top"}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../ledger/x", "a/b", "", ".x", "x" * 300])
def test_a_clip_of_another_folder_is_not_in_the_ledger(tmp_path: Path, name: str):
    (tmp_path / "ledger").mkdir()
    with pytest.raises(DatasetError, match="is not in the ledger"):
        Ledger(tmp_path).read(name)


RAGGED = LedgerEntry.of(
    ENTRY.clip,
    {
        "zarr.json": FileRecord(nbytes=7, sha256="ab" * 32),
        "x/zarr.json": FileRecord(nbytes=9, sha256="cd" * 32),
    },
    {"x": 3},
    wall_s=1.25,
    writer="laptop",
)


def test_an_entry_without_ragged_features_is_that_of_format_1():
    assert "values" not in json.loads(entry_document(ENTRY))
    assert LedgerEntry.of(ENTRY.clip, ENTRY.files, {}, wall_s=1.25, writer="laptop") == ENTRY


def test_the_number_of_values_is_covered_by_the_digest_and_the_seal():
    assert parse_entry(entry_document(RAGGED), RAGGED.clip.name, "here") == RAGGED
    fields = RAGGED.model_dump(mode="json")
    content = {key: fields[key] for key in ("clip", "files", "values")}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert RAGGED.digest == digest != digest_of(RAGGED.clip, RAGGED.files)
    written = json.loads(entry_document(RAGGED))
    assert written["values"] == {"x": 3}
    written["values"]["x"] = 4
    with pytest.raises(DatasetError, match="contradicts itself"):
        parse_entry(json.dumps(written).encode(), RAGGED.clip.name, "here")


def test_every_flipped_bit_of_an_entry_with_values_is_refused():
    content = entry_document(RAGGED)
    for position in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(DatasetError, match="the ledger entry here"):
            parse_entry(bytes(flipped), RAGGED.clip.name, "here")


@pytest.mark.parametrize(
    "values",
    [
        {"x": -1},
        {"x": 2**40 + 1},
        {"x": 1.0},
        {"x": "1"},
        {"y": 1},
        {"../x": 1},
        {"x": True},
        [1],
        {"x": None},
    ],
    ids=str,
)
def test_hostile_numbers_of_values_are_refused(values: object):
    fields = json.loads(entry_document(RAGGED)) | {"values": values}
    del fields["seal"]
    with pytest.raises(DatasetError, match="cannot be read"):
        parse_entry(json.dumps(fields).encode(), RAGGED.clip.name, "here")


def test_an_entry_of_fewer_files(tmp_path: Path):
    part = RAGGED.holding({"zarr.json": RAGGED.files["zarr.json"]}, {})
    assert (part.values, part.wall_s, part.writer) == ({}, 1.25, "laptop")
    assert part.digest == digest_of(RAGGED.clip, part.files)


def test_a_ledger_that_is_elsewhere_cannot_be_written(tmp_path: Path):
    with pytest.raises(StorageError, match="is not on this machine"):
        Ledger("http://localhost/x.zarr").commit(ENTRY)


def test_membership_is_asked_clip_by_clip(tmp_path: Path):
    (tmp_path / "ledger").mkdir()
    ledger = Ledger(tmp_path)
    assert ENTRY.clip.name not in ledger
    ledger.commit(ENTRY)
    assert ENTRY.clip.name in ledger
    assert f"../ledger/{ENTRY.clip.name}" not in ledger
    assert ledger.clips() == (ENTRY.clip.name,)
