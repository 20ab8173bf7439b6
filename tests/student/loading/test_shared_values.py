"""Values that samples share, in batches: read once for all of a window, and given to each."""

import numpy as np
import pytest
import torch

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import DatasetError
from student.loading import batches, loader
from student.loading.batches import LatentSamples
from student.loading.sampler import Sampler
from tests.cache_schema.shared_values import HOLDERS, MAPS, TABLE, put_index, value_of, write_shared

CPU = torch.device("cpu")
NAMES = ("table", "maps", "tokens", "frame_index")
TRAINING = [(clip, frame) for clip in "abd" for frame in range(len(HOLDERS[clip]))]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return LatentDataset.open(write_shared(tmp_path_factory.mktemp("shared") / "shared.zarr"))


def assert_right(batch, rows):
    for place, row in enumerate(rows):
        clip, frame = TRAINING[row]
        for spec in (TABLE, MAPS):
            expected = torch.from_numpy(value_of(spec, clip, frame))
            assert torch.equal(batch[spec.name].item(place), expected), (spec.name, clip, frame)
        assert batch["tokens"].item(place).tolist() == list(range(frame))
    assert batch["frame_index"].tolist() == [TRAINING[row][1] for row in rows]


@pytest.mark.parametrize("shuffle", ["frames", "runs"])
@pytest.mark.parametrize("resident", ["none", "ram", "device"])
@pytest.mark.parametrize("piece_bytes", [1, 2**20])
def test_every_sample_gets_its_value_in_any_order(dataset, resident, shuffle, piece_bytes, monkeypatch):
    monkeypatch.setattr(loader, "PIECE_BYTES", piece_bytes)
    samples = LatentSamples(dataset, "train", NAMES, device=CPU, resident=resident)
    assert ("table" in samples._streamed) is (resident == "none")
    assert "maps" in samples._held
    sampler = Sampler(samples.lengths, batch_size=4, seed=3, shuffle=shuffle, run_samples=3, window_batches=3)
    for epoch in range(3):
        seen = []
        for rows, batch in samples.stream(sampler.windows(epoch), recycle=True):
            assert_right(batch, rows)
            seen += rows.tolist()
        assert sorted(seen) == list(range(15))


def test_samples_that_stay_where_batches_are_made(dataset, monkeypatch):
    """As on a GPU: nothing passes through a buffer."""
    monkeypatch.setattr(batches, "_is_on", lambda values, device: True)
    samples = LatentSamples(dataset, "train", NAMES, device=CPU, resident="device")
    assert samples._most([[np.arange(4)]]) == {}
    for rows, batch in samples.stream([[np.array([5, 1, 7])], [np.array([2, 9]), np.array([14, 0])]]):
        assert_right(batch, rows)


@pytest.mark.parametrize("rows", [[1], [2, 0, 1, 5], [14, 13, 0], [7, 8, 9, 7]])
def test_samples_of_one_holder_side_by_side(dataset, rows):
    samples = LatentSamples(dataset, "train", NAMES, device=CPU)
    assert_right(samples.read(np.array(rows)), rows)


def test_what_samples_share_is_read_once(dataset, monkeypatch):
    samples = LatentSamples(dataset, "train", ("table",), device=CPU)
    read, spans = [], loader.spans

    def noted(clips, begins, counts):
        read.append(int(counts.sum()))
        return spans(clips, begins, counts)

    monkeypatch.setattr(loader, "spans", noted)
    window = [np.array([0, 1, 2]), np.array([4, 5])]  # of clip a: two images, and one
    for _ in samples.stream([window]):
        pass
    assert read == [3 * 30 * 40]


@pytest.mark.parametrize(
    "holders", [[0, 0, 0, 3, 3, 6], [0, 0, -1, 3, 3, 0], [0, 0, 1, 3, 3, 0], [2**31 - 1] * 6]
)
def test_a_dataset_that_leads_astray_is_refused_before_anything_is_read(holders, tmp_path):
    path = write_shared(tmp_path / "x.zarr")
    put_index(path, holders)
    with pytest.raises(DatasetError, match=r"clip 'a', feature '(maps|table)': frame . has its value"):
        LatentSamples(LatentDataset.open(path), "train", NAMES, device=CPU)
    assert len(LatentSamples(LatentDataset.open(path), "val", NAMES, device=CPU)) == 2


def test_a_broken_value_names_the_sample_that_stores_it(tmp_path):
    path = write_shared(tmp_path / "x.zarr")
    file = path / "clips/a/table/c.0"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    samples = LatentSamples(LatentDataset.open(path), "train", NAMES, device=CPU)
    with pytest.raises(DatasetError, match="clip 'a', sample 0, feature 'table'"):
        samples.read(np.array([5]))
