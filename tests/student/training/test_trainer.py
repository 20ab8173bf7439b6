"""A step of the loop, looked at from within."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cache_schema.dataset.reader import LatentDataset
from student.loading.batches import LatentFrames
from student.orion_lite.losses import build_objectives
from student.training.distributed import join_processes
from student.training.trainer import Training

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim", "_unique2"}
"""Operators whose outcome the host needs, so that it would wait for a GPU."""


class Called(TorchDispatchMode):
    """Notes which operators run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.add(operator.overloadpacket.__name__)
        return operator(*args, **(kwargs or {}))


@pytest.fixture
def training(dataset_path, config, tmp_path):
    dataset = LatentDataset.open(dataset_path)
    needs = [spec.name for spec in dataset.manifest.features]
    recipe = config.model_copy(update={"ema_decay": 0.9, "term_warmup_steps": {"latent": 5}, "dropout": 0.1})
    return Training(
        join_processes(recipe, device="cpu", trackers=(), logs=tmp_path),
        dataset,
        tmp_path,
        recipe,
        objectives=build_objectives(recipe.objectives),
        frames=LatentFrames(dataset, "train", needs, mask="orion", device=torch.device("cpu")),
        held_out=None,
    )


def test_a_step_never_waits_for_the_device(training):
    rows = np.arange(8)
    with Called() as called:
        batch = training.frames.read(rows)
        told = training.take_step(rows, rows, batch, epoch=1)
    assert not called.names & WAITING
    assert {"_fused_adamw_", "mm", "_foreach_lerp_"} <= called.names
    assert told == []  # it is looked at when others are under way
    with Called() as called:
        torch.ones(1).item()
    assert called.names & WAITING


def test_the_planner_decodes_all_steps_at_once(training):
    seen = []
    training.model.ego_fut_decoder.register_forward_hook(lambda _, given, out: seen.append(given[0].shape))
    rows = np.arange(5)
    training.take_step(rows, rows, training.frames.read(rows), epoch=1)
    assert seen == [(6, 5, 64)]


def test_weights_without_decay_are_norms_and_biases(dataset_path, config, tmp_path):
    dataset = LatentDataset.open(dataset_path)
    recipe = config.model_copy(update={"decay": "matrices", "objectives": {"mimic": {}}})
    training = Training(
        join_processes(recipe, device="cpu", trackers=(), logs=tmp_path),
        dataset,
        tmp_path,
        recipe,
        objectives=build_objectives(recipe.objectives),
        frames=LatentFrames(
            dataset,
            "train",
            ["scene_queries", "ego_token", "ego_trajectory", "planning_token"],
            mask="complete",
            device=torch.device("cpu"),
        ),
        held_out=None,
    )
    decaying, free = training.adamw.param_groups
    assert (decaying["weight_decay"], free["weight_decay"]) == (1e-4, 0.0)
    assert all(weight.dim() >= 2 for weight in decaying["params"])
    assert all(weight.dim() == 1 for weight in free["params"])
    assert len(decaying["params"]) + len(free["params"]) == len(list(training.model.parameters()))
