"""Copies are byte for byte, and what does not belong together stays apart."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import DatasetError, IdentityError, RequestError
from cache_schema.format.ledger import ClipInfo
from cache_schema.integrity.verify import verify
from cache_schema.sharing.merge import merge
from tests.cache_schema.conftest import CLIPS, values_of
from tests.cache_schema.format_2 import CLIPS as FORMAT_2_CLIPS
from tests.cache_schema.format_2 import FEATURES as FORMAT_2_FEATURES
from tests.cache_schema.format_2 import HEADS, manifest_of, write_format_2
from tests.paths import ROOT


def digests(path: Path) -> dict[str, str]:
    dataset = LatentDataset.open(path)
    return {clip: dataset.entry(clip).digest for clip in dataset.clips}


@pytest.fixture
def write(tmp_path, manifest, assets):
    """``write(name, infos, **changes)``: a dataset of these clips, its manifest changed."""

    def write(name: str, infos, shift: int = 0, **changes) -> Path:
        path = tmp_path / f"{name}.zarr"
        with DatasetWriter(path, manifest.replace(**changes), assets) as writer:
            for info in infos:
                clip = writer.clip(info)
                clip.append(values_of(info.name, info.frames) | {"command": np.full(info.frames, shift)})
                clip.commit(wall_s=2.5)
        return path

    return write


def test_two_halves_make_the_whole(dataset, write, tmp_path):
    halves = [write("a", CLIPS[:1]), write("b", CLIPS[1:])]
    copied = merge(tmp_path / "out.zarr", halves)
    assert digests(tmp_path / "out.zarr") == digests(dataset)
    assert (copied.added, copied.present) == (tuple(clip.name for clip in CLIPS), ())
    assert verify(tmp_path / "out.zarr").problems == ()
    # The entry is kept whole, with who made the clip and how long that took.
    name = CLIPS[0].name
    entries = [LatentDataset.open(path).entry(name) for path in (tmp_path / "out.zarr", halves[0])]
    assert entries[0] == entries[1]
    np.testing.assert_array_equal(
        LatentDataset.open(tmp_path / "out.zarr").asset("heads")["scene.weight"],
        LatentDataset.open(dataset).asset("heads")["scene.weight"],
    )


def test_a_copy_is_no_link(write, tmp_path):
    source = write("a", CLIPS)
    merge(tmp_path / "out.zarr", [source])
    shutil.rmtree(source)
    assert verify(tmp_path / "out.zarr").problems == ()
    assert all(file.stat().st_nlink == 1 for file in (tmp_path / "out.zarr").rglob("*") if file.is_file())


def test_again_and_into_what_is_there(write, tmp_path):
    a, b = write("a", CLIPS[:1]), write("b", CLIPS)
    copied = merge(a, [b])
    assert (copied.added, copied.present) == ((CLIPS[1].name,), (CLIPS[0].name,))
    assert copied.nbytes == LatentDataset.open(b).entry(CLIPS[1].name).nbytes
    assert merge(a, [b]).added == ()
    assert digests(a) == digests(b)


def test_the_same_clip_with_other_content_is_named(write, tmp_path):
    a, b = write("a", CLIPS), write("b", CLIPS[1:], shift=1)
    with pytest.raises(IdentityError, match=rf"1 clips(.|\n)*{CLIPS[1].name}: in .*a\.zarr and in .*b\.zarr"):
        merge(tmp_path / "out.zarr", [a, b])
    assert not (tmp_path / "out.zarr").exists()
    with pytest.raises(IdentityError, match=CLIPS[1].name):
        merge(b, [a])
    assert digests(b).keys() == {CLIPS[1].name}


def test_another_identity_is_shown_field_by_field(write, manifest, tmp_path):
    a = write("a", CLIPS[:1])
    b = write("b", CLIPS[1:], teacher=manifest.teacher.model_copy(update={"weights": "random:1"}))
    with pytest.raises(IdentityError, match=r"teacher\.weights: 'random:0' and 'random:1'") as caught:
        merge(tmp_path / "out.zarr", [a, b])
    assert "features" not in caught.value.happened
    # Other libraries are no other identity.
    code = manifest.code.model_copy(update={"libraries": {"torch": "99"}})
    merge(tmp_path / "out.zarr", [a, write("c", CLIPS[1:], code=code)])


def test_nothing_to_merge(tmp_path):
    with pytest.raises(RequestError, match="nothing to merge"):
        merge(tmp_path / "out.zarr", [])


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "link"])
def test_a_damaged_file_is_not_copied(write, tmp_path, harm):
    source = write("a", CLIPS)
    file = source / "clips" / CLIPS[1].name / "token" / "c.0.0"
    content = bytearray(file.read_bytes())
    content[3] ^= 16
    file.unlink()
    if harm == "flip":
        file.write_bytes(content)
    elif harm == "cut":
        file.write_bytes(content[:-1])
    elif harm == "link":
        # To the very bytes that should be there: not even those.
        content[3] ^= 16
        (tmp_path / "elsewhere").write_bytes(content)
        file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"token/c\.0\.0"):
        merge(tmp_path / "out.zarr", [source])
    # What came before it is there, and what came half is not.
    assert digests(tmp_path / "out.zarr").keys() == {CLIPS[0].name}
    assert verify(tmp_path / "out.zarr").problems == ()


def test_a_damaged_asset_is_not_copied(write, tmp_path):
    source = write("a", CLIPS)
    file = source / "assets" / "heads.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DatasetError, match=r"heads\.safetensors"):
        merge(tmp_path / "out.zarr", [source])
    assert not (tmp_path / "out.zarr").exists()


def test_sigkill_in_the_middle_and_a_second_run(write, tmp_path):
    infos = [ClipInfo(name=f"Clip{n}_Town01_Route{n}_Weather0", frames=40, split="train") for n in range(6)]
    source, out = write("a", infos), tmp_path / "out.zarr"
    code = (
        "import sys, time; from pathlib import Path; from cache_schema.sharing.merge import merge\n"
        "from cache_schema.progress import Progress\n"
        "class Slow(Progress):\n"
        "    def advance(self, amount=1, status=''): time.sleep(0.1)\n"
        "merge(Path(sys.argv[2]), [Path(sys.argv[1])], progress=Slow())"
    )
    process = subprocess.Popen([sys.executable, "-c", code, source, out], cwd=ROOT)
    while len(list(out.glob("ledger/*.json"))) < 2:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= len(digests(out)) < 6
    assert merge(out, [source]).present != ()
    assert digests(out) == digests(source)
    assert verify(out).problems == ()


def test_halves_of_a_dataset_of_format_2(format_2, tmp_path):
    halves = [
        write_format_2(tmp_path / "a.zarr", FORMAT_2_CLIPS[:1]),
        write_format_2(tmp_path / "b.zarr", FORMAT_2_CLIPS[1:]),
    ]
    merge(tmp_path / "out.zarr", halves)
    assert digests(tmp_path / "out.zarr") == digests(format_2)
    assert verify(tmp_path / "out.zarr").problems == ()
    file = halves[0] / "clips" / "scene-1" / "tokens.shape" / "c.0.0"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DatasetError, match=r"tokens\.shape/c\.0\.0"):
        merge(tmp_path / "other.zarr", halves)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tags": ("city",)}, r"tags: \['city', 'weather'\] and \['city'\]"),
        ({"derivations": ()}, r"derivations\.wide: .* and None|derivations: .* and None"),
        ({"features": FORMAT_2_FEATURES[:-1]}, r"features\.frame_index: .* and None"),
    ],
)
def test_what_format_2_adds_is_part_of_the_identity(format_2, tmp_path, changes, field):
    other = manifest_of().replace(**changes)
    with DatasetWriter(tmp_path / "other.zarr", other, {"heads.safetensors": save(HEADS)}):
        pass
    with pytest.raises(IdentityError, match=field) as caught:
        merge(tmp_path / "out.zarr", [format_2, tmp_path / "other.zarr"])
    assert "format_version" not in caught.value.happened
