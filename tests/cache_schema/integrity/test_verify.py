import hashlib
import json
import os
import pickle
import random
import shutil
import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import DatasetError
from cache_schema.integrity.verify import Problem, verify
from tests.cache_schema.conftest import CLIPS, FEATURES
from tests.cache_schema.format_2 import CLIPS as FORMAT_2_CLIPS
from tests.cache_schema.tampering import edit_entry, edit_root, flip_a_bit, record_again, write_small
from tests.recorded_progress import RecordedProgress

FIRST = CLIPS[0].name


def test_an_untouched_dataset_is_clean(dataset: Path):
    reported = RecordedProgress()
    found = verify(dataset, progress=reported)
    assert found.problems == ()
    assert (found.clips, found.frames) == (2, 12)
    assert (
        found.nbytes
        == sum(f.stat().st_size for f in (dataset / "clips").rglob("*") if f.is_file())
        - (dataset / "clips" / "zarr.json").stat().st_size
    )
    assert (reported.totals, reported.amounts) == ([2], [1, 1])


def test_every_flipped_bit_is_found_by_clip_and_feature(dataset: Path):
    choice = random.Random(0)
    files = sorted(f for f in (dataset / "clips" / FIRST).rglob("*") if f.is_file())
    for _ in range(60):
        file = choice.choice(files)
        position = choice.randrange(file.stat().st_size * 8)
        flip_a_bit(file, position)
        feature = file.parent.name if file.parent.name != FIRST else None
        assert (FIRST, feature) in {(p.clip, p.feature) for p in verify(dataset).problems}, (file, position)
        flip_a_bit(file, position)
    assert verify(dataset).problems == ()


def test_no_reader_returns_a_changed_value(dataset: Path):
    choice = random.Random(1)
    for spec in FEATURES:
        for file in (dataset / "clips" / FIRST / spec.name).glob("c*"):
            for _ in range(10):
                position = choice.randrange(file.stat().st_size * 8)
                flip_a_bit(file, position)
                with pytest.raises(DatasetError, match=f"clip '{FIRST}', feature '{spec.name}'"):
                    LatentDataset.open(dataset).read(FIRST, spec.name)
                flip_a_bit(file, position)


def test_a_deleted_shard_is_found_and_never_read_as_fill(dataset: Path):
    (dataset / "clips" / FIRST / "command" / "c.0").unlink()
    with pytest.raises(DatasetError, match="is missing"):
        LatentDataset.open(dataset).read(FIRST, "command")
    assert [(p.clip, p.feature, p.what) for p in verify(dataset, quick=True).problems] == [
        (FIRST, "command", "command/c.0 is missing")
    ]


def test_a_truncated_shard_is_found(dataset: Path):
    file = dataset / "clips" / FIRST / "queries" / "c.0.0.0"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DatasetError, match="another size"):
        LatentDataset.open(dataset).read(FIRST, "queries", 0)
    assert "bytes instead of" in verify(dataset, quick=True).problems[0].what


def test_a_deleted_ledger_entry_is_found(dataset: Path):
    (dataset / "ledger" / f"{FIRST}.json").unlink()
    assert [p.clip for p in verify(dataset).problems] == [FIRST]


def test_a_renamed_clip_is_found(dataset: Path):
    (dataset / "clips" / FIRST).rename(dataset / "clips" / "Other_Town01_Route1_Weather0")
    clips = {p.clip for p in verify(dataset).problems}
    assert clips == {FIRST, "Other_Town01_Route1_Weather0"}


def test_an_extra_file_is_found(dataset: Path):
    (dataset / "clips" / FIRST / "token" / "c.9").write_bytes(b"?")
    problem = ("token", "token/c.9 is not in the ledger")
    assert [(p.feature, p.what) for p in verify(dataset).problems] == [problem]


@pytest.mark.parametrize("change", [{"frames": 6}, {"split": "val"}, {"name": "Elsewhere"}])
def test_a_ledger_that_lies_is_found(dataset: Path, change: dict):
    path = dataset / "ledger" / f"{FIRST}.json"
    entry = json.loads(path.read_bytes())
    entry["clip"] |= change
    path.write_text(json.dumps(entry))
    assert "contradicts itself" in verify(dataset).problems[0].what
    with pytest.raises(DatasetError, match="contradicts itself"):
        LatentDataset.open(dataset).clip(FIRST)


def test_a_changed_asset_is_found(dataset: Path):
    flip_a_bit(dataset / "assets" / "heads.safetensors", 700)
    (problem,) = verify(dataset).problems
    assert problem == Problem(None, None, "assets/heads.safetensors is not the file that the manifest names")


