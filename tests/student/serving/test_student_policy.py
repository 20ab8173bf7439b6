"""A student between what is observed and its plan: what is refused, and how features arrive."""

import dataclasses

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import ClipError, RequestError
from pipeline.bench2drive.source import Bench2Drive
from pipeline.extraction.run import extract
from pipeline.perception.cameras import CameraStripPerception
from pipeline.source import with_inputs
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM
from student.loading.batches import Batch, LatentSamples
from student.policy import DrivingPolicy, PolicyOutput
from student.serving.student_policy import StudentPolicy
from tests.observed import observations

CPU = torch.device("cpu")
READ = ("camera_strip", "command", "can_bus", "timestamp", "ego_pose")


class Nothing(BaseModel):
    """Of a system without options."""


class Reader:
    """A user's own system, as far as it drives: keeps what it was given, and plans to stand still."""

    student, losses = Nothing(), {}

    def __init__(self, *features: str) -> None:
        self.features = features
        self.batches: list[Batch] = []

    def policy(self, model: nn.Module) -> DrivingPolicy:
        def plan(batch: Batch) -> PolicyOutput:
            self.batches.append(batch)
            return PolicyOutput(model(torch.zeros(len(batch["command"]), 6, 2, dtype=torch.float64)))

        return DrivingPolicy(self.features, plan)


def policy_with(system: Reader, slots: int) -> StudentPolicy:
    return StudentPolicy(
        CameraStripPerception((256, 64)),
        system,
        nn.Identity(),
        slots=slots,
        device=CPU,
    )


def test_features_arrive_as_from_a_dataset(clips_root, tmp_path):
    source = with_inputs(Bench2Drive(clips_root), ["camera_strip_256"])
    extract(source.select("val"), ORION_TINY_RANDOM.load(None, device="cpu"), tmp_path / "d.zarr")
    dataset = LatentDataset.open(tmp_path / "d.zarr")
    (clip,) = dataset.clips
    samples = LatentSamples(dataset, "val", READ, device=CPU)
    system = Reader(*READ)
    policy = policy_with(system, slots=2)
    state = policy.begin()
    assert len(system.batches) == 1  # of idle slots, so that the first of a drive takes no longer
    for frame, observation in enumerate(observations(clips_root, clip)):
        plan, state = policy.step([None, policy.prepare(observation)], state)
        assert (plan.shape, plan.dtype) == ((2, 6, 2), np.float32)
        (expected, given) = samples.read(np.array([frame])), system.batches[-1]
        assert given.keys() == expected.keys()
        for name, value in expected.items():
            assert given[name].dtype == value.dtype, name
            assert torch.equal(given[name][1], value[0]), name
            assert not given[name][0].any(), name
    assert {*policy.seconds} == {"vision", "student"}


def test_a_batch_has_a_row_a_slot():
    policy = policy_with(Reader("command"), slots=3)
    with pytest.raises(ValueError, match="2 inputs for 3 slots"):
        policy.step([None, None], policy.begin())


def test_a_feature_that_nothing_computes_is_named():
    with pytest.raises(RequestError, match="reads ego_trajectory, planning_token, which nothing computes"):
        policy_with(Reader("command", "ego_trajectory", "planning_token"), slots=1)


def test_what_cannot_be_planned_from_is_refused_before_it_is_beside_others(clips_root):
    policy = policy_with(Reader(*READ), slots=2)
    first = next(observations(clips_root, Bench2Drive(clips_root).select().clips[0].name))
    for change, said in (
        ({"command": 6}, "there is no command 6"),
        ({"can_bus": np.full(18, np.nan)}, "can_bus is not finite"),
        ({"jpegs": {**first.jpegs, "CAM_FRONT": b"\xff\xd8"}}, "cannot be decoded"),
    ):
        with pytest.raises((RequestError, ClipError), match=said):
            policy.prepare(dataclasses.replace(first, **change))


def test_the_network_is_in_evaluation_mode():
    model = nn.Dropout(0.5)

    class Dropped(Reader):
        def policy(self, model: nn.Module) -> DrivingPolicy:
            def plan(batch: Batch) -> PolicyOutput:
                ones: Tensor = model(torch.ones(len(batch["command"]), 6, 2))
                return PolicyOutput(ones)

            return DrivingPolicy(("command",), plan)

    policy = StudentPolicy(
        CameraStripPerception((256, 64)),
        Dropped(),
        model.train(),
        slots=1,
        device=CPU,
    )
    plan, _ = policy.step([None], policy.begin())
    assert (plan == 1).all()
