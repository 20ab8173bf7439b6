"""The loop on real clips, a real store and the real architecture at tiny width."""

import contextlib
import dataclasses
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import ClipError, DatasetError, IdentityError
from cache_schema.format.ledger import Ledger
from cache_schema.integrity.verify import verify
from cli import app
from pipeline.bench2drive.source import Bench2Drive, Bench2DriveClip, OpenBench2DriveClip
from pipeline.extraction.estimate import plan
from pipeline.extraction.run import extract
from pipeline.extraction.worker import computed_by
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM
from pipeline.teachers.protocol import is_compiled
from tests.forked import Forked
from tests.recorded_progress import RecordedProgress


@pytest.fixture(scope="module")
def teacher():
    return ORION_TINY_RANDOM.load(None, device="cpu")


def digests(path: Path) -> dict[str, str]:
    ledger = Ledger(path)
    return {clip: ledger.read(clip).digest for clip in ledger.clips()}


@pytest.fixture(scope="module")
def undisturbed(clips_root: Path, teacher, tmp_path_factory) -> Path:
    """All clips, two slots, no disturbance."""
    path = tmp_path_factory.mktemp("undisturbed") / "latents.zarr"
    report = extract(Bench2Drive(clips_root).select(), teacher, path, slots=2)
    assert len(report.committed) == 3
    assert report.failed == ()
    assert report.frames == 19
    return path


@pytest.fixture
def broken_root(clips_root: Path, tmp_path: Path) -> Path:
    root = tmp_path / "broken"
    shutil.copytree(clips_root, root)
    return root


def clip_folders(root: Path) -> list[Path]:
    return sorted((root / "v1").iterdir())


def test_the_dataset_is_whole_and_holds_what_was_promised(undisturbed, clips_root):
    assert verify(undisturbed).problems == ()
    dataset = LatentDataset.open(undisturbed)
    assert [dataset.clip(name).split for name in dataset.clips] == [
        clip.split for clip in Bench2Drive(clips_root).select().clips
    ]
    assert dataset.manifest.teacher.weights == "random:0"
    assert dataset.manifest.data.name.startswith("synthetic")
    for clip in Bench2Drive(clips_root).select().clips:
        for name, values in clip.open().ground_truth().items():
            np.testing.assert_array_equal(dataset.read(clip.name, name), values)


def test_lock_step_equals_one_clip_at_a_time(undisturbed, clips_root, teacher, tmp_path):
    """Clips of 9, 6 and 4 frames in two slots, so that one slot is taken over in mid-run."""
    alone = tmp_path / "alone.zarr"
    extract(Bench2Drive(clips_root).select(), teacher, alone, slots=1)
    together, one = LatentDataset.open(undisturbed), LatentDataset.open(alone)
    for clip in one.clips:
        for spec in one.manifest.features:
            # One unit in the last place of fp16, which is what rounding in fp32 may turn into.
            np.testing.assert_allclose(
                together.read(clip, spec.name).astype(np.float64),
                one.read(clip, spec.name).astype(np.float64),
                rtol=2**-10,
                atol=2e-5,
                err_msg=f"{clip} {spec.name}",
            )


@dataclasses.dataclass(frozen=True)
class NotedClip:
    """A clip that says when it is opened; everything else is the clip's own."""

    clip: Bench2DriveClip
    events: list[str]

    def __getattr__(self, name: str) -> object:
        return getattr(self.clip, name)

    def open(self) -> OpenBench2DriveClip:
        self.events.append(f"open {self.clip.index}")
        return self.clip.open()


def test_a_clip_is_opened_during_a_step_of_the_one_before(
    undisturbed, clips_root, teacher, tmp_path, monkeypatch
):
    """Of 9, 6 and 4 frames in two slots: clips 0 and 2 in the first one, clip 1 in the second one."""
    events: list[str] = []
    step = type(teacher).step

    def noted(self, batch, state):
        events.append("step")
        return step(self, batch, state)

    monkeypatch.setattr(type(teacher), "step", noted)
    selection = Bench2Drive(clips_root).select()
    clips = tuple(NotedClip(clip, events) for clip in selection.clips)
    path = tmp_path / "noted.zarr"
    extract(dataclasses.replace(selection, clips=clips), teacher, path, slots=2)
    begun, later = events[:3], events[3:]
    assert {*begun[:2]} == {"open 0", "open 1"}
    assert begun[2] == "step"
    assert later.count("open 2") == 1
    assert later.index("open 2") < clips[0].samples - 1
    assert digests(path) == digests(undisturbed)


