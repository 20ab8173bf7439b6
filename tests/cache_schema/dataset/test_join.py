"""Datasets of two teachers, read like one."""

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from cache_schema import JoinedDataset, LatentDataset, open_dataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import IdentityError, RequestError
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import AssetSpec
from cache_schema.storage.atomic_io import sha256_bytes
from tests.cache_schema.format_2 import FEATURES, HEADS, WIDE, assert_equal, manifest_of

FRAMES = {"a": 4, "b": 2}
NUMBER = next(spec for spec in FEATURES if spec.name == "frame_index")
ROWS = next(spec for spec in FEATURES if spec.name == "rows")
TOKENS = next(spec for spec in FEATURES if spec.name == "tokens")
SPEED = FeatureSpec(name="speed", shape=(), axes=(), dtype="float32", role="target", unit="m/s")


@pytest.fixture
def write(tmp_path: Path):
    """``write(name, *features)``: a dataset of clips a and b whose values are the number of the frame."""

    def write(
        name: str,
        *features: FeatureSpec,
        frames=FRAMES,
        split="train",
        first=0,
        heads=HEADS,
        altered=None,
        **changes,
    ) -> Path:
        content = save(heads)
        asset = AssetSpec(name="heads.safetensors", sha256=sha256_bytes(content), nbytes=len(content))
        derivations = (WIDE,) if ROWS in features else ()
        manifest = manifest_of().replace(
            features=features, derivations=derivations, assets=(asset,), **changes
        )
        with DatasetWriter(tmp_path / name, manifest, {asset.name: content}) as writer:
            for clip, count in frames.items():
                stored = writer.clip(ClipInfo(name=clip, frames=count, split=split))
                values = np.arange(first, first + count)
                if altered is not None and altered[0] == clip:
                    values[altered[1]] += 1
                for spec in features:
                    if spec.ragged:
                        stored.append({spec.name: [np.arange(n, dtype=spec.dtype) for n in values]})
                    else:
                        column = values.reshape(-1, *(1 for _ in spec.shape))
                        stored.append({spec.name: np.broadcast_to(column, (count, *spec.shape))})
                stored.commit(wall_s=0)
        return tmp_path / name

    return write


def test_every_feature_is_read_from_the_dataset_that_holds_it(write):
    one, other = write("one", NUMBER, ROWS), write("other", NUMBER, TOKENS, SPEED)
    joined = open_dataset(one, str(other))
    assert isinstance(joined, JoinedDataset)
    assert joined.clips == ("a", "b")
    assert joined.clip("a").frames == 4
    assert joined.feature("rows") == ROWS
    assert joined.feature("wide").shape == (3, 3)
    assert [joined.holder(name).path for name in ("rows", "wide", "tokens", "speed")] == [
        one,
        one,
        other,
        other,
    ]
    assert joined.read("a", "speed").tolist() == [0, 1, 2, 3]
    assert joined.read("b", "rows", 1).tolist() == [[1, 1]] * 3
    assert joined.read("b", "wide", slice(1, 2)).tolist() == [[[1, 1, 7]] * 3]
    assert_equal(
        joined.read("a", "tokens", np.array([2, 0])), [np.arange(2, dtype=np.int32), np.zeros(0, "i4")]
    )
    assert joined.frame_index("a", "tokens").offsets.tolist() == [0, 0, 1, 3, 6]
    assert joined.stored("b", "tokens")["tokens"].tolist() == [0]
    assert joined.array("a", "tokens.shape").shape == (4, 1)
    assert joined.dask("speed").compute(scheduler="synchronous").tolist() == [0, 1, 2, 3, 0, 1]
    assert joined.derivations == {"wide": WIDE}
    assert joined.derivation_maps("wide").keys() == HEADS.keys()
    assert joined.asset("heads").keys() == HEADS.keys()
    assert pickle.loads(pickle.dumps(joined)).read("a", "speed", 3) == 3
    assert str(joined) == f"{one} + {other}"


def test_one_dataset_is_itself(write):
    path = write("one", NUMBER, ROWS)
    opened = open_dataset(path)
    assert isinstance(opened, LatentDataset)
    assert opened.datasets == (opened,)
    assert opened.holder("wide") is opened
    with pytest.raises(RequestError, match="no feature colour"):
        opened.holder("colour")


def test_ground_truth_that_both_hold_is_the_first_one_s(write):
    joined = open_dataset(write("one", NUMBER, ROWS), write("other", NUMBER, SPEED))
    assert joined.holder("frame_index") is joined.datasets[0]


