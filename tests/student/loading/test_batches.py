import shutil

import numpy as np
import psutil
import pytest
import torch

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import DatasetError, RequestError
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import CodeIdentity, DataIdentity, Manifest, TeacherIdentity
from student.device import free_bytes
from student.loading import loader
from student.loading.batches import LatentSamples
from tests.student.loading.manifests import manifest_of

CPU = torch.device("cpu")
FEATURES = ("scene_queries", "ego_trajectory", "ego_trajectory_mask", "command", "frame_index")


@pytest.fixture
def dataset(dataset_path):
    return LatentDataset.open(dataset_path)


def test_batches_cover_every_sample_once_in_order_and_the_last_is_smaller(dataset):
    samples = LatentSamples(dataset, "train", FEATURES, device=CPU)
    assert len(samples) == 31
    order = np.random.default_rng(0).permutation(31)
    seen = list(samples.batches(order, 8))
    assert [len(rows) for rows, _ in seen] == [8, 8, 8, 7]
    assert np.concatenate([rows for rows, _ in seen]).tolist() == order.tolist()
    assert samples.names(np.array([0, 15, 16, 30])) == ["clip-a 0", "clip-a 15", "clip-b 0", "clip-b 14"]


def test_a_batch_holds_what_was_stored(dataset):
    samples = LatentSamples(dataset, "train", FEATURES, device=CPU)
    batch = samples.read(np.array([17, 3]))
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


