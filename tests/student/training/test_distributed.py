"""Two processes that share every batch against one that has it to itself."""

import pytest
import torch

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import RequestError
from student.orion_lite.policies import teacher_planner
from student.runs import checkpoint
from student.runs.log import read_log
from student.runs.presets import changed
from student.training.train import train
from tests.student.pairs import train_in_pairs
from tests.student.recipes import small, with_losses

SHARED = small(dropout=0.0, batch_size=6, ema_decay=0.9, losses__latent__warmup_steps=10)
"""31 samples in batches of 6: the last has one sample, of which one process of two gets none."""
RECIPES = {
    "shared": SHARED,
    "micro": changed(SHARED, {"micro_batch_size": 2}),
    "mimic": with_losses(SHARED, {"mimic": {}}),
    "wild": with_losses(SHARED, {"mimic": {"weight": float("inf")}}),
}


@pytest.fixture(scope="module")
def pairs(dataset_path, tmp_path_factory):
    """Return the folder of runs by two processes, and what these printed."""
    folder = tmp_path_factory.mktemp("pairs")
    return folder, *train_in_pairs(dataset_path, folder, RECIPES)


@pytest.mark.parametrize("name", ["shared", "micro"])
def test_two_processes_end_where_one_ends_to_rounding(name, dataset_path, pairs, tmp_path):
    folder, printed, errors = pairs
    assert {f"{name} 0 0", f"{name} 1 0"} <= set(printed), errors
    train(dataset_path, tmp_path / "one", RECIPES["shared"], trackers=())
    one, two = checkpoint.restore(tmp_path / "one"), checkpoint.restore(folder / name)
    assert one.checkpoint.step == two.checkpoint.step == 12
    assert_close(two, one)
    for first, second in zip(read_log(tmp_path / "one"), read_log(folder / name), strict=True):
        assert first["step"] == second["step"]
        assert second["train"] == pytest.approx(first["train"], rel=1e-5, abs=1e-6)
        assert second.get("val", {}) == pytest.approx(first.get("val", {}), rel=1e-5, abs=1e-6)
        assert second.get("gradient", 0) == pytest.approx(first.get("gradient", 0), rel=1e-5)


def test_weights_that_no_loss_reaches_stay_the_same_in_two_processes(dataset_path, pairs, tmp_path):
    folder, printed, errors = pairs
    assert {"mimic 0 0", "mimic 1 0"} <= set(printed), errors
    train(dataset_path, tmp_path / "one", RECIPES["mimic"], trackers=())
    one, two = checkpoint.restore(tmp_path / "one"), checkpoint.restore(folder / "mimic")
    assert_close(two, one)
    teacher = teacher_planner(LatentDataset.open(dataset_path))
    assert all(torch.equal(end.weights[name], teacher[name]) for end in (one, two) for name in teacher)


def test_both_processes_stop_at_a_loss_that_is_not_finite_and_name_the_samples_of_both(pairs):
    folder, printed, _ = pairs
    assert {"wild 0 1", "wild 1 1"} <= set(printed)
    messages = [line for line in printed if "epoch 1, step 1: mimic is not finite for 6 of 6 samples" in line]
    assert messages  # by the one at least that ends first, and leaves the other alone
    assert checkpoint.latest(folder / "wild") is None


def assert_close(two, one):
    """Compare where two runs have come by sums in another order."""
    for name, value in one.moments.items():
        if name.startswith("exp_avg."):
            torch.testing.assert_close(two.moments[name], value, rtol=1e-4, atol=1e-6, msg=name)
    for name, value in one.weights.items():
        # Weights have come up to 0.01 far. Where a gradient is nothing but rounding, AdamW steps on it, too.
        torch.testing.assert_close(two.weights[name], value, rtol=0, atol=3e-4, msg=name)
        torch.testing.assert_close(two.average[name], one.average[name], rtol=0, atol=3e-4, msg=name)


def test_fp16_needs_a_gpu_and_bf16_does_not(dataset_path, config, tmp_path):
    with pytest.raises(RequestError, match="fp16 was asked for on a CPU"):
        train(dataset_path, tmp_path / "fp16", changed(config, {"precision": "fp16"}), trackers=())
    train(dataset_path, tmp_path / "fp32", config, trackers=())
    train(dataset_path, tmp_path / "bf16", changed(config, {"precision": "bf16"}), trackers=())
    ends = [read_log(tmp_path / name)[-1]["train"] for name in ("fp32", "bf16")]
    assert ends[0] != ends[1]
    assert ends[1]["total"] == pytest.approx(ends[0]["total"], rel=0.05)
    assert {value.dtype for value in checkpoint.restore(tmp_path / "bf16").weights.values()} == {
        torch.float32
    }