def test_images_that_are_shrunk_where_the_teacher_computes_give_the_same_digests(
    broken_root, teacher, tmp_path
):
    """As on a GPU, though this is a CPU; of two clips, of two frames each."""
    for clip in clip_folders(broken_root):
        for file in sorted((clip / "anno").iterdir())[2:]:
            file.unlink()
    shutil.rmtree(clip_folders(broken_root)[2])
    shrinking = ORION_TINY_RANDOM.load(None, device="cpu")
    shrinking.shrink_on = torch.device("cpu")
    for one, path in ((teacher, tmp_path / "whole.zarr"), (shrinking, tmp_path / "shrunk.zarr")):
        assert extract(Bench2Drive(broken_root).select(), one, path, slots=2).frames == 4
    assert digests(tmp_path / "shrunk.zarr") == digests(tmp_path / "whole.zarr")


@pytest.mark.gpu
def test_a_gpu_computes_the_same_bits_twice_and_on_any_gpu_of_the_machine(undisturbed, clips_root, tmp_path):
    paths = []
    for number in range(torch.cuda.device_count()):
        teacher = ORION_TINY_RANDOM.load(None, device=f"cuda:{number}")
        for turn in ("first", "second"):
            paths.append(tmp_path / f"{number}-{turn}.zarr")
            report = extract(Bench2Drive(clips_root).select(), teacher, paths[-1], slots=2)
            assert report.failed == ()
    assert all(digests(path) == digests(paths[0]) for path in paths)
    on_gpu, on_cpu = LatentDataset.open(paths[0]), LatentDataset.open(undisturbed)
    for clip in on_cpu.clips:
        ours, theirs = (dataset.read(clip, "planning_token") for dataset in (on_gpu, on_cpu))
        # Rounding changes less than a thousandth; one image of the frame before, of six, a twentieth.
        np.testing.assert_allclose(ours.astype(np.float64), theirs.astype(np.float64), rtol=0, atol=0.01)


def test_a_second_run_does_nothing(undisturbed, clips_root, teacher):
    before = digests(undisturbed)
    report = extract(Bench2Drive(clips_root).select(), teacher, undisturbed, slots=2)
    assert (report.frames, report.committed, len(report.present)) == (0, (), 3)
    assert digests(undisturbed) == before


def test_half_first_and_the_rest_later_gives_the_same_digests(undisturbed, clips_root, teacher, tmp_path):
    path = tmp_path / "halves.zarr"
    extract(Bench2Drive(clips_root).select("val"), teacher, path, slots=2)
    extract(Bench2Drive(clips_root).select("train"), teacher, path, slots=2)
    assert digests(path) == digests(undisturbed)


def test_a_dataset_that_goes_on_by_another_processor_is_warned_of_once(clips_root, teacher, tmp_path):
    path = tmp_path / "moved.zarr"
    clips, progress = Bench2Drive(clips_root), RecordedProgress()
    extract(clips.select("val"), teacher, path, progress=progress)
    extract(dataclasses.replace(clips.select("train"), clips=clips.select("train").clips[:1]), teacher, path)
    assert progress.messages == []
    ledger = Ledger(path)
    for clip in ledger.clips():
        ledger.commit(ledger.read(clip).model_copy(update={"writer": "elsewhere, NVIDIA H100 80GB HBM3"}))
    extract(clips.select(), teacher, path, progress=progress)
    (warning,) = progress.messages
    assert "was computed by a CPU, clips before it by NVIDIA H100 80GB HBM3" in warning
    assert verify(path).problems == ()


