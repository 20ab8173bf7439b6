"""Runs on real datasets: by one process and two, killed and resumed, of everything that is trained."""

import os

import pytest
import torch
from safetensors.torch import load_file

from cache_schema.errors import RequestError
from student.runs import checkpoint
from student.runs.log import read_log
from student.runs.presets import preset
from student.training.train import train
from tests.student.drive_kd.datasets import CLIPS
from tests.student.ends import assert_same_end
from tests.student.killed import train_with_kills
from tests.student.pairs import train_in_pairs

SMALL = {"epochs": 2, "precision": "fp32", "learning_rate": 1e-3, "log_every": 1, "clip_norm": 1.0}
SAMPLES = sum(count for split, count in CLIPS.values() if split == "train")
STEPS = -(-SAMPLES // 4)
"""Of an epoch."""


def small(name="drive-kd", **changes):
    return preset(name, SMALL | {field.replace("__", "."): value for field, value in changes.items()})


def epochs(run):
    return [line for line in read_log(run) if line["kind"] == "epoch"]


@pytest.mark.parametrize(
    "name", ["drive-kd", "drive-kd-sum", "drive-kd-cosine", "drive-kd-single-reasoning", "drive-kd-ce"]
)
def test_presets_learn(name, teacher_path, student_path, tmp_path):
    config = small(name, epochs=4, learning_rate=5e-3)
    with_datasets = () if name == "drive-kd-ce" else (teacher_path,)
    result = train(student_path, tmp_path / "run", config, with_datasets=with_datasets, trackers=())
    assert result.step == 4 * STEPS
    first, *_, last = epochs(tmp_path / "run")
    assert last["train"].keys() == last["val"].keys() == {*config.losses, "total"}
    for term in ("answer_ce", "total"):
        assert last["train"][term] < first["train"][term] - 0.1, term
    assert last["val"]["total"] < first["val"]["total"]


@pytest.mark.parametrize("combination", ["sum", "agp"])
def test_attention_is_learned_where_it_weighs_enough(combination, teacher_path, student_path, tmp_path):
    # As released weighs, the answer's gradient is a hundred times as long.
    weights = {f"losses.{term}.weight": 5000 for term in ("perception", "reasoning", "planning")}
    options = {
        "student.weighting": "static",
        "student.combination": combination,
        "losses.answer_ce.weight": 0.01,
    }
    config = preset("drive-kd", SMALL | weights | options | {"epochs": 6, "learning_rate": 5e-3})
    train(student_path, tmp_path / "run", config, with_datasets=[teacher_path], trackers=())
    first, *_, last = epochs(tmp_path / "run")
    for term in ("perception", "reasoning", "planning"):
        assert last["train"][term] < 0.8 * first["train"][term], term


def test_everything_is_trained_where_pixels_are_read(teacher_path, pixels_path, tmp_path):
    config = small(student__trainable="all", epochs=1)
    train(teacher_path, tmp_path / "run", config, with_datasets=[pixels_path], trackers=())
    _, weights = checkpoint.read_checkpoint(tmp_path / "run")
    before = load_file(pixels_path / "assets/student.safetensors")
    assert weights.keys() == before.keys()
    changed_ = {name for name in before if not torch.equal(weights[name], before[name].float())}
    assert changed_ == before.keys()


def test_killed_and_resumed_a_run_ends_with_the_same_bits(teacher_path, student_path, tmp_path):
    config = small(epochs=3, checkpoint_every=2, ema_decay=0.9, student__alpha=0.5)
    train(teacher_path, tmp_path / "whole", config, with_datasets=[student_path], trackers=())
    moments = ["3", "writing", "logged", "1"]
    joined = f"{teacher_path}{os.pathsep}{student_path}"
    train_with_kills(joined, tmp_path / "parts", config, moments)
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    state = load_file(checkpoint.latest(tmp_path / "parts") / "gradients.safetensors")
    assert state["step.reasoning"] == 3 * STEPS  # AdamW's own count: it has gone on


PAIRS = {
    "per-sample": small(batch_size=5),
    "per-step": small(batch_size=5, student__projection="per-step"),
    "sum-static": small("drive-kd-sum", batch_size=5, student__weighting="static"),
}
"""The last batch of an epoch has one sample: one of two processes has none."""


def test_two_processes_end_as_one(teacher_path, student_path, tmp_path):
    joined = f"{teacher_path}{os.pathsep}{student_path}"
    printed, errors = train_in_pairs(joined, tmp_path, PAIRS)
    assert sorted(printed) == sorted(f"{name} {rank} 0" for name in PAIRS for rank in "01"), errors
    for name, config in PAIRS.items():
        train(teacher_path, tmp_path / f"{name}-one", config, with_datasets=[student_path], trackers=())
        runs = [checkpoint.restore(tmp_path / run) for run in (name, f"{name}-one")]
        two, one = (run.weights for run in runs)
        far = max(float((two[key] - one[key]).abs().max()) for key in one)
        assert far <= 2e-5, name  # of six steps of 1e-3 each
        states = [run.gradients for run in runs]
        assert states[0].keys() == states[1].keys()
        for key in states[1]:
            assert states[0][key].tolist() == pytest.approx(states[1][key].tolist(), rel=1e-4), (name, key)
        logs = [[line["train"] for line in epochs(tmp_path / run)] for run in (name, f"{name}-one")]
        for mine, other in zip(*logs, strict=True):
            assert mine == pytest.approx(other, rel=1e-4)


def test_a_micro_batch_of_several_samples_is_refused_where_each_must_be_known(
    teacher_path, student_path, tmp_path
):
    for options in ({}, {"student.combination": "sum"}, {"student.projection": "per-step"}):
        config = preset("drive-kd", SMALL | options | {"micro_batch_size": 2})
        with pytest.raises(RequestError, match="a micro-batch has 2 samples") as refused:
            train(teacher_path, tmp_path / "run", config, with_datasets=[student_path], trackers=())
        assert "micro_batch_size=1" in refused.value.repair
    ends = []
    for size in (1, 3):
        config = small(micro_batch_size=size, student__projection="per-step", student__weighting="static")
        run = tmp_path / str(size)
        train(teacher_path, run, config, with_datasets=[student_path], trackers=())
        ends.append(checkpoint.read_checkpoint(run)[1])
    assert max(float((ends[0][key] - ends[1][key]).abs().max()) for key in ends[0]) <= 2e-5


def test_a_compiled_network_is_refused(teacher_path, student_path, tmp_path):
    config = small(compile=True)
    with pytest.raises(RequestError, match="compiled") as refused:
        train(teacher_path, tmp_path / "run", config, with_datasets=[student_path], trackers=())
    assert "compile=false" in refused.value.repair
