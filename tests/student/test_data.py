import numpy as np
import pytest
import torch

from cache_schema.errors import RequestError
from cache_schema.store import LatentDataset
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


@pytest.mark.parametrize("hold_bytes", [0, 2**30])
def test_a_batch_holds_what_was_stored_held_in_memory_or_not(dataset, hold_bytes):
    frames = LatentFrames(dataset, "train", FEATURES, mask="complete", device=CPU, hold_bytes=hold_bytes)
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
def test_the_released_run_has_the_known_number_of_steps(dataset, frames, batch, steps, monkeypatch):
    known = LatentFrames(dataset, "train", ["command"], mask="complete", device=CPU)
    monkeypatch.setattr(known, "read", lambda rows: {})
    assert sum(1 for _ in known.batches(np.arange(frames), batch)) == steps