def test_an_entry_says_which_gpus_computed_and_whether_they_ran_compiled_layers():
    assert computed_by([], compiled=True) is None
    assert computed_by(["NVIDIA H200", "NVIDIA H200"], compiled=False) == "NVIDIA H200"
    assert (
        computed_by(["NVIDIA H200", "NVIDIA A100"], compiled=True) == "NVIDIA A100 and NVIDIA H200, compiled"
    )
    assert is_compiled(ORION_TINY_RANDOM.load(None, device="cpu", compile=True))
    assert not is_compiled(ORION_TINY_RANDOM.load(None, device="cpu"))


@pytest.mark.gpu
def test_an_entry_names_the_gpu_that_computed_its_clip(clips_root, tmp_path):
    path = tmp_path / "gpu.zarr"
    extract(Bench2Drive(clips_root).select(), ORION_TINY_RANDOM.load(None, device="cuda"), path)
    assert {Ledger(path).read(clip).gpu for clip in Ledger(path).clips()} == {torch.cuda.get_device_name()}


def test_the_plan_is_what_the_dataset_becomes(undisturbed, clips_root, tmp_path):
    cost = plan(tmp_path / "none.zarr", Bench2Drive(clips_root).select(), ORION_TINY_RANDOM)
    assert (cost.clips, cost.frames, cost.hours_left()) == (3, 19, None)
    files = [f for part in ("clips/*", "ledger") for f in undisturbed.glob(f"{part}/**/*") if f.is_file()]
    assert cost.files == len(files)
    dataset = LatentDataset.open(undisturbed)
    stored = sum(
        dataset.read(clip, spec.name).nbytes for clip in dataset.clips for spec in dataset.manifest.features
    )
    assert cost.nbytes == stored
    assert not (tmp_path / "none.zarr").exists()


def test_the_plan_of_a_half_done_dataset(clips_root, teacher, tmp_path):
    path = tmp_path / "half.zarr"
    report = extract(Bench2Drive(clips_root).select("val"), teacher, path)
    cost = plan(path, Bench2Drive(clips_root).select(), ORION_TINY_RANDOM)
    assert (cost.committed_clips, cost.committed_frames) == (1, report.frames)
    assert cost.frames_per_second is not None
    assert cost.hours_left() == pytest.approx((19 - report.frames) / cost.frames_per_second / 3600)
    assert cost.hours_left(workers=8) == pytest.approx(cost.hours_left() / 8)
    # The clips of a run share its time.
    ledger = Ledger(path)
    (entry,) = map(ledger.read, ledger.clips())
    assert cost.frames_per_second == pytest.approx(report.frames / entry.wall_s)
    assert entry.wall_s <= report.wall_s


def arguments(path: Path, root: Path) -> list[str]:
    return ["extract", str(path), "--data", str(root), "--slots", "2", "--teacher", "orion-tiny-random"]


def start(path: Path, root: Path) -> Forked:
    return Forked("-m", "cli", *arguments(path, root))


