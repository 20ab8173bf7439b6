"""Runs that are killed and resumed end as uninterrupted ones, to the last bit."""

import os
import random
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file

from cache_schema.errors import CheckpointError, DatasetError
from student.runs import checkpoint
from student.runs.presets import changed
from student.training.train import train
from tests.student.ends import assert_same_end
from tests.student.killed import train_with_kills
from tests.student.recipes import small

SMALL = small()
EVERYTHING = small(
    epochs=4,
    batch_size=4,
    checkpoint_every=3,
    ema_decay=0.9,
    schedule="cosine",
    warmup_steps=5,
    decay="matrices",
    losses__latent__warmup_steps=10,
)
"""All that has a state, dropout included; 32 steps."""


def test_killed_at_random_moments_a_run_ends_with_the_same_bits(dataset_path, tmp_path):
    moments = ["writing", "renamed", "logged", "1", "4", "7"]
    random.Random(5).shuffle(moments)
    train(dataset_path, tmp_path / "whole", EVERYTHING, trackers=())
    train_with_kills(dataset_path, tmp_path / "parts", EVERYTHING, moments)
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("shuffle", ["frames", "runs"])
def test_a_run_that_was_stopped_goes_on_from_the_middle_of_an_epoch(
    shuffle, dataset_path, tmp_path, monkeypatch
):
    recipe = changed(EVERYTHING, {"shuffle": shuffle})
    train(dataset_path, tmp_path / "whole", recipe, trackers=())
    saved = checkpoint.save

    def stopped(run, reached, *rest):
        saved(run, reached, *rest)
        if reached.step == 12:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(dataset_path, tmp_path / "parts", recipe, trackers=())
    monkeypatch.undo()
    stopped_at = checkpoint.restore(tmp_path / "parts").checkpoint
    assert (stopped_at.epoch, stopped_at.step, stopped_at.samples) == (1, 12, 16)
    train(dataset_path, tmp_path / "parts", recipe, trackers=())
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


@pytest.fixture(scope="module")
def shorter(dataset_path, tmp_path_factory):
    """Return the folder of a run of two epochs of four steps."""
    run = tmp_path_factory.mktemp("shorter") / "run"
    train(dataset_path, run, SMALL, trackers=())
    return run


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("checkpoint.json", "flip"),
        ("weights.safetensors", "flip"),
        ("weights.safetensors", "cut"),
        ("optimizer.safetensors", "gone"),
        ("SHA256SUMS", "flip"),
        ("SHA256SUMS", "cut"),
        ("SHA256SUMS", "gone"),
    ],
)
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(name, damage, shorter, tmp_path):
    run = shutil.copytree(shorter, tmp_path / "run")
    _damage(run / "checkpoints/step-00000008" / name, damage)
    with pytest.warns(UserWarning, match=r"step-00000008.* is damaged.*: going back to step-00000004"):
        reached, weights = checkpoint.read_checkpoint(run)
    assert reached.step == 4
    before = load_file(shorter / "checkpoints/step-00000004/weights.safetensors")
    assert all(torch.equal(weights[key], before[key]) for key in before)


def test_a_run_goes_on_from_the_checkpoint_before_and_ends_with_the_same_bits(
    dataset_path, shorter, tmp_path
):
    parts, whole = (shutil.copytree(shorter, tmp_path / name) for name in ("parts", "whole"))
    _damage(parts / "checkpoints/step-00000008/weights.safetensors", "flip")
    longer = changed(SMALL, {"epochs": 3})
    with pytest.warns(UserWarning, match="going back to step-00000004"):
        train(dataset_path, parts, longer, trackers=())
    train(dataset_path, whole, longer, trackers=())
    for run in (parts, whole):
        folders = [folder.name for folder in (run / "checkpoints").iterdir()]
        assert sorted(folders) == ["step-00000008", "step-00000012"]
    assert_same_end(whole, parts)


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(dataset_path, shorter, tmp_path):
    run = shutil.copytree(shorter, tmp_path / "run")
    for folder in (run / "checkpoints").iterdir():
        _damage(folder / "weights.safetensors", "cut")
    with pytest.raises(CheckpointError, match=r"no checkpoint of .*-00000008/weights.*-00000004/weights"):
        train(dataset_path, run, SMALL, trackers=())


