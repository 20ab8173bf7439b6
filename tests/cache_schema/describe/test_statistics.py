"""Statistics against NumPy on the values in one piece, and by hand."""

import numpy as np
import pytest

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.describe.statistics import statistics
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo
from cache_schema.sharing.reencode import reencode
from tests.cache_schema.conftest import CLIPS, values_of
from tests.cache_schema.format_2 import CLIPS as FORMAT_2_CLIPS
from tests.cache_schema.format_2 import values_of as format_2_values
from tests.cache_schema.format_2 import write_format_2


@pytest.mark.parametrize("feature", ["queries", "token"])
def test_as_numpy_computes_them(dataset, feature, monkeypatch):
    monkeypatch.setattr(
        "cache_schema.describe.statistics.BLOCK_BYTES", 3 * 17 * 256 * 8
    )  # several blocks a clip
    found = statistics(LatentDataset.open(dataset), feature)
    values = np.concatenate([values_of(clip.name, clip.frames)[feature].ravel() for clip in CLIPS])
    values = values.astype(np.float64)
    assert found.mean == pytest.approx(values.mean(), abs=1e-12)
    assert found.std == pytest.approx(values.std())
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    # A bin, and the distance between neighbouring values: of float16, or of 96 at random.
    gap = np.ptp(values) / 2**16 + {"queries": 2**-9, "token": np.diff(np.sort(values)).max()}[feature]
    np.testing.assert_allclose(found.percentiles, np.percentile(values, (1, 50, 99)), atol=gap)
    assert len(found.histogram) == 16
    assert sum(found.histogram) == pytest.approx(0.98 * len(values), rel=0.03)


@pytest.fixture
def of(tmp_path, manifest):
    def of(values, dtype):
        spec = FeatureSpec(name="x", shape=(), axes=(), dtype=dtype, role="truth")
        changed = manifest.replace(features=(spec,), assets=())
        path = tmp_path / f"{dtype}.zarr"
        with DatasetWriter(path, changed) as writer:
            clip = writer.clip(ClipInfo(name="clip", frames=len(values), split="train"))
            clip.append({"x": np.array(values, dtype)})
            clip.commit(wall_s=0)
        return statistics(LatentDataset.open(path), "x")

    return of


def test_integers_of_few_values_have_a_bar_each(of):
    found = of([0, 0, 0, 0, 2, 3, 3], "int8")
    assert found.histogram == (4, 0, 1, 2)
    assert found.bars == "█ ▂▄"
    assert found.percentiles == (0, 0, 3)


def test_truth_values(of):
    found = of([True, False, False, False], "bool")
    assert (found.mean, found.histogram) == (0.25, (3, 1))


def test_a_constant(of):
    found = of([2.5, 2.5], "float32")
    assert (found.mean, found.std, found.minimum, found.maximum) == (2.5, 0, 2.5, 2.5)
    assert found.percentiles == (2.5, 2.5, 2.5)
    assert sum(found.histogram) == 2


def test_encoded_values_are_decoded_first(dataset, tmp_path):
    reencode(dataset, tmp_path / "out.zarr", {"queries": "int8-per-channel"})
    before, after = (
        statistics(LatentDataset.open(path), "queries") for path in (dataset, tmp_path / "out.zarr")
    )
    assert after.std == pytest.approx(before.std, rel=1e-3)
    assert after.std != before.std


@pytest.mark.parametrize("feature", ["tokens", "image", "attention", "maps", "points"])
def test_ragged_values_of_all_frames(format_2, feature, monkeypatch):
    block = 100 if feature != "image" else 10_000  # several blocks a clip, and not thousands
    monkeypatch.setattr("cache_schema.describe.statistics.BLOCK_BYTES", 8 * block)
    found = statistics(LatentDataset.open(format_2), feature)
    values = [value for info in FORMAT_2_CLIPS for value in format_2_values(info.name)[feature]]
    if feature == "maps":
        values = [value[:, np.tri(value.shape[-1], dtype=bool)] for value in values]
    together = np.concatenate([value.ravel() for value in values]).astype(np.float64)
    assert found.mean == pytest.approx(together.mean(), rel=1e-9)
    assert found.std == pytest.approx(together.std())
    assert (found.minimum, found.maximum) == (together.min(), together.max())
    # The middle one of few values is as far from its neighbours as these are.
    gap = np.diff(np.sort(together)).max() + np.ptp(together) / 2**16
    np.testing.assert_allclose(found.percentiles, np.percentile(together, (1, 50, 99)), atol=gap)


def test_no_values_at_all(tmp_path):
    path = write_format_2(tmp_path / "x.zarr", FORMAT_2_CLIPS[2:])
    assert statistics(LatentDataset.open(path), "tokens") is None
    assert statistics(LatentDataset.open(path), "square") is not None
