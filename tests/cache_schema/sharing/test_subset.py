"""Parts of a dataset are datasets."""

from pathlib import Path

import numpy as np
import pytest

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import IdentityError, RequestError
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo
from cache_schema.integrity.verify import verify
from cache_schema.sharing.merge import merge
from cache_schema.sharing.subset import ClipFilter, Part, parse_tags, subset
from tests.cache_schema.conftest import CLIPS, values_of
from tests.cache_schema.format_2 import assert_equal
from tests.cache_schema.sharing.test_merge import digests
from tests.paths import GOLDEN

TRAIN, VAL = (clip.name for clip in CLIPS)
STORE = GOLDEN / "format_1.zarr"


@pytest.mark.parametrize(
    ("which", "chosen"),
    [
        (ClipFilter(), {TRAIN, VAL}),
        (ClipFilter(split="val"), {VAL}),
        (ClipFilter(tags={"town": "Town03"}), {TRAIN}),
        (ClipFilter(tags={"town": "Town0?"}), {TRAIN, VAL}),
        (ClipFilter(tags={"scenario": "TJunction"}), {VAL}),
        (ClipFilter(tags={"weather": "3"}), {VAL}),
        (ClipFilter(clips="*_Route1_*"), {TRAIN}),
        (ClipFilter(clips="*", split="train", tags={"town": "Town*"}), {TRAIN}),
    ],
)
def test_clips_are_chosen_and_copied(tmp_path, manifest, assets, which, chosen):
    source = tmp_path / "source.zarr"
    with DatasetWriter(source, manifest, assets) as writer:
        for info, scenario, weather in zip(CLIPS, ("Accident", "TJunction"), "03", strict=True):
            clip = writer.clip(
                info.model_copy(update={"tags": {**info.tags, "scenario": scenario, "weather": weather}})
            )
            clip.append(values_of(info.name, info.frames))
            clip.commit(wall_s=0)
    copied = subset(source, tmp_path / "out.zarr", which)
    assert set(copied.added) == chosen
    assert digests(tmp_path / "out.zarr") == {clip: digests(source)[clip] for clip in chosen}
    assert verify(tmp_path / "out.zarr").problems == ()


def test_the_error_of_an_empty_choice_lists_what_there_is(dataset, tmp_path):
    with pytest.raises(RequestError, match="no clip") as caught:
        subset(dataset, tmp_path / "out.zarr", ClipFilter(tags={"town": "Town12"}))
    assert "split train, val; town Town03, Town05" in caught.value.expected
    assert not (tmp_path / "out.zarr").exists()


def test_parts_make_the_whole(dataset, tmp_path):
    for number in (1, 2):
        subset(dataset, tmp_path / f"{number}.zarr", part=Part(number, 2))
    assert digests(tmp_path / "1.zarr").keys() == {TRAIN}
    assert digests(tmp_path / "2.zarr").keys() == {VAL}
    merge(tmp_path / "out.zarr", [tmp_path / "2.zarr", tmp_path / "1.zarr"])
    assert digests(tmp_path / "out.zarr") == digests(dataset)


def test_parts_differ_by_one_clip_at_most():
    names = [f"clip{number}" for number in range(11)]
    parts = [Part(number, 3).of(names) for number in (1, 2, 3)]
    assert sorted(map(len, parts)) == [3, 4, 4]
    assert sorted(name for part in parts for name in part) == sorted(names)


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "-1/2", "1/2/3", "a/b", "1/0"])
def test_what_is_no_part(text):
    with pytest.raises(RequestError, match="does not parse"):
        Part.parse(text)


def test_a_part_parses():
    assert Part.parse("2/5") == Part(2, 5)


@pytest.mark.parametrize(("every", "frames"), [(2, (3, 4)), (3, (2, 3)), (7, (1, 1)), (100, (1, 1))])
def test_every_nth_frame(dataset, tmp_path, every, frames):
    subset(dataset, tmp_path / "out.zarr", every=every)
    whole, part = LatentDataset.open(dataset), LatentDataset.open(tmp_path / "out.zarr")
    assert tuple(part.clip(clip).frames for clip in part.clips) == frames
    for clip in whole.clips:
        for spec in whole.manifest.features:
            np.testing.assert_array_equal(part.read(clip, spec.name), whole.read(clip, spec.name)[::every])
    assert verify(tmp_path / "out.zarr").problems == ()
    assert part.manifest.frame_step == every


