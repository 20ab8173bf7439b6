"""Steps on a GPU: one that is not there, but for gradients; and whole steps where there is one."""

import inspect

import numpy as np
import pytest
import torch
from accelerate import PartialState

from cache_schema.dataset.reader import LatentDataset
from student.loading.batches import LatentSamples
from student.open_loop.policies import CAN_BUS, constant_velocity, plan, stand_still
from student.orion_lite.policies import FEATURES, policies
from student.runs.presets import changed
from student.training.distributed import join_processes
from student.training.trainer import Trainer
from tests.fake_gpu import fake_gpu
from tests.student.recipes import small

GPU = torch.device("cuda:0")
CONFIG = small(ema_decay=0.9, dropout=0.1, mask="orion", losses__latent__warmup_steps=5)


pytestmark = [
    # Fake tensors have no memory; a copy of one asks where it is.
    pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN:UserWarning"),
]


class Given:
    """A rule that has every gradient already."""

    separate = False

    def __call__(self, losses, weights, scale, context):
        for weight in weights:
            weight.grad = torch.empty_like(weight)

    def end_step(self, weights, reduce, context):
        pass

    def state_dict(self):
        return {}


@pytest.fixture
def samples(dataset_path):
    """The training samples, on the host."""
    features = CONFIG.make_system().required_features()
    return LatentSamples(LatentDataset.open(dataset_path), "train", features, device=torch.device("cpu"))


@pytest.fixture
def trainer_of(samples, tmp_path, monkeypatch):
    """Return a function that makes a trainer on the GPU."""
    monkeypatch.setattr(Trainer, "_freeze_unreached", lambda self: None)  # it needs gradients

    system = CONFIG.make_system()
    model = system.build(samples.dataset)

    def make():
        system.gradients, system.build = Given(), lambda dataset: model
        accelerator = join_processes(CONFIG.training, device="cpu", trackers=(), logs=tmp_path)
        PartialState().device = accelerator.state.device = GPU
        accelerator.device_placement = False
        return Trainer(
            accelerator, samples.dataset, tmp_path, CONFIG, system=system, samples=samples, held_out=None
        )

    return make


def test_a_step_mixes_no_devices_and_never_waits(samples, trainer_of):
    rows = np.arange(8)
    batch = samples.read(rows)
    with fake_gpu() as gpu:
        trainer = trainer_of()
        batch = {name: values.to(GPU) for name, values in batch.items()}
        for _ in range(2):
            gpu.called.clear(), gpu.waits.clear()
            assert trainer.take_step(rows, [(rows, batch)], epoch=1) == []
        assert gpu.waits == []
        assert {str(weight.device) for weight in trainer.model.parameters()} == {"cuda:0"}
        assert gpu.events == [GPU, GPU]
    # One pass of AdamW, which clips, and one of the average; the gradients are not multiplied by themselves.
    passes = [name for name in gpu.called if name.startswith(("_foreach", "_fused"))]
    assert passes == ["_foreach_add_", "_fused_adamw_", "_foreach_lerp_"]
    assert "mul_" not in gpu.called
    given = gpu.adamw[-1]
    assert given["weights"] == len(list(trainer.model.parameters()))
    assert given["grad_scale"].shape == given["lr"].shape == ()


def test_a_validation_step_mixes_no_devices_and_never_waits(samples, trainer_of):
    batch = samples.read(np.arange(8))
    with fake_gpu() as gpu:
        trainer = trainer_of()
        batch = {name: values.to(GPU) for name, values in batch.items()}
        trainer.model.eval()
        gpu.waits.clear()
        losses = trainer.system.validation_step(trainer.model, batch).losses
        assert {str(loss.device) for loss in losses.values()} == {"cuda:0"}
        assert gpu.waits == []


def test_an_evaluation_waits_at_its_end_and_for_no_batch(samples):
    class Sent(LatentSamples):
        def batches(self, order, size):
            yield from sent * 3

    planned = Sent(samples.dataset, "val", (*FEATURES, CAN_BUS), device=torch.device("cpu"))
    rows = np.arange(8)
    batch = planned.read(rows)
    student = CONFIG.make_system().build(samples.dataset).eval()
    compared = policies(student, samples.dataset, torch.device("cpu"))
    (teacher,) = inspect.getclosurevars(compared["teacher"]).nonlocals.values()
    with fake_gpu() as gpu:
        sent = [(rows, {name: values.to(GPU) for name, values in batch.items()})]
        student.to(GPU), teacher.to(GPU)
        gpu.waits.clear()
        plans = plan(planned, {**compared, "constant_velocity": constant_velocity, "still": stand_still})
        assert {name: found.shape for name, found in plans.positions.items()} == dict.fromkeys(
            ("student", "teacher", "constant_velocity", "still"), (24, 6, 2)
        )
        assert len(gpu.waits) == len(plans.positions) + len(plans.similarity) == 5


def test_a_batch_is_waited_for_on_its_own_gpu(samples):
    rows = np.arange(8)
    (buffer, _) = samples._fill(samples._buffer(samples._most([[rows]])), [rows])
    second = torch.device("cuda:1")
    with fake_gpu() as gpu:
        samples.device = second
        for name, values in buffer.stored.items():
            buffer.stored[name] = values.pin_memory()
        batch = samples._batch(samples._to_device(buffer), rows, [rows], {})
        assert {values.device for values in batch.values()} == {second}
        assert gpu.events == [second]
        assert gpu.waits == []


@pytest.fixture
def on_a_real_gpu(dataset_path, tmp_path):
    """Return a function that makes a trainer for changes of the configuration."""

    def make(name="run", device="cuda", **changes):
        config = changed(CONFIG, changes)
        dataset, system = LatentDataset.open(dataset_path), config.make_system()
        accelerator = join_processes(config.training, device=device, trackers=(), logs=tmp_path)
        held = LatentSamples(
            dataset, "train", system.required_features(), device=accelerator.device, resident="device"
        )
        run = tmp_path / name
        return Trainer(accelerator, dataset, run, config, system=system, samples=held, held_out=None)

    return make


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_whole_step_never_waits(precision, on_a_real_gpu):
    trainer, rows = on_a_real_gpu(precision=precision), np.arange(8)

    def step():
        trainer.take_step(rows, [(rows, trainer.samples.read(rows))], epoch=1)

    for _ in range(4):
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer.metrics.flush()


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{}, {"training.compile": True}])
def test_a_gpu_learns_what_a_cpu_learns(changes, on_a_real_gpu):
    ends, rows = [], np.arange(8)
    for device, own in (("cpu", {}), ("cuda", changes)):
        trainer = on_a_real_gpu(device, device, dropout=0.0, clip_norm=0.5, **own)
        for _ in range(4):
            trainer.take_step(rows, [(rows, trainer.samples.read(rows))], epoch=1)
        ends.append([step.losses | {"gradient": step.gradient} for step in trainer.metrics.flush()])
    for one, other in zip(*ends, strict=True):
        assert other == pytest.approx(one, rel=1e-3)
