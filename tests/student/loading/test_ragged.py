"""Ragged features: by hand, and as batches of what the store holds."""

import shutil

import numpy as np
import pytest
import torch

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import DatasetError
from cache_schema.format.ledger import ClipInfo
from student.loading import loader
from student.loading.batches import LatentSamples
from student.loading.decode import unpack_ragged_triangles, unpack_triangles
from student.loading.ragged import Ragged, gather, spans
from tests.student.loading.manifests import manifest_of

CPU = torch.device("cpu")
FEATURES = (
    ("token_ids", (None,), "int32", "full"),
    ("attention", (None, None), "float16", "full"),
    ("embedding", (None, 3), "float32", "bfloat16"),
    ("maps", (2, None, None), "float16", "lower-triangle"),
    ("image", (None,), "uint8", "full"),
    ("square", (4, 4), "float32", "lower-triangle"),
    ("number", (), "int16", "full"),
)
LENGTHS = {"a": (3, 0, 5, 90), "b": (2, 7, 1)}


def values_of(rng, length):
    triangle = np.tril(rng.normal(size=(2, length, length)))
    return {
        "token_ids": rng.integers(0, 99, size=length),
        "attention": rng.normal(size=(length, 700)),
        "embedding": rng.normal(size=(length, 3)),
        "maps": triangle,
        "image": rng.integers(0, 256, size=2 * length),
        "square": np.tril(rng.normal(size=(4, 4))),
        "number": length,
    }


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    """Return a dataset of two clips whose samples differ in length; one is empty."""
    manifest = manifest_of(FEATURES)
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("ragged") / "ragged.zarr"
    with DatasetWriter(path, manifest, {}) as writer:
        for name, lengths in LENGTHS.items():
            samples = [values_of(rng, length) for length in lengths]
            clip = writer.clip(ClipInfo(name=name, frames=len(lengths), split="train"))
            clip.append(
                {
                    spec.name: [np.asarray(sample[spec.name], spec.dtype) for sample in samples]
                    for spec in manifest.features
                }
            )
            clip.commit(wall_s=1.0)
    return path


@pytest.mark.parametrize("resident", ["none", "ram", "device"])
@pytest.mark.parametrize("piece_bytes", [1, 2**20])
def test_batches_hold_what_was_stored_wherever_samples_stay(ragged, resident, piece_bytes, monkeypatch):
    monkeypatch.setattr(loader, "PIECE_BYTES", piece_bytes)
    dataset = LatentDataset.open(ragged)
    names = [name for name, *_ in FEATURES]
    samples = LatentSamples(dataset, "train", names, device=CPU, resident=resident)
    stored = {name: [value for clip in "ab" for value in dataset.read(clip, name)] for name in names}
    rows = np.array([6, 1, 3, 5, 0, 2, 4])
    for windows in ([[rows[:4]], [rows[4:]]], [[rows[:4], rows[4:]]]):
        for recycle in (False, True):
            for part, batch in samples.stream(windows, recycle=recycle):
                for name in names:
                    found = batch[name]
                    values = list(found.items()) if isinstance(found, Ragged) else list(found)
                    expected = [torch.from_numpy(np.asarray(stored[name][row])) for row in part]
                    for value, wanted in zip(values, expected, strict=True):
                        assert torch.equal(value, wanted.to(value.dtype)), name
    kinds = {name: batch[name].values.dtype for name in names if isinstance(batch[name], Ragged)}
    assert kinds == {
        "token_ids": torch.int64,
        "attention": torch.float32,
        "embedding": torch.float32,
        "maps": torch.float32,
        "image": torch.uint8,
    }


def test_large_ragged_values_are_read_sample_by_sample_and_small_ones_are_held(ragged):
    samples = LatentSamples(
        LatentDataset.open(ragged), "train", ["token_ids", "attention", "maps"], device=CPU
    )
    # Seven samples have 108 numbers, 108 rows of 1,400 bytes, and triangles of 17 kB: less than a page each.
    assert not samples._loader.reads_single_samples("token_ids")
    assert samples._loader.reads_single_samples("attention")
    assert not samples._loader.reads_single_samples("maps")


def test_items_and_padding():
    found = Ragged(torch.arange(8.0), torch.tensor([[2, 2], [0, 3], [1, 4]]))
    assert len(found) == 3
    assert [value.tolist() for value in found.items()] == [[[0, 1], [2, 3]], [], [[4, 5, 6, 7]]]
    assert found.padded(-1).tolist() == [
        [[0, 1, -1, -1], [2, 3, -1, -1]],
        [[-1] * 4, [-1] * 4],
        [[4, 5, 6, 7], [-1] * 4],
    ]
    assert Ragged(torch.empty(0), torch.empty(0, 2, dtype=torch.int64)).padded(0).shape == (0, 0, 0)


def test_neighbours_are_read_together():
    # Samples of 2, 3 and 0 elements of clip 4, one from its beginning again, and one of clip 5.
    clips, begins = np.array([4, 4, 4, 4, 5]), np.array([10, 12, 15, 0, 0])
    found = list(spans(clips, begins, np.array([2, 3, 0, 4, 1])))
    assert found == [
        (4, slice(10, 15), slice(0, 5)),
        (4, slice(0, 4), slice(5, 9)),
        (5, slice(0, 1), slice(9, 10)),
    ]


def test_samples_are_gathered_in_the_order_that_is_asked_for():
    values = torch.arange(10)
    begins, counts = np.array([7, 0, 4]), np.array([3, 2, 0])
    assert gather(values, begins, counts).tolist() == [7, 8, 9, 0, 1]
    into = torch.empty(5, dtype=torch.int64)
    gather(values, begins, counts, out=into)
    assert into.tolist() == [7, 8, 9, 0, 1]
    assert gather(values, begins[:0], counts[:0]).shape == (0,)


def test_triangles_are_filled_up_row_by_row():
    triangles = torch.tensor([[1.0, 2, 3, 4, 5, 6]])
    assert unpack_triangles(triangles, 3).tolist() == [[[1, 0, 0], [2, 3, 0], [4, 5, 6]]]
    packed = torch.tensor([1.0, 2, 3, 4, 5, 6, 7])
    shapes = torch.tensor([[1, 2, 2], [1, 0, 0], [4, 1, 1]])
    assert unpack_ragged_triangles(packed, shapes).tolist() == [1, 0, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("harm", ["flip", "gone"])
def test_a_ragged_sample_that_cannot_be_read_is_named(harm, ragged, tmp_path):
    path = shutil.copytree(ragged, tmp_path / "copy.zarr")
    samples = LatentSamples(LatentDataset.open(path), "train", ["attention"], device=CPU)
    file = next((path / "clips/b/attention").glob("c*"))
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.unlink()
    if harm == "flip":
        file.write_bytes(content)
    assert len(samples.read(np.array([3]))["attention"].item(0)) == 90
    with pytest.raises(DatasetError, match=r"clip 'b'.*'attention'"):
        samples.read(np.array([0, 5]))