def test_a_manifest_that_promises_something_else_is_found(dataset: Path):
    edit_root(dataset, lambda manifest: manifest["features"][1].update(shape=[9]))
    assert {p.feature for p in verify(dataset).problems} == {"token"}
    with pytest.raises(DatasetError, match="'token'"):
        LatentDataset.open(dataset).read(FIRST, "token")


def test_another_format_version_is_refused(dataset: Path):
    for version in (3, 0, 1.0, True, "1", None):
        edit_root(dataset, lambda manifest, version=version: manifest.update(format_version=version))
        with pytest.raises(DatasetError, match=f"format version {version!r}\n.*format version 1 or 2"):
            verify(dataset)
    # Of format 2 there is nothing in this dataset.
    edit_root(dataset, lambda manifest: manifest.update(format_version=2))
    with pytest.raises(DatasetError, match="a dataset of format 1, not 2"):
        verify(dataset)


def test_no_dataset_is_a_clear_error(dataset: Path, tmp_path: Path):
    with pytest.raises(DatasetError, match="no latent dataset"):
        verify(tmp_path / "nowhere.zarr")
    shutil.copytree(dataset / "clips", tmp_path / "other.zarr")
    with pytest.raises(DatasetError, match="not the root of a latent dataset"):
        verify(tmp_path / "other.zarr")


def only(path: Path, *, quick: bool = False) -> tuple[str | None, str | None, str]:
    (problem,) = verify(path, quick=quick).problems
    return problem.clip, problem.feature, problem.what


@pytest.fixture
def small(tmp_path: Path) -> Path:
    write_small(tmp_path / "small.zarr", 2, {})
    return tmp_path / "small.zarr"


SMALL_CLIP = "Accident_Town00_Route1_Weather0"


def rewrite_chunk(path: Path, position: int, value: bytes) -> None:
    """Put a value into the only chunk of a file, with the checksum that fits, as a bad writer would."""
    content = bytearray(path.read_bytes()[:-4])
    content[position : position + len(value)] = value
    path.write_bytes(content + struct.pack("<I", google_crc32c.value(bytes(content))))


@pytest.mark.parametrize(
    ("file", "value"),
    [
        ("token/c.0.0", struct.pack("<H", 0x7F80)),  # bfloat16 infinity
        ("token/c.0.0", struct.pack("<H", 0xFFC1)),  # a negative bfloat16 NaN
        ("pose/c.0.0", struct.pack("<d", float("inf"))),
        ("pose/c.0.0", struct.pack("<d", float("-inf"))),
        ("pose/c.0.0", struct.pack("<d", float("nan"))),
        ("mask/c.0.0", b"\x02"),
        ("queries/c.0.0.0", b"\x80"),  # -128 is no step
    ],
)
def test_values_that_no_writer_writes_are_found_under_right_digests(small: Path, file: str, value: bytes):
    rewrite_chunk(small / "clips" / SMALL_CLIP / file, 0, value)
    record_again(small, SMALL_CLIP)
    feature = file.split("/")[0]
    assert verify(small, quick=True).problems == ()
    clip, found, what = only(small)
    assert (clip, found) == (SMALL_CLIP, feature)
    assert what.startswith(f"{file} holds values that no ")


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -1.0, 516.0], ids=["nan", "inf", "negative", "float16 overflows"]
)
def test_scales_that_no_encoder_makes_are_found(small: Path, value: float):
    file = small / "clips" / SMALL_CLIP / "queries.scale" / "c.0.0"
    content = bytearray(file.read_bytes())
    # Three chunks of six float32 and a checksum, in any order; then the index.
    content[:4] = struct.pack("<f", value)
    content[24:28] = struct.pack("<I", google_crc32c.value(bytes(content[:24])))
    file.write_bytes(content)
    record_again(small, SMALL_CLIP)
    clip, feature, what = only(small)
    assert (clip, feature) == (SMALL_CLIP, "queries")
    assert "queries.scale/c.0.0 holds values" in what


