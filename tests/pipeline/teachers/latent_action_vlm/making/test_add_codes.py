"""Labels: of each frame, the codes of the three transitions that really followed."""

import shutil

import numpy as np
import pytest
import torch

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import DatasetError, RequestError
from cache_schema.format.features import FeatureSpec
from cache_schema.integrity.verify import verify
from cache_schema.storage.locks import hold
from pipeline.bench2drive.jpeg import read_jpeg
from pipeline.bench2drive.source import Bench2Drive
from pipeline.teachers.latent_action_vlm.making import add_codes as module
from pipeline.teachers.latent_action_vlm.making.add_codes import add_codes, starts_of
from pipeline.teachers.latent_action_vlm.making.learned_actions import LearnedActions
from pipeline.teachers.latent_action_vlm.making.train_actions import train_actions
from tests.pipeline.teachers.latent_action_vlm.making.conftest import FRAMES, few
from tests.pipeline.teachers.latent_action_vlm.making.datasets import write


@pytest.fixture
def source(driven):
    return Bench2Drive(driven)


@pytest.fixture(scope="module")
def others(brief, tmp_path_factory) -> LearnedActions:
    """Actions that were learned otherwise."""
    folder = tmp_path_factory.mktemp("others")
    return LearnedActions(train_actions(folder / "run", Bench2Drive(brief), few(seed="5")).file)


def seen(source, actions, clip, frame):
    """The codes of one transition, from its images alone."""
    opened = next(one for one in source.select().clips if one.name == clip).open()
    size = (actions.config.image_size,) * 2
    pair = [read_jpeg(opened.sample(n).images["CAM_FRONT"]).resize(size, 3) for n in (frame, frame + 10)]
    images = torch.from_numpy(np.stack([np.asarray(image) for image in pair]))
    return actions.codes(actions.observe(images)[None])[0].tolist()


@pytest.mark.parametrize("step", [1, 2])
def test_labels_are_the_codes_of_what_followed(step, driven, source, actions, tmp_path):
    path = write(tmp_path / "labelled.zarr", driven, step=step)
    report = add_codes(path, source, actions, batch_size=3)
    labelled = len(range(0, FRAMES - 30, step))
    assert (len(report.extended), report.labelled, report.failed) == (3, 3 * labelled, ())
    dataset = LatentDataset.open(path)
    for clip in dataset.clips:
        labels = dataset.read(clip, "code_labels")
        assert (labels.dtype, labels.shape) == (np.int8, (dataset.clip(clip).frames, 12))
        assert (labels[labelled:] == -1).all()
        for row in range(labelled):
            expected = [seen(source, actions, clip, row * step + later) for later in (0, 10, 20)]
            assert labels[row].tolist() == [code for codes in expected for code in codes]
    assert actions.sha256 in dataset.feature("code_labels").description
    assert dataset.feature("code_labels").role == "target"
    assert verify(path).problems == ()
    again = add_codes(path, source, actions)
    assert (again.extended, len(again.present)) == ((), 3)


def test_transitions_follow_each_other():
    later = np.array([2, 3, 4, -1, -1])
    assert starts_of(later, np.array([0, 1, 2]), 2).tolist() == [[0, 2], [1, -1], [2, -1]]


def test_clips_that_are_too_short_have_no_labels(clips_root, actions, tmp_path):
    path = write(tmp_path / "short.zarr", clips_root)
    assert add_codes(path, Bench2Drive(clips_root), actions).labelled == 0
    dataset = LatentDataset.open(path)
    assert all((dataset.read(clip, "code_labels") == -1).all() for clip in dataset.clips)


def test_clips_that_are_missing_or_broken_are_named_and_the_next_run_adds_them(
    driven, source, actions, others, tmp_path
):
    root, path = tmp_path / "data", write(tmp_path / "labelled.zarr", driven)
    shutil.copytree(driven, root)
    gone, broken, good = sorted((root / "v1").iterdir())
    shutil.rmtree(gone)
    (broken / "camera" / "rgb_front" / "00011.jpg").write_bytes(b"no JPEG")
    report = add_codes(path, Bench2Drive(root), actions)
    assert report.extended == (good.name,)
    reasons = {left_out.clip: left_out.reason for left_out in report.failed}
    assert "its raw clip is not in" in reasons[gone.name]
    assert "00011.jpg cannot be decoded" in reasons[broken.name]
    assert LatentDataset.open(path).manifest.feature("code_labels") is None

    # Other actions label the clip again; afterwards there are labels by one model alone.
    report = add_codes(path, source, others)
    assert (len(report.extended), report.present) == (3, ())
    assert verify(path).problems == ()
    with pytest.raises(RequestError, match=f"has labels already.*{others.sha256}"):
        add_codes(path, source, actions)


def test_a_run_that_was_stopped_goes_on(driven, source, actions, tmp_path, monkeypatch):
    path, extend = write(tmp_path / "labelled.zarr", driven), module.extend_clip

    def once(*arguments):
        monkeypatch.setattr(module, "extend_clip", stopped)
        return extend(*arguments)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "extend_clip", once)
    with pytest.raises(KeyboardInterrupt):
        add_codes(path, source, actions)
    monkeypatch.undo()
    report = add_codes(path, source, actions)
    assert (len(report.extended), len(report.present)) == (2, 1)
    assert verify(path).problems == ()


def test_a_raw_clip_that_is_another_one(driven, source, actions, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(driven, root)
    one, other, _ = sorted((root / "v1").iterdir())
    shutil.rmtree(one / "anno")
    shutil.copytree(other / "anno", one / "anno")
    report = add_codes(write(tmp_path / "labelled.zarr", driven), Bench2Drive(root), actions)
    assert [left_out.clip for left_out in report.failed] == [one.name]
    assert "elsewhere than in the dataset" in report.failed[0].reason


@pytest.mark.parametrize(("name", "shape"), [("codes", (10,)), ("code_logits", (12, 2048))])
def test_a_dataset_of_other_codes_is_refused(name, shape, driven, source, actions, tmp_path):
    axes = ("position", "code")[: len(shape)]
    spec = FeatureSpec(name=name, shape=shape, axes=axes, dtype="int16", role="target")
    path = write(tmp_path / "other.zarr", driven, target=spec)
    with pytest.raises(RequestError, match=rf"has {name} of shape"):
        add_codes(path, source, actions)


def test_a_dataset_that_another_run_writes_to(driven, source, actions, tmp_path):
    path = write(tmp_path / "held.zarr", driven)
    with hold(path), pytest.raises(DatasetError, match="is being written by another run"):
        add_codes(path, source, actions)
