import numpy as np
import pytest
import torch

from cache_schema.errors import RequestError
from cache_schema.features import FeatureSpec
from cache_schema.ledger import ClipInfo
from cache_schema.manifest import CodeIdentity, DataIdentity, Manifest, TeacherIdentity
from cache_schema.store import LatentDataset
from cache_schema.writer import DatasetWriter
from student.data import LatentFrames, shuffled

CPU = torch.device("cpu")
FEATURES = ("scene_queries", "ego_trajectory", "ego_trajectory_mask", "command", "frame_index")


@pytest.fixture
def dataset(dataset_path):
    return LatentDataset.open(dataset_path)


def test_batches_cover_every_frame_once_in_order_and_the_last_is_smaller(dataset):
    frames = LatentFrames(dataset, "train", FEATURES, mask="complete", device=CPU)
    assert len(frames) == 31
    order = shuffled(31, seed=0, epoch=1)
    seen = list(frames.batches(order, 8))
    assert [len(rows) for rows, _ in seen] == [8, 8, 8, 7]
    assert np.concatenate([rows for rows, _ in seen]).tolist() == order.tolist()
    assert frames.names(np.array([0, 15, 16, 30])) == ["clip-a 0", "clip-a 15", "clip-b 0", "clip-b 14"]


def test_a_batch_holds_what_was_stored(dataset):
    frames = LatentFrames(dataset, "train", FEATURES, mask="complete", device=CPU)
    batch = frames.read(np.array([17, 3]))
    stored = np.stack(
        [dataset.read("clip-b", "scene_queries")[1], dataset.read("clip-a", "scene_queries")[3]]
    )
    np.testing.assert_array_equal(batch["scene_queries"].numpy(), stored.astype(np.float32))
    assert batch["frame_index"].tolist() == [1, 3]
    assert {name: value.dtype for name, value in batch.items()} == {
        "scene_queries": torch.float32,
        "ego_trajectory": torch.float32,
        "ego_trajectory_mask": torch.bool,
        "command": torch.int64,
        "frame_index": torch.int64,
    }


class Counting(LatentDataset):
    """Keeps what is asked of it."""

    def __init__(self, path):
        super().__init__(path)
        self.asked = []

    def read(self, clip, feature, frames=None):
        self.asked.append((clip, feature))
        return super().read(clip, feature, frames)


@pytest.fixture(scope="module")
def paged(tmp_path_factory):
    """Two clips of a feature that fills a page a frame, and of one that does not."""
    manifest = Manifest(
        features=tuple(
            FeatureSpec(name=name, shape=(width,), axes=("channel",), dtype="float16", role="input")
            for name, width in (("page", 2048), ("small", 2047))
        ),
        teacher=TeacherIdentity(name="tiny", weights="random:0", precision="fp32"),
        data=DataIdentity(name="synthetic", licence="CC0-1.0", frame_rate_hz=10.0),
        code=CodeIdentity(teachonce="0", libraries={}),
    )
    path = tmp_path_factory.mktemp("paged") / "paged.zarr"
    with DatasetWriter(path, manifest, {}) as writer:
        for name, first in (("a", 0), ("b", 4)):
            number = np.arange(first, first + 4)[:, None]
            clip = writer.clip(ClipInfo(name=name, frames=4, split="train"))
            clip.append({"page": number + np.zeros(2048), "small": -number - np.zeros(2047)})
            clip.commit(wall_s=1.0)
    return path


@pytest.mark.parametrize(
    ("hold_bytes", "streamed"), [(8 * 4096, []), (8 * 4096 - 1, [("a", "page"), ("b", "page")])]
)
def test_large_features_stream_one_read_a_clip_and_small_ones_are_held(paged, hold_bytes, streamed):
    dataset = Counting(paged)
    everything = ["page", "small"]
    frames = LatentFrames(dataset, "train", everything, mask="complete", device=CPU, hold_bytes=hold_bytes)
    dataset.asked.clear()
    rows = np.array([6, 1, 3, 7, 1, 0])
    batch = frames.read(rows)
    assert sorted(dataset.asked) == streamed
    assert torch.equal(batch["page"], torch.tensor(rows).float()[:, None].expand(6, 2048))
    assert torch.equal(batch["small"], -torch.tensor(rows).float()[:, None].expand(6, 2047))


def test_orions_mask_forgets_the_truth_of_the_first_ten_frames_of_each_clip(dataset):
    rows = np.array([0, 9, 10, 16, 25, 26])
    known = [False, False, True, False, False, True]
    complete = LatentFrames(dataset, "train", FEATURES, mask="complete", device=CPU).read(rows)
    orion = LatentFrames(dataset, "train", FEATURES, mask="orion", device=CPU).read(rows)
    assert complete["ego_trajectory_mask"][:, 0].all()
    assert orion["ego_trajectory_mask"].any(dim=1).tolist() == known
    assert (orion["ego_trajectory"] != 0).flatten(1).any(dim=1).tolist() == known
    assert torch.equal(orion["ego_trajectory"][2], complete["ego_trajectory"][2])


def test_split_all_is_both_and_an_empty_one_is_refused(dataset, write, tmp_path):
    everything = LatentFrames(dataset, "all", ["command"], mask="complete", device=CPU)
    assert (len(everything), everything.clips) == (55, ("clip-a", "clip-b", "clip-c"))
    only = LatentDataset.open(write(tmp_path / "only.zarr", clips={"one": ("train", 3)}))
    with pytest.raises(RequestError, match="no committed clip of the split 'val'"):
        LatentFrames(only, "val", ["command"], mask="complete", device=CPU)


def test_every_epoch_has_an_order_of_its_own_which_the_seed_decides():
    first = shuffled(50, seed=3, epoch=1).tolist()
    assert sorted(first) == list(range(50))
    assert first == shuffled(50, seed=3, epoch=1).tolist()
    assert first != shuffled(50, seed=3, epoch=2).tolist() != shuffled(50, seed=4, epoch=1).tolist()


@pytest.mark.parametrize(
    ("frames", "batch", "steps"), [(234_769, 64, 3_669), (12_801, 32, 401), (12_832, 32, 401)]
)
def test_the_released_run_has_the_known_number_of_steps(dataset, frames, batch, steps):
    known = LatentFrames(dataset, "train", ["command"], mask="complete", device=CPU)
    rows = np.resize(np.arange(len(known)), frames)
    assert sum(1 for _ in known.batches(rows, batch)) == steps