def test_the_largest_values_are_no_fault(tmp_path: Path):
    """Extremes that writers do write, next to those above."""
    write_small(tmp_path / "x.zarr", 1, {})
    folder = tmp_path / "x.zarr" / "clips" / SMALL_CLIP
    rewrite_chunk(folder / "token/c.0.0", 0, struct.pack("<H", 0xFF7F))  # lowest bfloat16
    rewrite_chunk(folder / "pose/c.0.0", 0, struct.pack("<d", np.finfo(np.float64).max))
    rewrite_chunk(folder / "pose/c.0.0", 8, struct.pack("<d", np.finfo(np.float64).min))
    rewrite_chunk(folder / "queries/c.0.0.0", 0, b"\x81")  # -127
    scale = folder / "queries.scale/c.0.0"
    content = bytearray(scale.read_bytes())
    content[:4] = struct.pack("<f", 65504 / 127)
    content[24:28] = struct.pack("<I", google_crc32c.value(bytes(content[:24])))
    scale.write_bytes(content)
    record_again(tmp_path / "x.zarr", SMALL_CLIP)
    assert verify(tmp_path / "x.zarr").problems == ()


def test_another_value_with_a_checksum_that_fits_is_found_by_its_digest(small: Path):
    rewrite_chunk(small / "clips" / SMALL_CLIP / "pose/c.0.0", 0, struct.pack("<d", 17.0))
    assert verify(small, quick=True).problems == ()
    assert only(small) == (SMALL_CLIP, "pose", "pose/c.0.0 holds other bytes than were written")


@pytest.mark.parametrize("file", ["pose/c.0.0", "queries.scale/c.0.0"])
def test_a_chunk_that_no_reader_could_decode_is_found_under_a_right_digest(small: Path, file: str):
    flip_a_bit(small / "clips" / SMALL_CLIP / file, 3)
    record_again(small, SMALL_CLIP)
    assert only(small)[2] == f"{file} holds a chunk that its checksum does not fit"
    feature = file.split("/")[0].removesuffix(".scale")
    with pytest.raises(DatasetError, match=SMALL_CLIP):
        LatentDataset.open(small).read(SMALL_CLIP, feature)


def test_an_index_that_its_checksum_does_not_fit_is_found_under_a_right_digest(small: Path):
    file = small / "clips" / SMALL_CLIP / "queries.scale" / "c.0.0"
    flip_a_bit(file, 8 * file.stat().st_size - 40)
    record_again(small, SMALL_CLIP)
    assert only(small)[2] == "queries.scale/c.0.0 has an index that its checksum does not fit"


def test_two_frames_that_share_a_chunk_are_found(small: Path):
    """The index leads every frame to the first chunk, with a checksum that fits."""
    file = small / "clips" / SMALL_CLIP / "queries.scale" / "c.0.0"
    content = bytearray(file.read_bytes())
    index = np.frombuffer(content, "<u8", 6, len(content) - 52).reshape(3, 2).copy()
    index[:, 0] = 0
    content[-52:-4] = index.tobytes()
    content[-4:] = struct.pack("<I", google_crc32c.value(index.tobytes()))
    file.write_bytes(content)
    record_again(small, SMALL_CLIP)
    assert only(small)[2] == "queries.scale/c.0.0 has an index that leads elsewhere"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("codecs", [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": 1, "checksum": False}}]),
        ("codecs", [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 5}}]),
        ("codecs", [{"name": "bytes"}]),
        ("data_type", "variable_length_bytes"),
        ("data_type", {"name": "raw_bytes", "configuration": {"length_bytes": 10**12}}),
        ("fill_value", 1),
        ("shape", [10**12]),
        ("chunk_grid", {"name": "regular", "configuration": {"chunk_shape": [10**12]}}),
        ("chunk_key_encoding", {"name": "v2", "configuration": {"separator": "."}}),
        ("dimension_names", ["time"]),
        ("storage_transformers", [{"name": "indirect"}]),
        ("extension", {"must_understand": False}),
    ],
)
def test_metadata_other_than_promised_is_refused_before_zarr_acts_on_it(dataset: Path, key: str, value):
    file = dataset / "clips" / FIRST / "command" / "zarr.json"
    document = json.loads(file.read_bytes())
    document[key] = value
    file.write_text(json.dumps(document))
    record_again(dataset, FIRST)
    clip, feature, what = only(dataset, quick=True)
    assert (clip, feature) == (FIRST, "command")
    assert key in what
    with pytest.raises(DatasetError, match="'command'"):
        LatentDataset.open(dataset).array(FIRST, "command")


@pytest.mark.parametrize(
    "where", ["clips", "ledger", f"clips/{FIRST}", f"clips/{FIRST}/token", f"clips/{FIRST}/token/c.0.0"]
)
def test_symbolic_links_are_refused_even_to_the_same_bytes(dataset: Path, tmp_path: Path, where: str):
    target = tmp_path / "elsewhere"
    (dataset / where).rename(target)
    (dataset / where).symlink_to(target)
    assert any("link" in problem.what for problem in verify(dataset, quick=True).problems)
    opened = LatentDataset.open(dataset)
    with pytest.raises(DatasetError, match="link"):
        opened.read(FIRST, "token")


