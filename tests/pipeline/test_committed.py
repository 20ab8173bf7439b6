"""A second run compares what a clip was made from with what is there now."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import DatasetError
from cache_schema.integrity.verify import verify
from cli import app
from pipeline.bench2drive.source import Bench2Drive
from pipeline.bench2drive.splits import SPLIT_FILE
from pipeline.committed import FINGERPRINTS
from pipeline.extraction.estimate import plan
from pipeline.extraction.run import extract
from tests.toy.teacher import ToyTeacher

FRONT = "camera/rgb_front/00001.jpg"


class Glance(ToyTeacher):
    """A teacher of driving that sees no more of a frame than the size of its front image."""

    kind = "driving"

    def prepare(self, sample):
        if not hasattr(sample, "images"):
            return super().prepare(sample)  # an idle slot
        return super().prepare("x" * (sample.images["CAM_FRONT"].stat().st_size % 8))


@pytest.fixture
def root(clips_root: Path, tmp_path: Path) -> Path:
    return shutil.copytree(clips_root, tmp_path / "data")


@pytest.fixture
def dataset(root: Path, tmp_path: Path) -> Path:
    path = tmp_path / "x.zarr"
    assert extract(Bench2Drive(root).select(), Glance(), path).failed == ()
    return path


def clips(root: Path) -> list[Path]:
    return sorted((root / "v1").iterdir())


def again(root: Path, dataset: Path, split="all") -> tuple[dict[str, str], int]:
    """Return what a second run and a plan name, and how many clips were there."""
    before = {path: path.read_bytes() for path in dataset.glob("[cl]*/**/*") if path.is_file()}
    selection = Bench2Drive(root).select(split)
    report, cost = extract(selection, Glance(), dataset), plan(dataset, selection, Glance())
    assert cost.stale == report.failed
    assert cost.committed_clips == len(report.present)
    assert before == {path: path.read_bytes() for path in dataset.glob("[cl]*/**/*") if path.is_file()}
    return {clip.clip: clip.reason for clip in report.failed}, len(report.present)


def swap_sides(root: Path) -> tuple[str, str]:
    """Make the validation clip a training clip, and the first training clip one for validation."""
    (was_val,) = json.loads((root / SPLIT_FILE).read_text())["val"]
    now_val = next(clip.name for clip in clips(root) if clip.name not in was_val)
    (root / SPLIT_FILE).write_text(json.dumps({"val": [now_val]}))
    return was_val.removeprefix("v1/"), now_val


@pytest.mark.parametrize("split", ["all", "train", "val"])
def test_clips_that_changed_sides_are_named_whatever_is_selected(root, dataset, split):
    was_val, now_val = swap_sides(root)
    named, present = again(root, dataset, split)
    assert named == {
        was_val: "it is on the side train of the split, but the dataset holds it as val",
        now_val: "it is on the side val of the split, but the dataset holds it as train",
    }
    assert present == {"all": 1, "train": 1, "val": 0}[split]


def test_the_command_ends_with_2_and_says_what_to_do(root, tmp_path):
    path = tmp_path / "orion.zarr"
    assert CliRunner().invoke(app, ["extract", str(path), "--data", str(root)]).exit_code == 0
    was_val, _ = swap_sides(root)
    for command in ("extract", "plan"):
        done = CliRunner().invoke(app, [command, str(path), "--data", str(root)])
        assert done.exit_code == 2
        shown = "".join(done.output.split()).replace("│", "")
        assert was_val in shown
        assert "ledger/" in shown


def test_another_recording_of_equal_length_is_named(root, dataset):
    _, second, third = clips(root)
    shutil.rmtree(third)
    shutil.copytree(second, third)
    for file in sorted((third / "anno").iterdir())[4:]:
        file.unlink()  # third had 4 frames
    named, present = again(root, dataset)
    assert list(named) == [third.name]
    assert "raw files" in named[third.name]
    assert present == 2


@pytest.mark.parametrize("file", [FRONT, "anno/00001.json.gz"])
def test_a_replaced_file_is_named(root, dataset, file):
    replaced = clips(root)[0] / file
    replaced.write_bytes(replaced.read_bytes() + b"\0")
    assert list(again(root, dataset)[0]) == [clips(root)[0].name]


def test_what_does_not_change_the_clips_changes_nothing(root, dataset, tmp_path):
    for clip in clips(root):
        (clip / "anno/.DS_Store").touch()
        (clip / "camera/rgb_front/Thumbs.db").touch()
        (clip / FRONT).touch()
    moved = root.rename(tmp_path / "moved")
    elsewhere = dataset.rename(tmp_path / "elsewhere.zarr")
    assert again(moved, elsewhere) == ({}, 3)
    assert verify(elsewhere).problems == ()


def test_a_dataset_without_fingerprints_is_taken_as_it_is(root, dataset):
    (dataset / FINGERPRINTS).unlink()
    replaced = clips(root)[0] / FRONT
    replaced.write_bytes(replaced.read_bytes() + b"\0")
    assert again(root, dataset) == ({}, 3)


def test_a_clip_that_is_made_again_has_the_fingerprint_of_now(root, dataset):
    name, replaced = clips(root)[0].name, clips(root)[0] / FRONT
    replaced.write_bytes(replaced.read_bytes() + b"\0")
    (dataset / f"ledger/{name}.json").unlink()
    assert extract(Bench2Drive(root).select(), Glance(), dataset).committed == (name,)
    assert again(root, dataset) == ({}, 3)


def test_a_line_that_a_kill_cut_short_costs_no_other(root, dataset):
    file = dataset / FINGERPRINTS
    file.write_bytes(file.read_bytes()[:-20])
    named, present = again(root, dataset)
    assert (named, present) == ({}, 3)
    (dataset / f"ledger/{clips(root)[0].name}.json").unlink()
    extract(Bench2Drive(root).select(), Glance(), dataset)
    assert again(root, dataset) == ({}, 3)


def test_an_image_that_is_replaced_in_mid_run_is_named_now_and_later(root, tmp_path):
    victim = clips(root)[0] / FRONT

    class Meddling(Glance):
        def step(self, batch, state):
            victim.write_bytes(b"another image")
            return super().step(batch, state)

    path = tmp_path / "x.zarr"
    report = extract(Bench2Drive(root).select(), Meddling(), path)
    assert [clip.clip for clip in report.failed] == [clips(root)[0].name]
    assert "changed while it was extracted" in report.failed[0].reason
    assert list(again(root, path)[0]) == [clips(root)[0].name]


def test_a_link_in_the_place_of_the_file_is_not_followed(root, dataset, tmp_path):
    (dataset / FINGERPRINTS).unlink()
    (tmp_path / "mine").write_text("mine")
    (dataset / FINGERPRINTS).symlink_to(tmp_path / "mine")
    with pytest.raises(DatasetError, match="symbolic link"):
        extract(Bench2Drive(root).select(), Glance(), dataset)
    assert (tmp_path / "mine").read_text() == "mine"


def test_the_file_is_not_shared(root, dataset, tmp_path):
    done = CliRunner().invoke(app, ["card", str(dataset), "--licence", "cc0-1.0"])
    assert done.exit_code == 0, done.output
    assert CliRunner().invoke(app, ["push", str(dataset), f"file://{tmp_path}/shared"]).exit_code == 0
    assert LatentDataset.open(tmp_path / "shared").clips == LatentDataset.open(dataset).clips
    assert list((tmp_path / "shared").rglob(FINGERPRINTS)) == []


def test_a_teacher_without_fingerprints_of_its_source_is_as_ever(tmp_path):
    from tests.toy.source import Texts

    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("one\ntwo\n")
    for committed in (("a",), ()):
        report = extract(Texts(tmp_path / "texts").select(), ToyTeacher(), tmp_path / "x.zarr")
        assert (report.committed, report.failed) == (committed, ())
