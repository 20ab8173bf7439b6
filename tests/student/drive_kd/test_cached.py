"""Learning from the dataset is learning from the teacher itself, to the rounding of what is stored."""

import numpy as np
import pytest
import torch

from cache_schema.dataset.join import open_dataset
from student.drive_kd.system import DriveKdSystem
from student.loading.batches import LatentSamples
from student.runs.config import TrainingConfig
from student.step import StepContext
from student.training.gradients import separate_gradients
from student.training.optim import adamw
from tests.student.drive_kd.datasets import CLIPS, values_of, write_teacher
from tests.student.drive_kd.recorded import META, ragged, relative

TRAINED = [(clip, n) for clip, (split, count) in CLIPS.items() if split == "train" for n in range(count)]


@pytest.fixture(scope="module")
def half_path(tmp_path_factory):
    return write_teacher(tmp_path_factory.mktemp("half") / "teacher.zarr", dtype="float16")


def system():
    weights = {"answer_ce": 1.0, "perception": 40.0, "reasoning": 60.0, "planning": 40.0}
    pi = {name: [1.0, 1.0, 1.0] for name in ("perception", "reasoning", "planning")}
    return DriveKdSystem(
        {"pi": pi, "weighting": "gradnorm"}, {name: {"weight": weight} for name, weight in weights.items()}
    )


class Online:
    """Batches whose attention comes from the teacher, in float32, with nothing stored."""

    def read(self, rows):
        (row,) = rows
        clip, number = TRAINED[row]
        sample, holder = (values_of(clip)[n] for n in (number, number - number % 2))
        values = {name: torch.as_tensor(np.asarray(value)) for name, value in sample.items()}
        values |= {
            name: torch.as_tensor(holder[name]) for name in ("attention_groups_prefix", "image_embeddings")
        }
        return {
            name: ragged(value.float() if value.is_floating_point() else value.long())
            if value.dim()
            else value.long()[None]
            for name, value in values.items()
        }


def cached(paths):
    dataset = open_dataset(*paths)
    return LatentSamples(dataset, "train", system().required_features(), device=torch.device("cpu"))


def context(row):
    return StepContext(0, row, samples=1, positions=np.array([0]), device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("stored", "of_losses", "of_gradients"), [("half", 2e-4, 5e-4), ("float", 1e-6, 1e-6)]
)
def test_losses_and_gradients(stored, of_losses, of_gradients, half_path, teacher_path, student_path):
    paths = [half_path if stored == "half" else teacher_path, student_path]
    model = system().build(open_dataset(*paths)).train()
    weights = list(model.parameters())
    sources = cached(paths), Online()
    assert len(sources[0]) == len(TRAINED)
    for row in range(len(TRAINED)):
        both = [
            system().training_step(model, source.read(np.array([row])), context(row)) for source in sources
        ]
        (found, expected) = (output.losses for output in both)
        gradients = [separate_gradients(output.losses, weights, lambda loss: loss) for output in both]
        for name in expected:
            assert relative(found[name], expected[name]) <= of_losses, name
            mine, other = (torch.cat([g.flatten() for g in of[name] if g is not None]) for of in gradients)
            assert relative(mine, other) <= of_gradients, name


@pytest.mark.parametrize(("stored", "tolerance"), [("half", 2e-4), ("float", 1e-6)])
def test_a_run(stored, tolerance, half_path, teacher_path, student_path):
    paths = [half_path if stored == "half" else teacher_path, student_path]
    logs = [losses_of_a_run(source, paths) for source in (cached(paths), Online())]
    for mine, other in zip(*logs, strict=True):
        assert mine == pytest.approx(other, rel=tolerance)


def losses_of_a_run(source, paths):
    """Take a step on every sample; return the terms of each."""
    trained = system()
    model = trained.build(open_dataset(*paths)).train()
    optimizer, weights = adamw(model, TrainingConfig(learning_rate=META["lr"])), list(model.parameters())
    log = []
    for row in range(len(TRAINED)):
        step = context(row)
        output = trained.training_step(model, source.read(np.array([row])), step)
        trained.gradients(output.losses, weights, lambda loss: loss, step)
        trained.gradients.end_step(weights, lambda value: value, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        log.append({name: loss.item() for name, loss in output.losses.items()})
    return log
