"""A clip's images, observed as on a drive, give the bits of extraction and of who drives on its dataset."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from cache_schema.dataset.join import JoinedDataset
from cache_schema.dataset.reader import LatentDataset
from cache_schema.vocabulary.observation import Observation
from pipeline.bench2drive.source import Bench2Drive
from pipeline.extraction.run import extract
from pipeline.perception.loading import open_perception
from pipeline.source import with_inputs
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM
from student.loading.batches import LatentSamples
from student.orion_lite.policies import DrivingTeacher
from student.policy import DrivingSystem, policy_of
from student.runs.presets import preset
from student.runs.trained import load_trained
from student.serving.student_policy import StudentPolicy, identity_of
from student.system import System
from student.training.train import train
from tests.observed import observations

CPU = torch.device("cpu")
STUDENTS = {"orion-lite": "demo", "latentvla": "latent-transfuser-tiny"}
"""System -> preset of its student."""
Drive = Iterator[Observation | None]


class Served(NamedTuple):
    """What students are compared on."""

    data: Path
    datasets: Mapping[int, Path]
    """Slots -> the dataset that was extracted with as many."""
    runs: Path


@pytest.fixture(scope="module")
def served(clips_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Three clips, extracted alone and in eight slots, and a run of each system."""
    home = tmp_path_factory.mktemp("served")
    datasets = {slots: home / f"{slots}.zarr" for slots in (1, 8)}
    selection = with_inputs(Bench2Drive(clips_root), ["camera_strip_256"]).select()
    for slots, path in datasets.items():
        extract(selection, ORION_TINY_RANDOM.load(None, device="cpu"), path, slots=slots)
    for system, name in STUDENTS.items():
        train(datasets[1], home / system, preset(name, {"epochs": "1"}), trackers=())
    return Served(clips_root, datasets, home)


class Driver(NamedTuple):
    """Who drives, and the dataset that tells what it reads."""

    system: System | DrivingSystem
    model: nn.Module
    dataset: LatentDataset | JoinedDataset


def opened(served: Served, system: str, slots: int) -> tuple[Driver, StudentPolicy]:
    if system == "teacher":
        dataset, teacher = LatentDataset.open(served.datasets[slots]), DrivingTeacher()
        driver, identity = Driver(teacher, teacher.planner(dataset), dataset), {}
    else:
        trained = load_trained(served.runs / system, served.datasets[slots])
        driver, identity = Driver(trained.system, trained.model, trained.dataset), identity_of(trained)
    read = policy_of(driver.system, driver.model).features
    perception = open_perception(driver.dataset, read, None)
    policy = StudentPolicy(
        perception, driver.system, driver.model, slots=slots, device=CPU, identity=identity
    )
    return driver, policy


def driven(policy: StudentPolicy, drives: Sequence[Drive | None]) -> list[np.ndarray]:
    """Plans of each slot's drive, (frames, T, 2); a drive without a plan for a while yields None."""
    state, plans = policy.begin(), [[] for _ in drives]
    for row in zip_longest(*(() if drive is None else drive for drive in drives)):
        inputs = [None if observation is None else policy.prepare(observation) for observation in row]
        positions, state = policy.step(inputs, state)
        for slot, observation in enumerate(row):
            if observation is not None:
                plans[slot].append(positions[slot])
    return [np.array(of_slot) for of_slot in plans]


@torch.no_grad()
def expected(trained: Driver, clip: str, *, slot: int, slots: int) -> np.ndarray:
    """What the student plans of stored features, (frames, T, 2), each frame in its slot of a batch."""
    policy = policy_of(trained.system, trained.model)
    samples = LatentSamples(trained.dataset, "all", policy.features, device=CPU)
    plans = []
    for row in np.flatnonzero(samples.clip_of == samples.clips.index(clip)):
        batch = {}
        for name, value in samples.read(np.array([row])).items():
            batch[name] = value.new_zeros(slots, *value.shape[1:])
            batch[name][slot] = value[0]
        plans.append(policy.plan(batch).positions[slot].numpy())
    return np.array(plans)


def clips_of(served: Served) -> list[str]:
    """Names of clips; the place of one decides in which slot it is extracted."""
    return [clip.name for clip in Bench2Drive(served.data).select().clips]


@pytest.mark.parametrize("system", [*STUDENTS, "teacher"])
def test_a_clip_alone(served: Served, system: str):
    trained, policy = opened(served, system, slots=1)
    for clip in clips_of(served):
        (plans,) = driven(policy, [observations(served.data, clip)])
        assert plans.shape[1:] == (6, 2)
        assert plans.std() > 1e-3
        np.testing.assert_array_equal(plans, expected(trained, clip, slot=0, slots=1))


@pytest.mark.parametrize("system", [*STUDENTS, "teacher"])
def test_a_clip_alone_among_eight_slots_and_beside_seven_others(served: Served, system: str):
    trained, policy = opened(served, system, slots=8)
    clips = clips_of(served)
    names = [*clips, *(clips * 2)[: 8 - len(clips)]]
    together = driven(
        policy, [observations(served.data, clip, f"drive-{slot}") for slot, clip in enumerate(names)]
    )
    assert [len(plans) for plans in together] == [len(together[slot % len(clips)]) for slot in range(8)]
    for slot, clip in enumerate(clips):
        drives: list[Drive | None] = [None] * 8
        drives[slot] = observations(served.data, clip)
        alone = driven(policy, drives)[slot]
        np.testing.assert_array_equal(together[slot], alone)
        np.testing.assert_array_equal(alone, expected(trained, clip, slot=slot, slots=8))


def test_a_drive_that_waits_keeps_its_memory_and_another_one_begins_without(served: Served):
    _, policy = opened(served, "orion-lite", slots=8)
    first, second, *_ = clips_of(served)
    drives: list[Drive | None] = [None] * 8
    drives[0] = observations(served.data, first)
    unbroken = driven(policy, drives)[0]

    def with_pauses(drive: Drive) -> Drive:
        for observation in drive:
            yield from (observation, None)

    drives[0] = with_pauses(observations(served.data, first))
    drives[3] = observations(served.data, second)
    np.testing.assert_array_equal(driven(policy, drives)[0], unbroken)

    def one_after_the_other(*names: str) -> Drive:
        for name in names:
            yield from observations(served.data, first, name)

    drives[0], drives[3] = one_after_the_other("a", "b"), None
    both = driven(policy, drives)[0]
    np.testing.assert_array_equal(both, np.concatenate([unbroken, unbroken]))
    drives[0] = one_after_the_other("a", "a")  # time goes back, but by less than what ends a clip
    assert not np.array_equal(driven(policy, drives)[0], both)


def test_it_says_who_drives(served: Served):
    _, policy = opened(served, "orion-lite", slots=1)
    trained, identity = load_trained(served.runs / "orion-lite", served.datasets[1]), policy.identity
    assert identity["system"] == "orion-lite"
    assert identity["trained"].startswith("1 epochs, ")
    assert "orion-tiny-random (random:0)" in identity["trained_on"]
    assert (identity["perception"], identity["precision"]) == ("vision of orion-tiny-random", "fp32")
    assert identity_of(trained)["student"] == identity["student"]
    with torch.no_grad():
        next(trained.model.parameters()).add_(1e-3)
    assert identity_of(trained)["student"] != identity["student"]
    assert opened(served, "latentvla", slots=1)[1].identity["perception"] == "camera_strip of 256x64 pixels"
    assert opened(served, "teacher", slots=1)[1].identity["perception"] == "orion-tiny-random"
