"""Features that a dataset gets once its clips are there."""

from pathlib import Path

import numpy as np
import pytest

from cache_schema.dataset.add_features import extend_clip, extend_manifest, holds
from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import FeatureError, IdentityError, RequestError
from cache_schema.format.features import FeatureSpec
from cache_schema.integrity.verify import verify
from tests.cache_schema.conftest import CLIPS
from tests.cache_schema.format_2 import assert_equal

OBJECTS = FeatureSpec(name="objects", shape=(None, 4), axes=("object", "box"), dtype="float32", role="truth")
SPEED = FeatureSpec(name="speed", shape=(), axes=(), dtype="float32", role="truth")


def values_of(frames: int) -> dict:
    objects = [np.full((n % 3, 4), n, np.float32) for n in range(frames)]
    return {"objects": objects, "speed": np.arange(frames, dtype=np.float32)}


def test_ragged_ground_truth_makes_a_dataset_of_format_1_format_2(dataset: Path, tmp_path: Path):
    manifest = LatentDataset.open(dataset).manifest
    before = {clip: LatentDataset.open(dataset).entry(clip) for clip in LatentDataset.open(dataset).clips}
    with DatasetWriter(dataset):
        for entry in before.values():
            extended = extend_clip(dataset, manifest, entry, (OBJECTS, SPEED), values_of(entry.clip.frames))
            assert holds(extended, (OBJECTS, SPEED))
            assert (extended.wall_s, extended.writer) == (entry.wall_s, entry.writer)
            # The manifest promises nothing yet: the dataset is whole, and of format 1.
            assert LatentDataset.open(dataset).manifest == manifest
            assert verify(dataset).problems == ()
        extend_manifest(dataset, manifest, (OBJECTS, SPEED))
    opened = LatentDataset.open(dataset)
    assert opened.manifest.format_version == 2
    for clip, entry in before.items():
        # 0, 1, 2, 0, 1, ... objects of four values.
        assert opened.entry(clip).values == {"objects": 4 * sum(n % 3 for n in range(entry.clip.frames))}
        for name, values in values_of(entry.clip.frames).items():
            assert_equal(opened.read(clip, name), values)
        assert {n: f for n, f in opened.entry(clip).files.items() if n in entry.files} == entry.files
    assert verify(dataset).problems == ()
    # As it would be written now, it is the same.
    with DatasetWriter(tmp_path / "new.zarr", opened.manifest) as writer:
        for info in CLIPS:
            clip = writer.clip(info)
            for spec in opened.manifest.features:
                clip.append({spec.name: opened.read(info.name, spec.name)})
            assert clip.commit(wall_s=0).digest == opened.entry(info.name).digest


def test_the_error_of_missing_ground_truth_has_the_command_that_adds_it(dataset: Path):
    manifest = LatentDataset.open(dataset).manifest
    more = manifest.replace(features=(*manifest.features, OBJECTS, SPEED))
    with pytest.raises(IdentityError, match="teachonce add-ground-truth"):
        DatasetWriter(dataset, more).__enter__()
    target = SPEED.model_copy(update={"role": "target"})
    with pytest.raises(IdentityError, match="use the same teacher") as caught:
        DatasetWriter(dataset, manifest.replace(features=(*manifest.features, target))).__enter__()
    assert "format_version" not in caught.value.happened


def test_values_that_do_not_fit_leave_nothing(dataset: Path):
    opened = LatentDataset.open(dataset)
    entry = opened.entry(CLIPS[0].name)
    values = values_of(entry.clip.frames)
    values["objects"][1] = np.zeros((1, 5))
    with DatasetWriter(dataset), pytest.raises(FeatureError, match="'objects', frame 1"):
        extend_clip(dataset, opened.manifest, entry, (OBJECTS,), {"objects": values["objects"]})
    assert verify(dataset).problems == ()
    assert LatentDataset.open(dataset).entry(CLIPS[0].name) == entry


def test_a_feature_that_is_there(format_2: Path):
    manifest = LatentDataset.open(format_2).manifest
    for name in ("rows", "wide"):
        with pytest.raises(RequestError, match="feature names repeat"):
            extend_manifest(format_2, manifest, (SPEED.model_copy(update={"name": name}),))