@pytest.mark.parametrize(
    "written",
    [
        "../here/d.zarr",
        "./d.zarr/",
        "gone/../d.zarr",
        "link/../d.zarr",
        "link/a b%20#?&\u00fc.zarr",
        "d.zarr/../../elsewhere/in/a b%20#?&\u00fc.zarr",
        "~/in/a b%20#?&\u00fc.zarr",
        "file://{tmp}/here/../here/d.zarr",
        "file://{tmp}/elsewhere/in/a%20b%2520%23%3F&%C3%BC.zarr",
        "d.zarr/.",
    ],
)
def test_samples_are_read_however_the_path_of_their_dataset_is_written(
    written, dataset_path, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    shutil.copytree(dataset_path, tmp_path / "here/d.zarr")
    shutil.copytree(dataset_path, tmp_path / "elsewhere/in/a b%20#?&\u00fc.zarr")
    shutil.copytree(dataset_path, tmp_path / "elsewhere/d.zarr")
    (tmp_path / "here/link").symlink_to(tmp_path / "elsewhere/in")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    opened = LatentDataset.open(written.format(tmp=tmp_path))
    batch = LatentSamples(opened, "train", FEATURES, device=CPU).read(np.array([17]))
    expected = opened.read("clip-b", "scene_queries")[1]
    np.testing.assert_array_equal(batch["scene_queries"][0].numpy(), expected.astype(np.float32))


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Two clips of features in every encoding: single frames can be read of those with a page a frame."""
    features = (
        ("page", (2048,), "float16", "full"),
        ("small", (2047,), "float16", "full"),
        ("half", (2, 2048), "float32", "bfloat16"),
        ("eighth", (64, 64), "float16", "int8-per-channel"),
        ("count", (), "uint16", "full"),
    )
    manifest = manifest_of(features)
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("encoded") / "encoded.zarr"
    with DatasetWriter(path, manifest, {}) as writer:
        for name, frames in (("a", 4), ("b", 5)):
            values = {spec.name: rng.normal(size=(frames, *spec.shape)) for spec in manifest.features}
            values["count"] = np.arange(frames) + 65_000
            clip = writer.clip(ClipInfo(name=name, frames=frames, split="train"))
            clip.append(values)
            clip.commit(wall_s=1.0)
    return path


@pytest.mark.parametrize("resident", ["none", "ram", "device"])
def test_every_encoding_gives_what_the_store_gives_wherever_samples_stay(encoded, resident):
    dataset = LatentDataset.open(encoded)
    names = [spec.name for spec in dataset.manifest.features]
    samples = LatentSamples(dataset, "train", names, device=CPU, resident=resident)
    rows = np.array([6, 1, 3, 7, 0, 8, 2])
    batches = list(samples.stream([[rows[:4]], [rows[4:]]]))
    windowed = list(samples.stream([[rows[:4], rows[4:]]], recycle=True))
    assert [part.tolist() for part, _ in batches] == [[6, 1, 3, 7], [0, 8, 2]]
    for name in names:
        everything = np.concatenate([dataset.read(clip, name) for clip in ("a", "b")])
        got = torch.cat([batch[name] for _, batch in batches])
        # int8 is not rounded to the feature's float16 on its way to float32.
        torch.testing.assert_close(
            got, torch.from_numpy(everything[rows].astype(got.numpy().dtype)), rtol=2**-11, atol=1e-7
        )
        assert torch.equal(windowed[-1][1][name], batches[-1][1][name])


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_samples_that_do_not_fit_are_refused_before_any_is_read(device, encoded, tmp_path, monkeypatch):
    path = shutil.copytree(encoded, tmp_path / "copy.zarr")
    for file in path.glob("clips/*/page/c*"):
        file.unlink()
    free = 9 * 2048 * 2 - 1  # for nine samples of "page" as stored, and one byte too few
    if device == "cpu":
        memory = psutil.virtual_memory()._replace(available=free)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    else:
        asked = {torch.device(device): (free, 2 * free)}
        monkeypatch.setattr(torch.cuda, "mem_get_info", asked.__getitem__)
    with pytest.raises(RequestError) as refusal:
        LatentSamples(
            LatentDataset.open(path), "train", ["page"], device=torch.device(device), resident="device"
        )
    what, expected, repair = str(refusal.value).splitlines()
    assert f"9 samples take 36,864 bytes, and {device} has 36,863 bytes free" in what
    assert "room for all" in expected
    assert "--resident none" in repair
    assert ("--resident ram" in repair) is (device != "cpu")


def test_the_memory_of_a_container_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("student.device.CGROUP", tmp_path)
    (tmp_path / "memory.stat").write_text("anon 300\nfile 500\n")
    for limit, free in (("1000", 700), ("max", 10_000), (str(2**60), 10_000)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        memory = psutil.virtual_memory()._replace(available=10_000)
        monkeypatch.setattr(psutil, "virtual_memory", lambda memory=memory: memory)
        assert free_bytes(CPU) == free


def test_large_features_are_read_sample_by_sample_and_small_ones_are_held(encoded, tmp_path):
    path = shutil.copytree(encoded, tmp_path / "copy.zarr")
    dataset = LatentDataset.open(path)
    names = [spec.name for spec in dataset.manifest.features]
    samples = LatentSamples(dataset, "train", names, device=CPU)
    rows = np.array([6])
    before = samples.read(rows)
    # A byte of another frame: one that is not read does not matter, one that is held is not read again.
    for feature in ("page", "small"):
        file = next((path / "clips/b" / feature).glob("c*"))
        content = bytearray(file.read_bytes())
        content[0] ^= 1
        file.write_bytes(content)
    after = samples.read(rows)
    assert all(torch.equal(before[name], after[name]) for name in names)


@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_a_sample_that_cannot_be_read_stops_the_loop_and_is_named(harm, tmp_path):
    path = tmp_path / "paged.zarr"
    dataset = LatentDataset.open(_paged(path))
    samples = LatentSamples(dataset, "train", ["page"], device=CPU)
    file = next((path / "clips/two/page").glob("c*"))
    content = bytearray(file.read_bytes())
    file.unlink()
    if harm == "flip":
        content[2 * 4100 + 7] ^= 1  # of frame 2: 4,096 bytes and a checksum are a frame
        file.write_bytes(content)
    elif harm == "cut":
        file.write_bytes(content[:4100])
    seen = []
    with pytest.raises(DatasetError, match=r"clip 'two'.*'page'") as raised:
        seen.extend(rows for rows, _ in samples.batches(np.arange(12), 3))
    assert len(seen) == 2
    if harm == "flip":
        assert "sample 2" in str(raised.value)


def _paged(path):
    """Write two clips of six frames, a page each."""
    manifest = Manifest(
        features=(FeatureSpec(name="page", shape=(2048,), axes=("channel",), dtype="float16", role="input"),),
        teacher=TeacherIdentity(name="tiny", weights="random:0", precision="fp32"),
        data=DataIdentity(name="synthetic", licence="CC0-1.0", frame_rate_hz=10.0),
        code=CodeIdentity(teachonce="0", libraries={}),
    )
    with DatasetWriter(path, manifest, {}) as writer:
        for name in ("one", "two"):
            clip = writer.clip(ClipInfo(name=name, frames=6, split="train"))
            clip.append({"page": np.random.default_rng(0).normal(size=(6, 2048))})
            clip.commit(wall_s=1.0)
    return path


def test_split_all_is_both_and_an_empty_one_is_refused(dataset, write, tmp_path):
    everything = LatentSamples(dataset, "all", ["command"], device=CPU)
    assert (len(everything), everything.clips) == (55, ("clip-a", "clip-b", "clip-c"))
    only = LatentDataset.open(write(tmp_path / "only.zarr", clips={"one": ("train", 3)}))
    with pytest.raises(RequestError, match="no committed clip of the split 'val'"):
        LatentSamples(only, "val", ["command"], device=CPU)


def test_what_is_held_is_read_piece_by_piece(encoded, monkeypatch):
    monkeypatch.setattr(loader, "PIECE_BYTES", 20_000)  # two samples of 8,192 bytes
    dataset = LatentDataset.open(encoded)
    whole = loader.Loader(dataset, ["a", "b"], ["half"]).whole("half")
    stored = np.concatenate([dataset.stored(clip, "half")["half"] for clip in ("a", "b")])
    np.testing.assert_array_equal(whole.numpy().view(np.uint16), stored)