def test_thinned_clips_do_not_pass_for_whole_ones(dataset, tmp_path):
    thin = tmp_path / "thin.zarr"
    subset(dataset, thin, ClipFilter(split="val"), every=2)
    with pytest.raises(IdentityError, match="frame_step: 1 and 2"):
        merge(tmp_path / "out.zarr", [dataset, thin])
    with pytest.raises(IdentityError, match="frame_step: 2 there, 1 now"):
        subset(dataset, thin)
    # Among themselves they may mix, and go on.
    assert subset(dataset, thin, every=2).present == (VAL,)
    # Every second of every second is every fourth.
    subset(thin, tmp_path / "thinner.zarr", every=2)
    assert LatentDataset.open(tmp_path / "thinner.zarr").manifest.frame_step == 4


def test_an_encoding_is_not_applied_twice(tmp_path, manifest):
    """Another program may have used fewer steps than ours would: they stay as they are."""
    spec = FeatureSpec(
        name="x", shape=(3, 4), axes=("a", "b"), dtype="float16", role="input", encoding="int8-per-channel"
    )
    source = tmp_path / "source.zarr"
    stored = {
        "x": np.random.default_rng(0).integers(-90, 90, size=(6, 3, 4)).astype(np.int8),
        "x.scale": np.ones((6, 4), np.float32),
    }
    with DatasetWriter(source, manifest.replace(features=(spec,), assets=())) as writer:
        clip = writer.clip(ClipInfo(name="clip", frames=6, split="train"))
        clip.append_stored("x", stored)
        clip.commit(wall_s=0)
    subset(source, tmp_path / "out.zarr", every=2)
    part = LatentDataset.open(tmp_path / "out.zarr")
    for name, values in part.stored("clip", "x").items():
        np.testing.assert_array_equal(values, stored[name][::2])
    np.testing.assert_array_equal(part.read("clip", "x"), stored["x"][::2])


@pytest.mark.parametrize("every", [0, -2, 10**9])
def test_what_is_no_step(dataset, tmp_path, every):
    with pytest.raises(RequestError, match=rf"one frame in {every} makes no sense"):
        subset(dataset, tmp_path / "out.zarr", every=every)


def test_run_again_with_another_filter_adds(dataset, tmp_path: Path):
    out = tmp_path / "out.zarr"
    subset(dataset, out, ClipFilter(split="val"))
    copied = subset(dataset, out)
    assert (copied.added, copied.present) == ((TRAIN,), (VAL,))
    assert digests(out) == digests(dataset)


def test_an_old_dataset_can_still_be_taken_apart(tmp_path):
    """Written before there were frame steps, encodings and seals."""
    subset(STORE, tmp_path / "val.zarr", ClipFilter(split="val"))
    merge(tmp_path / "out.zarr", [tmp_path / "val.zarr", STORE])
    assert digests(tmp_path / "out.zarr") == digests(STORE)
    assert verify(tmp_path / "out.zarr").problems == ()


@pytest.mark.parametrize(
    ("tags", "chosen"),
    [
        ({"city": "Bos*"}, {"scene-1"}),
        ({"weather": "rain", "city": "*"}, {"scene-1"}),
        ({"weather": ""}, {"scene-2", "scene-3"}),
    ],
)
def test_any_tag_chooses(format_2, tmp_path, tags, chosen):
    copied = subset(format_2, tmp_path / "out.zarr", ClipFilter(tags=tags))
    assert set(copied.added) == chosen
    assert digests(tmp_path / "out.zarr") == {clip: digests(format_2)[clip] for clip in chosen}
    assert verify(tmp_path / "out.zarr").problems == ()


def test_parts_of_format_2_make_the_whole(format_2, tmp_path):
    for number in (1, 2):
        subset(format_2, tmp_path / f"{number}.zarr", part=Part(number, 2))
    merge(tmp_path / "out.zarr", [tmp_path / "2.zarr", tmp_path / "1.zarr"])
    assert digests(tmp_path / "out.zarr") == digests(format_2)


@pytest.mark.parametrize("block_bytes", [1, 64 * 2**20])
@pytest.mark.parametrize("every", [2, 3, 9])
def test_every_nth_frame_of_ragged_features(format_2, tmp_path, monkeypatch, every, block_bytes):
    monkeypatch.setattr("cache_schema.dataset.blocks.BLOCK_BYTES", block_bytes)
    subset(format_2, tmp_path / "out.zarr", every=every)
    whole, part = LatentDataset.open(format_2), LatentDataset.open(tmp_path / "out.zarr")
    for clip in whole.clips:
        for spec in whole.manifest.features:
            assert_equal(part.read(clip, spec.name), whole.read(clip, spec.name)[::every])
    assert part.manifest.derivations == whole.manifest.derivations
    assert verify(tmp_path / "out.zarr").problems == ()


def test_tags_of_a_command_line():
    assert parse_tags(["city=Bos*", "weather="]) == {"city": "Bos*", "weather": ""}
    for text in ("city", "=x", ""):
        with pytest.raises(RequestError, match="does not parse"):
            parse_tags([text])