def wait_for(condition, process: Forked) -> None:
    """Wait until a clip is half done, as the disk shows it."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


def test_sigkill_in_mid_clip_and_a_second_run_give_the_same_digests(undisturbed, clips_root, tmp_path):
    path = tmp_path / "killed.zarr"
    for clip in ("first", "second"):
        process = start(path, clips_root)
        wait_for(lambda: any((path / ".partial").glob("*/*/zarr.json")), process)
        if clip == "second":
            wait_for(lambda: any((path / "ledger").glob("*.json")), process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert digests(path).items() < digests(undisturbed).items()
    finished = CliRunner().invoke(app, arguments(path, clips_root))
    assert finished.exit_code == 0, finished.output
    assert "were already there" in finished.stdout.replace("\n", " ")
    assert digests(path) == digests(undisturbed)
    assert verify(path).problems == ()


def test_ctrl_c_stops_with_a_word_and_loses_nothing(undisturbed, clips_root, tmp_path):
    path = tmp_path / "interrupted.zarr"
    process = start(path, clips_root)
    wait_for(lambda: any((path / ".partial").glob("*/*/zarr.json")), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "the same command goes on from there" in err
    assert verify(path).problems == ()
    finished = CliRunner().invoke(app, arguments(path, clips_root))
    assert finished.exit_code == 0, finished.output
    assert digests(path) == digests(undisturbed)


def test_two_runs_at_once_leave_no_torn_clip(undisturbed, clips_root, tmp_path):
    path = tmp_path / "both.zarr"
    first = start(path, clips_root)
    wait_for(lambda: (path / ".lock").exists() and (path / ".lock").stat().st_size, first)
    first.send_signal(signal.SIGSTOP)  # so that it is still at work when the second comes
    second = start(path, clips_root)
    _, err = second.communicate()
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 2, err
    assert f"is being written by another run (process {first.pid}" in err
    first.communicate()
    assert first.returncode == 0
    assert digests(path) == digests(undisturbed)


def test_a_truncated_image_leaves_out_its_clip_alone(undisturbed, broken_root, teacher, tmp_path):
    victim = clip_folders(broken_root)[1]
    image = victim / "camera" / "rgb_back" / "00003.jpg"
    image.write_bytes(image.read_bytes()[:1000])
    report = extract(Bench2Drive(broken_root).select(), teacher, tmp_path / "x.zarr", slots=2)
    assert [failure.clip for failure in report.failed] == [victim.name]
    assert "rgb_back/00003.jpg cannot be decoded" in report.failed[0].reason
    expected = digests(undisturbed)
    del expected[victim.name]
    assert digests(tmp_path / "x.zarr") == expected
    assert verify(tmp_path / "x.zarr").problems == ()


def test_exit_code_2_and_a_table_name_what_was_left_out(broken_root, tmp_path):
    victim = clip_folders(broken_root)[0]
    (victim / "camera" / "rgb_front" / "00001.jpg").unlink()
    (broken_root / "v1" / "Nonsense" / "anno").mkdir(parents=True)
    done = CliRunner().invoke(app, arguments(tmp_path / "x.zarr", broken_root))
    assert done.exit_code == 2
    assert "why it was left out" in done.stderr
    assert victim.name[:20] in done.stderr
    assert "Nonsense" in done.stderr
    assert len(digests(tmp_path / "x.zarr")) == 2


def test_three_failures_in_a_row_stop_the_run(broken_root, teacher, tmp_path):
    # A fourth clip, which would be the last.
    shutil.copytree(clip_folders(broken_root)[0], broken_root / "v1" / "ZZZ_Town01_Route1_Weather1")
    for clip in clip_folders(broken_root)[:3]:
        shutil.rmtree(clip / "camera" / "rgb_front")
    report = extract(Bench2Drive(broken_root).select(), teacher, tmp_path / "x.zarr")
    assert report.gave_up  # one clip was not tried
    assert len(report.failed) == 3
    assert digests(tmp_path / "x.zarr") == {}


def test_a_broken_annotation_names_file_and_clip(broken_root, teacher, tmp_path):
    victim = clip_folders(broken_root)[2]
    file = sorted((victim / "anno").iterdir())[1]
    file.write_bytes(b"not gzip")
    report = extract(Bench2Drive(broken_root).select(), teacher, tmp_path / "x.zarr", slots=2)
    assert [failure.clip for failure in report.failed] == [victim.name]
    assert file.name in report.failed[0].reason


def test_an_empty_data_root_is_a_clear_error(tmp_path):
    with pytest.raises(ClipError, match="no clips"):
        Bench2Drive(tmp_path).select()


def test_three_failures_of_three_are_no_giving_up(broken_root, teacher, tmp_path):
    for clip in clip_folders(broken_root):
        shutil.rmtree(clip / "camera" / "rgb_front")
    report = extract(Bench2Drive(broken_root).select(), teacher, tmp_path / "x.zarr")
    assert len(report.failed) == 3
    assert not report.gave_up  # there was nothing left to try


class NanTeacher:
    """ORION with a NaN at one frame of one clip."""

    kind = "driving"

    def __init__(self, teacher, clip: str) -> None:
        self.teacher, self.clip = teacher, clip
        self.features, self.identity = teacher.features, teacher.identity
        self.prepare, self.collate = teacher.prepare, teacher.collate
        self.begin, self.assets = teacher.begin, teacher.assets

    def step(self, batch, state):
        outputs, state = self.teacher.step(batch, state)
        for row, (clip, time_s) in enumerate(zip(batch.clips, batch.timestamp_s.tolist(), strict=True)):
            if clip == self.clip and time_s == pytest.approx(0.2):
                outputs["planning_token"][row, 5] = float("nan")
        return outputs, state


def test_a_nan_from_the_teacher_is_refused_by_name(undisturbed, clips_root, teacher, tmp_path):
    victim = clip_folders(clips_root)[0].name
    clips = Bench2Drive(clips_root).select()
    report = extract(clips, NanTeacher(teacher, victim), tmp_path / "x.zarr", slots=2)
    assert [failure.clip for failure in report.failed] == [victim]
    assert "'planning_token', frame 2" in report.failed[0].reason
    expected = digests(undisturbed)
    del expected[victim]
    assert digests(tmp_path / "x.zarr") == expected
    # The next run, with a sound teacher, mends it.
    extract(Bench2Drive(clips_root).select(), teacher, tmp_path / "x.zarr", slots=2)
    assert digests(tmp_path / "x.zarr") == digests(undisturbed)


def test_another_teacher_is_refused(undisturbed, clips_root):
    import dataclasses

    other = dataclasses.replace(ORION_TINY_RANDOM, random_seed=1).load(None, device="cpu")
    with pytest.raises(IdentityError, match=r"teacher\.weights: 'random:0' there, 'random:1' now"):
        extract(Bench2Drive(clips_root).select(), other, undisturbed)


def test_a_clip_that_was_half_unpacked_when_it_was_extracted_is_named(broken_root, teacher, tmp_path):
    victim = clip_folders(broken_root)[0]
    spare = victim / "anno" / "00008.json.gz"
    whole = spare.read_bytes()
    spare.unlink()
    path = tmp_path / "x.zarr"
    extract(Bench2Drive(broken_root).select(), teacher, path, slots=2)
    spare.write_bytes(whole)
    report = extract(Bench2Drive(broken_root).select(), teacher, path, slots=2)
    assert [failure.clip for failure in report.failed] == [victim.name]
    assert "it has 9 frames, but the dataset holds it with 8" in report.failed[0].reason
    assert len(report.present) == 2


class BrokenTeacher(NanTeacher):
    """ORION whose every step raises an exception that is no clip's fault."""

    def step(self, batch, state):
        raise MemoryError("out of GPU memory")


