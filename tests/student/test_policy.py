"""Which students drive, and what they read to do so."""

import pytest
import torch
from torch import nn

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import RequestError
from student.loading.batches import LatentSamples
from student.open_loop.evaluate import plan_split
from student.policy import policy_of
from student.runs.presets import preset
from tests.student.recipes import small

CPU = torch.device("cpu")


def test_orion_lite_needs_no_planning_token_to_drive(dataset_path):
    system, dataset = small().make_system(), LatentDataset.open(dataset_path)
    model = system.build(dataset).eval()
    policy = policy_of(system, model)
    assert policy.features == ("scene_queries", "ego_token", "command")
    plans, samples = plan_split(
        dataset, "val", {"student": policy.plan}, features=policy.features, device=CPU
    )
    assert plans.similarity == {}
    evaluation, arrays = system.evaluate(model, dataset, "val", device=CPU)
    assert "planning_token" in evaluation.similarity
    assert (arrays["student"] == plans.positions["student"]).all()
    assert len(samples) == len(arrays["student"])


def test_the_commanded_mode_is_driven(dataset_path):
    system, dataset = small().make_system(), LatentDataset.open(dataset_path)
    model = system.build(dataset).eval()
    policy = policy_of(system, model)
    samples = LatentSamples(dataset, "val", policy.features, device=CPU)
    ((_, batch),) = samples.batches(torch.arange(2).numpy(), 2)
    batch["command"] = torch.tensor([0, 4])
    with torch.no_grad():
        planned = policy.plan(batch).positions
        offsets = model(batch["scene_queries"], batch["ego_token"]).offsets
    for row, command in enumerate((0, 4)):
        torch.testing.assert_close(planned[row], offsets[row, command].cumsum(dim=0), rtol=0, atol=0)


def test_drive_kd_answers_questions_and_does_not_drive():
    system = preset("drive-kd-tiny").make_system()
    with pytest.raises(RequestError, match="DriveKdSystem does not drive") as caught:
        policy_of(system, nn.Identity())
    assert "orion-lite" in caught.value.expected
