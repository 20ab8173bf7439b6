"""From raw clips to a dataset by the command line: latent actions, and the camera strip of students."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cache_schema.dataset.reader import LatentDataset
from cache_schema.format.ledger import Ledger
from cache_schema.integrity.verify import verify
from cli import app
from pipeline.bench2drive.source import Bench2Drive
from pipeline.bench2drive.strip import COLUMNS
from pipeline.teachers.latent_action_vlm.presets import LATENTVLA_TINY
from tests.forked import Forked

OPTIONS = ("--teacher", "latentvla-tiny", "--inputs", "camera_strip_256", "--slots", "2", "--device", "cpu")


def arguments(path: Path, root: Path, *more: str) -> list[str]:
    return ["extract", str(path), "--data", str(root), *OPTIONS, *more]


def teachonce(*command: object) -> str:
    done = CliRunner().invoke(app, list(map(str, command)))
    assert done.exit_code == 0, done.output
    return done.stdout


def digests(path: Path) -> dict[str, str]:
    ledger = Ledger(path)
    return {clip: ledger.read(clip).digest for clip in ledger.clips()}


@pytest.fixture(scope="module")
def undisturbed(clips_root: Path, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "latents.zarr"
    assert "3 clips and 19 frames" in teachonce(*arguments(path, clips_root))
    return path


def test_the_dataset_holds_what_the_teacher_computes_of_every_frame(undisturbed, clips_root):
    assert verify(undisturbed).problems == ()
    dataset = LatentDataset.open(undisturbed)
    teacher = LATENTVLA_TINY.load(None, device="cpu")
    assert dataset.manifest.teacher == teacher.identity
    for clip in Bench2Drive(clips_root).select().clips:
        opened = clip.open()
        for frame in range(0, clip.samples, 3):
            # As there were two slots, and a clip's place decides which is its own.
            inputs = [None, None]
            inputs[clip.index % 2] = teacher.prepare(opened.sample(frame))
            values, _ = teacher.step(teacher.collate(inputs), teacher.begin(2))
            for spec in teacher.features:
                stored = dataset.read(clip.name, spec.name)[frame]
                np.testing.assert_array_equal(stored, values[spec.name][clip.index % 2].numpy())


def test_the_dataset_holds_the_strip_of_every_frame(undisturbed, clips_root):
    dataset = LatentDataset.open(undisturbed)
    (spec,) = (spec for spec in dataset.manifest.features if spec.name == "camera_strip")
    assert (spec.role, spec.shape, spec.dtype) == ("input", (64, 256, 3), "uint8")
    for clip in Bench2Drive(clips_root).select().clips:
        stored, opened = dataset.read(clip.name, "camera_strip"), clip.open()
        for frame in range(clip.samples):
            images = [np.asarray(Image.open(opened.sample(frame).images[camera])) for camera in COLUMNS]
            joined = np.concatenate([images[0][:, 384:1216], images[1], images[2][:, 384:1216]], axis=1)
            strip = Image.fromarray(joined[42:858]).resize((256, 64), Image.Resampling.BICUBIC)
            # Another decoder may round a pixel of a JPEG otherwise.
            np.testing.assert_allclose(stored[frame].astype(int), np.asarray(strip, dtype=int), atol=2)


def test_a_killed_run_goes_on_to_the_same_bits(undisturbed, clips_root, tmp_path):
    path = tmp_path / "killed.zarr"
    process = Forked("-m", "cli", *arguments(path, clips_root))
    while not any((path / ".partial").glob("*/*/zarr.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(digests(path)) < 3
    teachonce(*arguments(path, clips_root))
    assert digests(path) == digests(undisturbed)
    assert verify(path).problems == ()


def test_workers_of_a_cluster_store_the_same_bits(undisturbed, clips_root, tmp_path):
    path = tmp_path / "cluster.zarr"
    teachonce(*arguments(path, clips_root, "--workers", "1"))
    assert digests(path) == digests(undisturbed)


def test_a_dataset_with_a_strip_is_no_dataset_without(undisturbed, clips_root):
    plain = [part for part in arguments(undisturbed, clips_root) if not part.startswith("camera_strip")]
    plain.remove("--inputs")
    done = CliRunner().invoke(app, plain)
    assert done.exit_code == 2
    assert "camera_strip" in done.output


def test_the_plan_counts_the_strip(clips_root, tmp_path):
    shown = teachonce("plan", tmp_path / "x.zarr", "--data", clips_root, *OPTIONS[:4])
    assert "49,152" in shown  # 256 x 64 x 3
    done = CliRunner().invoke(
        app, ["plan", str(tmp_path / "x.zarr"), "--data", str(clips_root), "--inputs", "strip"]
    )
    assert done.exit_code == 2
    assert "no input 'strip'" in done.output


def test_a_clip_that_lacks_an_image_is_left_out_alone(undisturbed, clips_root, tmp_path):
    """Also one that only the strip reads."""
    clips = sorted((clips_root / "v1").iterdir())
    root = tmp_path / "data"
    (root / "v1").mkdir(parents=True)
    for file in clips_root.iterdir():
        if file.is_file():
            (root / file.name).symlink_to(file)
    for clip in clips:
        for file in sorted(clip.rglob("*.*")):
            if clip == clips[1] and file.parent.name == "rgb_front_left" and file.name == "00002.jpg":
                continue
            place = root / "v1" / file.relative_to(clips_root / "v1")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file)
    path = tmp_path / "x.zarr"
    done = CliRunner().invoke(app, [*arguments(path, root), "--set", "cameras=CAM_FRONT"])
    assert done.exit_code == 2
    assert "rgb_front_left/00002.jpg does not exist" in done.output.replace("\n", "")
    assert set(digests(path)) == {clips[0].name, clips[2].name}