def test_a_teacher_that_fails_for_good_ends_the_run(clips_root, teacher, tmp_path):
    with pytest.raises(MemoryError, match="out of GPU memory"):
        extract(Bench2Drive(clips_root).select(), BrokenTeacher(teacher, ""), tmp_path / "x.zarr", slots=2)


def test_a_disk_that_refuses_a_commit_ends_the_run(clips_root, teacher, tmp_path):
    """The folder that a clip would be renamed into is gone, as after an unmount."""
    path = tmp_path / "x.zarr"

    class Unmounting(NanTeacher):
        def step(self, batch, state):
            shutil.rmtree(path / "clips", ignore_errors=True)
            return self.teacher.step(batch, state)

    with pytest.raises(DatasetError, match="refuses"):
        extract(Bench2Drive(clips_root).select(), Unmounting(teacher, ""), path, slots=2)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of a few megabytes, which really fills."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_a_clear_error_and_loses_nothing(
    undisturbed, clips_root, teacher, small_disk, tmp_path
):
    path = small_disk / "x.zarr"
    ballast = small_disk / "ballast"
    extract(Bench2Drive(clips_root).select("val"), teacher, path, slots=2)
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        while True:
            file.write(bytes(4096))
    before = digests(path)
    assert len(before) == 1
    with pytest.raises(DatasetError, match=r"No space left on device(.|\n)*committed clips are safe"):
        extract(Bench2Drive(clips_root).select(), teacher, path, slots=2)
    assert digests(path) == before
    ballast.unlink()
    extract(Bench2Drive(clips_root).select(), teacher, path, slots=2)
    assert digests(path) == digests(undisturbed)
    assert verify(path).problems == ()