def test_a_pipe_is_no_file_and_is_not_waited_for(dataset: Path):
    file = dataset / "clips" / FIRST / "token" / "c.0.0"
    file.unlink()
    os.mkfifo(file)
    assert only(dataset) == (FIRST, "token", "token/c.0.0 is no plain file")
    entry = dataset / "ledger" / f"{CLIPS[1].name}.json"
    entry.unlink()
    os.mkfifo(entry)
    assert {p.clip for p in verify(dataset).problems} == {clip.name for clip in CLIPS}


def test_names_that_no_terminal_should_see_are_spelt_out(dataset: Path):
    for folder in ("", "ledger", "assets", "clips", f"clips/{FIRST}", f"clips/{FIRST}/token"):
        for name in (b"\x1b[2J.json", b"\xff.json"):
            Path(os.fsdecode(os.path.join(bytes(dataset / folder), name))).write_bytes(b"{}")
    (dataset / "clips" / "x\ny").mkdir()
    problems = verify(dataset).problems
    assert len(problems) == 13
    for problem in problems:
        text = f"{problem.clip}{problem.feature}{problem.what}"
        assert text.isprintable()
        text.encode()


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('a pickle was opened')",)


def test_pickles_are_reported_and_never_opened(dataset: Path):
    pickled = pickle.dumps(Bomb())
    places = ("x.pkl", "clips/x.npy", "assets/x.pkl", "ledger/x.pkl")
    for place in (*places, f"clips/{FIRST}/x.pkl", f"clips/{FIRST}/token/x.npy"):
        (dataset / place).write_bytes(pickled)
    problems = verify(dataset).problems
    assert {p.what.split(" ")[0] for p in problems if p.clip is None} == set(places)
    assert {(p.clip, p.feature) for p in problems if p.clip} == {(FIRST, "x.pkl"), (FIRST, "token")}


