"""A step of the loop, observed from within."""

import functools

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from cache_schema.dataset.reader import LatentDataset
from student.loading.batches import LatentSamples
from student.runs import checkpoint
from student.runs.log import read_log
from student.runs.presets import changed
from student.training import trainer as training_loop
from student.training.distributed import compile_whole, join_processes
from student.training.gradients import SumOfLosses
from student.training.train import train
from student.training.trainer import Trainer
from tests.student.recipes import small, with_losses

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim", "_unique2"}
"""Operators whose result the host needs, so that it would wait for a GPU."""


class Called(TorchDispatchMode):
    """Notes which operators run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.add(operator.overloadpacket.__name__)
        return operator(*args, **(kwargs or {}))


def trainer_of(config, dataset_path, folder, features=None):
    dataset = LatentDataset.open(dataset_path)
    system = config.make_system()
    return Trainer(
        join_processes(config.training, device="cpu", trackers=(), logs=folder),
        dataset,
        folder,
        config,
        system=system,
        samples=LatentSamples(
            dataset, "train", features or system.required_features(), device=torch.device("cpu")
        ),
        held_out=None,
    )


@pytest.fixture
def trainer(dataset_path, tmp_path):
    config = small(ema_decay=0.9, dropout=0.1, mask="orion", losses__latent__warmup_steps=5)
    return trainer_of(config, dataset_path, tmp_path)


def test_a_step_never_waits_for_the_device(trainer):
    rows = np.arange(8)
    with Called() as called:
        batch = trainer.samples.read(rows)
        read = trainer.take_step(rows, [(rows, batch)], epoch=1)
    assert not called.names & WAITING
    assert {"_fused_adamw_", "mm", "_foreach_lerp_"} <= called.names
    # The gradient of an index is a tensor of zeros first: of weights, gigabytes.
    assert "select_backward" not in called.names
    assert read == []  # its numbers are read some steps later
    with Called() as called:
        torch.ones(1).item()
    assert called.names & WAITING


@pytest.fixture
def graphs():
    """Count the graphs that are compiled."""
    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_step_is_two_graphs_and_learns_the_same(
    precision, dataset_path, tmp_path, monkeypatch, graphs
):
    # A compiler would take minutes; the graph is the same.
    monkeypatch.setattr(training_loop, "compile_whole", functools.partial(compile_whole, backend="aot_eager"))
    rows, ends = np.arange(8), []
    for compiled in (False, True):
        config = changed(small(dropout=0.0, precision=precision), {"training.compile": compiled})
        trainer = trainer_of(config, dataset_path, tmp_path / str(compiled))
        batch = trainer.samples.read(rows)
        for _ in range(3):
            trainer.take_step(rows, [(rows, batch)], epoch=1)
        ends.append([step.losses for step in trainer.metrics.flush()])
        assert graphs() == 2 * compiled  # the network, and the terms of its loss
    for one, other in zip(*ends, strict=True):
        assert other == pytest.approx(one, rel=1e-5 if precision == "fp32" else 2**-8)


def test_a_compiled_network_is_one_graph_below_the_exchange_of_gradients(dataset_path, tmp_path, graphs):
    meeting = f"file://{tmp_path}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    try:
        trainer = trainer_of(small(), dataset_path, tmp_path / "run")
        exchanging = DistributedDataParallel(trainer.model)
        compile_whole(trainer.model, trainer.accelerator.device, backend="aot_eager")
        batch = trainer.samples.read(np.arange(8))
        exchanging(batch["scene_queries"], batch["ego_token"]).offsets.sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert graphs() == 1


def test_the_planner_decodes_all_steps_at_once(trainer):
    seen = []
    trainer.model.ego_fut_decoder.register_forward_hook(lambda _, given, out: seen.append(given[0].shape))
    rows = np.arange(5)
    trainer.take_step(rows, [(rows, trainer.samples.read(rows))], epoch=1)
    assert seen == [(6, 5, 64)]


def test_weights_without_decay_are_norms_and_biases(dataset_path, tmp_path):
    trainer = trainer_of(with_losses(small(decay="matrices"), {"mimic": {}}), dataset_path, tmp_path)
    decaying, free = trainer.adamw.param_groups
    assert (decaying["weight_decay"], free["weight_decay"]) == (1e-4, 0.0)
    assert all(weight.dim() >= 2 for weight in decaying["params"])
    assert all(weight.dim() == 1 for weight in free["params"])
    assert len(decaying["params"]) + len(free["params"]) == len(list(trainer.model.parameters()))


def test_micro_batches_add_up_to_the_whole_batch(dataset_path, tmp_path):
    """Gradients, losses and noise are those of one forward pass, to rounding."""
    ends = []
    for size in (None, 3):
        config = small(dropout=0.0, ema_decay=0.9, epochs=1, micro_batch_size=size)
        train(dataset_path, tmp_path / str(size), config, trackers=())
        ends.append((checkpoint.restore(tmp_path / str(size)), read_log(tmp_path / str(size))))
    (whole, log), (parts, parts_log) = ends
    assert parts.checkpoint.step == whole.checkpoint.step == 4
    for name, value in whole.moments.items():
        torch.testing.assert_close(parts.moments[name], value, rtol=1e-4, atol=1e-6, msg=name)
    for line, other in zip(log, parts_log, strict=True):
        assert other["train"] == pytest.approx(line["train"], rel=1e-5, abs=1e-6)


class Noted(SumOfLosses):
    """A rule that notes the gradient at the end of every step, and doubles it."""

    def __init__(self):
        self.found = []

    def end_step(self, weights, reduce, context):
        assert reduce(weights[0].grad) is weights[0].grad  # of one process
        self.found.append((context.step, context.positions.tolist(), [w.grad.clone() for w in weights]))
        for weight in weights:
            weight.grad *= 2


def noted(dataset_path, folder, rows, **training):
    """Take a step; return what its rule has noted, and the norm of the gradient after it."""
    trainer = trainer_of(small(dropout=0.0, batch_size=5, **training), dataset_path, folder)
    trainer.system.gradients = Noted()
    parts = trainer._parts(rows)
    trainer.take_step(rows, [(part, trainer.samples.read(part)) for part in parts], epoch=1)
    (step,) = trainer.metrics.flush()
    (found,) = trainer.system.gradients.found
    return found, step


@pytest.mark.parametrize("size", [None, 2])
def test_a_rule_ends_every_step_before_its_gradient_is_clipped(size, dataset_path, tmp_path):
    (step, positions, gradients), numbers = noted(
        dataset_path, tmp_path, np.arange(3, 8), micro_batch_size=size
    )
    assert (step, positions) == (0, [0, 1, 2, 3, 4])
    assert numbers.gradient == pytest.approx(2 * torch.nn.utils.get_total_norm(gradients).item(), rel=1e-6)


def test_a_smaller_last_batch_counts_as_a_whole_one_or_by_its_samples(dataset_path, tmp_path):
    rows = np.arange(3)  # of 5
    (_, _, mean), first = noted(dataset_path, tmp_path / "mean", rows)
    (_, _, part), second = noted(dataset_path, tmp_path / "part", rows, partial_batch="fraction")
    for one, other in zip(mean, part, strict=True):
        torch.testing.assert_close(other, one * 3 / 5)
    assert first.losses == second.losses
    full = np.arange(5)
    ends = [
        noted(dataset_path, tmp_path / f"full-{kind}", full, partial_batch=kind)[0][2]
        for kind in ("mean", "fraction")
    ]
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_a_step_takes_no_more_micro_batches_than_it_has(dataset_path, tmp_path):
    trainer = trainer_of(small(micro_batch_size=3), dataset_path, tmp_path)
    rows = np.arange(8)
    parts = [(part, trainer.samples.read(part)) for part in (rows[:3], rows[3:6], rows[6:], rows[:3])]
    left = iter(parts)
    trainer.take_step(rows, left, epoch=1)
    assert [part.tolist() for part, _ in left] == [[0, 1, 2]]
    (step,) = trainer.metrics.flush()
    assert (step.samples, trainer.step) == (8, 1)