@pytest.mark.parametrize("hours", [-7, 7])
def test_the_newest_checkpoint_is_that_of_the_last_step_by_any_clock(dataset_path, shorter, tmp_path, hours):
    parts, whole = (shutil.copytree(shorter, tmp_path / name) for name in ("parts", "whole"))
    for sign, step in ((1, "step-00000004"), (-1, "step-00000008")):
        then = time.time() + sign * hours * 3600
        for file in (parts / "checkpoints" / step, *(parts / "checkpoints" / step).iterdir()):
            os.utime(file, (then, then))
    assert checkpoint.read_checkpoint(parts)[0].step == 8
    longer = changed(SMALL, {"epochs": 3})
    for run in (parts, whole):
        assert train(dataset_path, run, longer, trackers=()) == (3, 12)
        kept = sorted(folder.name for folder in (run / "checkpoints").iterdir())
        assert kept == ["step-00000008", "step-00000012"]
    assert_same_end(whole, parts)


BY_HAND = (
    "step-best",
    "step-00000004-best",
    "step-00000008.bak",
    "step-99999999",
    "step-12",
    "step-0000000x",
)


def test_copies_of_ones_own_beside_the_checkpoints_are_neither_read_nor_removed(
    dataset_path, shorter, tmp_path
):
    run = shutil.copytree(shorter, tmp_path / "run")
    checkpoints = run / "checkpoints"
    for name in BY_HAND:
        shutil.copytree(checkpoints / "step-00000004", checkpoints / name)
    (checkpoints / "step-00000016").write_text("a note")
    (checkpoints / "step-00000020").symlink_to(shorter / "checkpoints/step-00000004")
    kept = {*BY_HAND, "step-00000016", "step-00000020"}
    assert checkpoint.read_checkpoint(run)[0].step == 8
    assert train(dataset_path, run, changed(SMALL, {"epochs": 3}), trackers=()) == (3, 12)
    assert {folder.name for folder in checkpoints.iterdir()} == kept | {"step-00000008", "step-00000012"}
    assert checkpoint.read_checkpoint(run)[0].step == 12


def test_a_checkpoint_that_was_moved_away_and_linked_is_gone_on_from_and_stays(
    dataset_path, shorter, tmp_path
):
    run = shutil.copytree(shorter, tmp_path / "run")
    elsewhere = (run / "checkpoints/step-00000008").rename(tmp_path / "elsewhere")
    (run / "checkpoints/step-00000008").symlink_to(elsewhere)
    assert train(dataset_path, run, changed(SMALL, {"epochs": 5}), trackers=()) == (5, 20)
    assert (elsewhere / "weights.safetensors").exists()


def test_steps_are_compared_as_numbers(shorter, tmp_path):
    run = shutil.copytree(shorter, tmp_path / "run")
    reached, model = checkpoint.read_checkpoint(run)[0], torch.nn.Linear(1, 1)
    for step in (99_999_999, 100_000_000):
        checkpoint.save(
            run, reached.model_copy(update={"step": step}), model, torch.optim.AdamW(model.parameters())
        )
    assert checkpoint.latest(run).name == "step-100000000"
    assert len([*(run / "checkpoints").iterdir()]) == 2


def _damage(file, how):
    content = bytearray(file.read_bytes())
    file.unlink()
    content[len(content) // 2] ^= 1
    if how != "gone":
        file.write_bytes(content[: len(content) // 2] if how == "cut" else content)


def test_a_run_whose_folder_was_replaced_writes_nothing_there(dataset_path, tmp_path, monkeypatch):
    run, saved = tmp_path / "run", checkpoint.save

    def replaced(*reached):
        run.rename(tmp_path / "away")
        (run / "checkpoints" / ".partial").mkdir(parents=True)  # another run is writing its checkpoint
        saved(*reached)

    monkeypatch.setattr(checkpoint, "save", replaced)
    with pytest.raises(DatasetError, match="was deleted, moved or replaced"):
        train(dataset_path, run, SMALL, trackers=())
    assert [file.relative_to(run).as_posix() for file in run.rglob("*")] == [
        "checkpoints",
        "checkpoints/.partial",
    ]