def test_an_asset_with_a_lying_header_is_refused(dataset: Path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    content = struct.pack("<Q", len(header)) + header
    (dataset / "assets" / "heads.safetensors").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    edit_root(dataset, lambda manifest: manifest["assets"][0].update(sha256=sha256, nbytes=len(content)))
    assert only(dataset)[2].startswith("assets/heads.safetensors cannot be read")
    with pytest.raises(DatasetError, match="heads"):
        LatentDataset.open(dataset).asset("heads")


def test_the_group_of_clips_has_one_content(dataset: Path):
    (dataset / "clips" / "zarr.json").write_text(
        '{"zarr_format": 3, "node_type": "group", "attributes": {"a": 1}}'
    )
    assert only(dataset) == (None, None, "clips/zarr.json is not that of an empty group")


def test_a_clip_whose_attributes_differ_from_the_ledger(dataset: Path):
    file = dataset / "clips" / FIRST / "zarr.json"
    group = json.loads(file.read_bytes())
    group["attributes"]["split"] = "val"
    file.write_text(json.dumps(group))
    record_again(dataset, FIRST)
    assert only(dataset) == (FIRST, None, "zarr.json has other attributes of the clip than the ledger")


def test_arrays_of_a_feature_that_is_being_added_are_checked_as_bytes(dataset: Path):
    """Every clip gets the feature before the manifest promises it; a run may be stopped in between."""
    shutil.copytree(dataset / "clips" / FIRST / "command", dataset / "clips" / FIRST / "weather")
    (clip, feature, what) = only(dataset)
    assert (clip, feature) == (None, "weather")  # the clip itself is as it was written
    assert what.startswith(f"clips/{FIRST}/weather was never finished")
    record_again(dataset, FIRST)
    assert verify(dataset).problems == ()
    flip_a_bit(dataset / "clips" / FIRST / "weather" / "c.0", 3)
    assert only(dataset) == (FIRST, "weather", "weather/c.0 holds other bytes than were written")


def test_a_ledger_that_is_consistent_and_wrong_is_refused(dataset: Path):
    edit_entry(dataset, FIRST, lambda entry: entry["clip"].update(frames=6))
    problems = verify(dataset, quick=True).problems
    assert {spec.name for spec in FEATURES} <= {p.feature for p in problems}
    for spec in FEATURES:
        with pytest.raises(DatasetError, match=FIRST):
            LatentDataset.open(dataset).read(FIRST, spec.name)


RAGGED_CLIP = FORMAT_2_CLIPS[0].name


def test_an_untouched_dataset_of_format_2_is_clean(format_2: Path):
    for quick in (True, False):
        found = verify(format_2, quick=quick)
        assert (found.clips, found.frames, found.problems) == (3, 10, ())


@pytest.mark.parametrize(
    ("feature", "shapes", "what"),
    [
        ("tokens", [3, 1, 4, 1, 6], "has shapes of 15 values, where there are 14"),
        ("tokens", [3, 1, 4, 1, -5], "holds values that no full int32 may be"),
        ("tokens", [3, 1, 4, 1, 2**30], "cannot be right: a frame takes more than 268435456 bytes"),
        (
            "points",
            [[3, 3], [1, 3], [5, 2], [1, 3], [5, 3]],
            r"cannot be right: a frame has a shape other than",
        ),
        (
            "maps",
            [[2, 3, 3], [2, 1, 1], [2, 4, 4], [2, 1, 1], [2, 5, 6]],
            "cannot be right: the last two axes",
        ),
    ],
)
def test_shapes_of_other_values_are_found_under_right_digests(format_2: Path, feature, shapes, what):
    content = np.array(shapes, "<i4").tobytes()
    file = format_2 / "clips" / RAGGED_CLIP / f"{feature}.shape" / "c.0.0"
    file.write_bytes(content + struct.pack("<I", google_crc32c.value(content)))
    record_again(format_2, RAGGED_CLIP)
    assert verify(format_2, quick=True).problems == ()
    clip, found, problem = only(format_2)
    assert (clip, found) == (RAGGED_CLIP, feature)
    assert problem.startswith(f"{feature}.shape/c.0.0 {what}")


def test_values_beyond_the_end_are_found_under_right_digests(format_2: Path):
    """The last chunk of an array is padded; something could be hidden there."""
    file = format_2 / "clips" / RAGGED_CLIP / "image" / "c.0"
    content = bytearray(file.read_bytes())
    begin, end = 4 * 65_540, 4 * 65_540 + 65_536  # the fifth chunk, of which 17,856 bytes are values
    assert any(content[begin : begin + 17_856])
    assert not any(content[begin + 17_856 : end])
    content[begin + 17_856] = 1
    content[end : end + 4] = struct.pack("<I", google_crc32c.value(bytes(content[begin:end])))
    file.write_bytes(content)
    record_again(format_2, RAGGED_CLIP)
    assert only(format_2) == (RAGGED_CLIP, "image", "image/c.0 holds values beyond its end")


@pytest.mark.parametrize("value", [0x7F80, 0xFFC1])
def test_ragged_values_that_no_writer_writes_are_found(format_2: Path, value: int):
    rewrite_chunk(format_2 / "clips" / RAGGED_CLIP / "points/c.0", 8, struct.pack("<H", value))
    record_again(format_2, RAGGED_CLIP)
    what = "points/c.0 holds values that no bfloat16 uint16 may be"
    assert only(format_2) == (RAGGED_CLIP, "points", what)


def test_numbers_of_values_that_lie_are_found(format_2: Path):
    edit_entry(format_2, RAGGED_CLIP, lambda entry: entry["values"].update(rows=5))
    what = "the ledger counts the values of a feature that is not ragged"
    assert only(format_2, quick=True) == (RAGGED_CLIP, "rows", what)
    edit_entry(format_2, RAGGED_CLIP, lambda entry: entry["values"].pop("rows"))
    assert verify(format_2).problems == ()
    edit_entry(format_2, RAGGED_CLIP, lambda entry: entry["values"].update(tokens=15))
    assert {problem.feature for problem in verify(format_2, quick=True).problems} == {"tokens"}
    edit_entry(format_2, RAGGED_CLIP, lambda entry: entry["values"].pop("tokens"))
    (problem,) = verify(format_2, quick=True).problems
    assert (problem.clip, problem.feature) == (RAGGED_CLIP, None)
    assert "the number of values of 'tokens'" in problem.what


@pytest.mark.parametrize("name", ["novelty", "novelty.shape", "novelty.scale"])
def test_arrays_of_a_feature_that_nothing_lists_are_no_damage_of_the_clip(format_2: Path, name: str):
    folder = format_2 / "clips" / RAGGED_CLIP / name
    shutil.copytree(folder.with_name("tokens.shape"), folder)
    clip, feature, what = only(format_2)
    assert (clip, feature) == (None, "novelty")
    assert what.startswith(f"clips/{RAGGED_CLIP}/{name} was never finished")