@pytest.mark.parametrize(
    ("others", "name"),
    [
        ((NUMBER, ROWS.model_copy(update={"unit": "m"})), "rows"),
        ((NUMBER.model_copy(update={"dtype": "int64"}),), "frame_index"),
        ((NUMBER.model_copy(update={"description": "another"}),), "frame_index"),
        ((NUMBER, SPEED.model_copy(update={"name": "wide"})), "wide"),
    ],
)
def test_different_features_of_one_name_are_refused(write, others, name):
    one, other = write("one", NUMBER, ROWS), write("other", *others)
    with pytest.raises(RequestError, match=rf"one and .*other both hold a feature '{name}'"):
        open_dataset(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": {"a": 4}}, "1 clips are in one of them only, such as 'b'"),
        ({"frames": {"a": 4, "b": 3}}, "clip 'b' has 2 and 3 frames"),
        ({"frame_step": 2}, "every n-th frame for different n"),
        ({"split": "val"}, "clip 'a' is in the splits train and val"),
        ({"first": 1}, "clip 'a' has different values of frame_index"),
    ],
    ids=lambda changes: next(iter(changes)) if isinstance(changes, dict) else "",
)
def test_datasets_of_other_frames_are_refused_and_both_are_shown(write, changes, message):
    one, other = write("one", NUMBER, ROWS), write("other", NUMBER, SPEED, **changes)
    with pytest.raises(IdentityError, match=message) as caught:
        open_dataset(one, other)
    # sha256 of "a\nb".
    assert f"{one}: 2 clips, 6 frames, frame_step 1, clip list 7e18f737311b" in caught.value.happened
    assert f"    {other}: " in caught.value.happened


def test_without_frame_numbers_in_both_lengths_decide(write):
    joined = open_dataset(write("one", NUMBER, ROWS), write("other", SPEED, first=7))
    assert joined.read("a", "speed").tolist() == [7, 8, 9, 10]


def test_assets_of_one_name(write):
    one, other = write("one", NUMBER, ROWS), write("other", NUMBER, SPEED)
    assert open_dataset(one, other).asset("heads").keys() == HEADS.keys()
    third = write("third", NUMBER, TOKENS, heads={"w": np.zeros(2, np.float32)})
    joined = open_dataset(one, third)
    with pytest.raises(RequestError, match=r"have different assets 'heads'"):
        joined.asset("heads")
    assert joined.derivation_maps("wide").keys() == HEADS.keys()
    with pytest.raises(RequestError, match="no asset 'planner'"):
        joined.asset("planner")


def test_what_no_dataset_holds(write):
    joined = open_dataset(write("one", NUMBER, ROWS), write("other", NUMBER, SPEED))
    joined.require(["rows", "speed"])
    for ask in (lambda: joined.require(["speed", "colour"]), lambda: joined.feature("colour")):
        with pytest.raises(RequestError, match="have no feature colour") as caught:
            ask()
        assert "one of frame_index, rows, speed" in caught.value.expected


def test_fingerprints(write):
    one, other = (
        LatentDataset.open(path) for path in (write("one", NUMBER, ROWS), write("other", NUMBER, SPEED))
    )
    content = {
        "manifest": one.manifest.identity(),
        "clips": {clip: one.entry(clip).digest for clip in one.clips},
    }
    assert one.fingerprint == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    both = json.dumps([one.fingerprint, other.fingerprint]).encode()
    assert JoinedDataset([one, other]).fingerprint == hashlib.sha256(both).hexdigest()


IDS = TOKENS.model_copy(update={"name": "token_ids", "role": "input"})
TWICE = ROWS.model_copy(update={"name": "rows_twice"})


def test_equal_inputs_may_be_in_several_datasets(write):
    joined = open_dataset(write("one", NUMBER, IDS, TWICE), write("other", NUMBER, IDS, TWICE, SPEED))
    assert joined.holder("token_ids") is joined.holder("rows_twice") is joined.datasets[0]
    assert joined.read("a", "token_ids", 2).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        # Frames 0, 1, ... of both clips, against 1, 2, ...
        (
            IDS,
            {"first": 1},
            "'token_ids' of clip 'a' differs in frame 0 and 3 more of 4; 2 of 2 clips",
        ),
        (TWICE, {"first": 1}, "'rows_twice' of clip 'a' differs in frame 0 and 3 more of 4; 2 of 2 clips"),
        (
            IDS,
            {"altered": ("b", 1)},
            "'token_ids' of clip 'b' differs in frame 1 and 0 more of 2; 1 of 2",
        ),
        (TWICE, {"altered": ("a", 2)}, "'rows_twice' of clip 'a' differs in frame 2 and 0 more of 4; 1 of 2"),
    ],
)
def test_different_inputs_are_refused_and_the_first_is_named(write, spec, changes, message):
    one, other = write("one", spec), write("other", spec, SPEED, **changes)
    with pytest.raises(IdentityError, match=message) as refused:
        open_dataset(one, other)
    assert f"{one}\n    {other}" in refused.value.happened


def test_inputs_of_a_third_dataset_are_compared_too(write):
    with pytest.raises(IdentityError, match="'token_ids' of clip 'b' differs in frame 0"):
        open_dataset(write("one", IDS), write("other", SPEED), write("third", IDS, altered=("b", 0)))


def test_a_target_of_two_teachers_is_refused_though_its_values_agree(write):
    with pytest.raises(RequestError, match="both hold a feature 'tokens'"):
        open_dataset(write("one", TOKENS), write("other", TOKENS))
