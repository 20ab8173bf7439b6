"""Evaluation of one short run."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import CheckpointError, IdentityError
from student.open_loop.evaluate import evaluate_open_loop, measure, plan_split
from student.open_loop.evaluation import COLLISION_COLUMNS, OpenLoopEvaluation
from student.open_loop.ground_truth import AGENT_FEATURES, read_ground_truth
from student.open_loop.policies import constant_velocity
from student.orion_lite.model import OrionLite
from student.orion_lite.planner import Planner, waypoints
from student.orion_lite.policies import FEATURES, policies, teacher_planner
from student.orion_lite.presets import ORION_LITE
from student.policy import PolicyOutput
from student.runs.evaluate import evaluate
from student.runs.presets import changed
from student.runs.trained import load_trained
from student.training.train import train
from tests.student.recipes import SIZES


@pytest.fixture(scope="module")
def run(dataset_path, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    config = changed(ORION_LITE, {**SIZES, "epochs": 2, "batch_size": 16})
    train(dataset_path, run, config)
    return run


@pytest.fixture(scope="module")
def evaluation(run, dataset_path):
    return evaluate(run, dataset_path)


@pytest.fixture(scope="module")
def tensors(evaluation, run):
    return load_file(run / "evaluation.safetensors")


def test_trivial_policies_have_the_error_that_the_data_imply(evaluation, dataset_path):
    # The expert of this dataset goes straight on at the speed in can_bus.
    speed = LatentDataset.open(dataset_path).read("clip-c", "can_bus")[:, 7]
    for mask, counted in (("complete", speed[:14]), ("orion", speed[10:14])):
        moving, standing = (evaluation.l2_m[name][mask] for name in ("constant_velocity", "stand_still"))
        assert evaluation.frames[mask] == len(counted)
        assert max(moving.values()) < 1e-5
        assert standing["up_to_1s"] == pytest.approx(0.75 * counted.mean(), rel=1e-5)
        assert standing["at_3s"] == pytest.approx(3.0 * counted.mean(), rel=1e-5)
        assert standing["at_mean"] == pytest.approx(2.0 * counted.mean(), rel=1e-5)


def test_collisions_are_those_that_the_data_imply(evaluation, dataset_path):
    # A car stands over the ego: standing still collides, which does not count as long as the expert collides,
    # whose footprint leaves the car after 4.042 m.
    speed = LatentDataset.open(dataset_path).read("clip-c", "can_bus")[:14, 7]
    gone = speed[:, None] * 0.5 * np.arange(1, 7) > 4.042
    standing, moving = (
        evaluation.collision[name]["complete"] for name in ("stand_still", "constant_velocity")
    )
    for seconds in (1, 2, 3):
        expected = gone[:, : 2 * seconds].mean()
        assert expected > 0 or seconds == 1
        assert standing[f"box_corrected_{seconds}s"] == pytest.approx(expected)
        assert standing[f"point_corrected_{seconds}s"] == pytest.approx(expected)
        # To half a metre, after 4.5 m at the latest.
        late = (speed[:, None] * 0.5 * np.arange(1, 7) > 4.6)[:, : 2 * seconds].mean()
        assert late <= standing[f"box_as_published_{seconds}s"] <= (gone[:, : 2 * seconds].mean() + 0.2)
    assert set(standing) == set(COLLISION_COLUMNS)
    assert {moving[name] for name in COLLISION_COLUMNS} == {0.0}


def test_the_teacher_is_its_planner_on_its_stored_tokens(evaluation, dataset_path):
    dataset = LatentDataset.open(dataset_path)
    token = torch.from_numpy(dataset.read("clip-c", "planning_token")).float()
    with torch.no_grad():
        plan = Planner.from_tensors(teacher_planner(dataset)).plan(token)
    path = waypoints(plan.offsets, torch.full((24,), 3)).numpy()
    expert = dataset.read("clip-c", "ego_trajectory").cumsum(axis=1)
    error = np.linalg.norm(path - expert, axis=-1)[:14]
    assert evaluation.l2_m["teacher"]["complete"]["at_2s"] == pytest.approx(error[:, 3].mean(), rel=1e-5)
    assert evaluation.l2_m["student"]["complete"] != evaluation.l2_m["teacher"]["complete"]


def test_the_planning_token_is_compared_with_the_teachers(evaluation, tensors, dataset_path, run):
    found = evaluation.similarity["planning_token"]
    for name in ("cosine", "relative"):
        mean = tensors[f"similarity.planning_token.{name}"].mean()
        assert getattr(found, name).value == pytest.approx(mean, rel=1e-5)
    assert -1 <= found.cosine.value < 0.999
    assert found.absolute.value > 0


def test_arrays_of_frames_agree_with_the_table(evaluation, tensors):
    counted = tensors["mask"].all(axis=1)
    table = evaluation.l2_m["student"]["complete"]
    distance = np.linalg.norm(tensors["student"] - tensors["ground_truth"], axis=-1)
    assert table["at_3s"] == pytest.approx(distance[counted, 5].mean(), rel=1e-5)
    np.testing.assert_allclose(tensors["l2.student"][:, 6], distance[:, 5], rtol=1e-5)
    hits = tensors["collision.stand_still.box_corrected"]
    assert evaluation.collision["stand_still"]["complete"]["box_corrected_3s"] == pytest.approx(
        hits[counted].mean()
    )
    assert evaluation.clips == ("clip-c",)
    assert tensors["clip"].tolist() == [0] * 24
    worst = [int(name.split()[1]) for name in evaluation.worst]
    assert tensors["worst"].tolist() == worst
    assert tensors["l2.student"][worst[0], 3] == tensors["l2.student"][counted, 3].max()
    assert np.diff(sorted(worst)).min(initial=10) >= 10
    assert tensors["worst.truth_agent_boxes"].shape == (len(worst), 64, 5)


def test_it_is_written_beside_the_run_and_repeats(evaluation, run, dataset_path):
    written = (run / "evaluation.json").read_bytes()
    assert OpenLoopEvaluation.model_validate_json(written) == evaluation
    assert json.loads(written)["l2_m"].keys() == {"student", "teacher", "constant_velocity", "stand_still"}
    assert evaluate(run, dataset_path) == evaluation
    assert (run / "evaluation.json").read_bytes() == written


def test_one_clip_has_no_interval_and_two_have_one(evaluation, run, dataset_path):
    assert set(evaluation.interval["student"]["complete"].values()) == {None}
    both = evaluate(run, dataset_path, "train")
    for policy, masks in both.interval.items():
        for name, (low, high) in masks["complete"].items():
            value = {**both.l2_m[policy]["complete"], **both.collision[policy]["complete"]}[name]
            assert low - 1e-9 <= value <= high + 1e-9
    low, high = both.interval["student"]["complete"]["up_to_mean"]
    assert low < high


def test_groups_add_up(run, dataset_path):
    found = evaluate(run, dataset_path, "all")
    for by in ("command", "scenario", "town", "weather"):
        groups = [group for group in found.groups if group.by == by]
        assert sum(group.frames for group in groups) == found.frames["complete"]
        mean = sum(group.frames * group.means["student"]["up_to_mean"].value for group in groups)
        expected = found.l2_m["student"]["complete"]["up_to_mean"]
        assert mean / found.frames["complete"] == pytest.approx(expected)
    assert {group.name for group in found.groups if group.by == "town"} == {"Town03", "Town05"}
    assert {group.name for group in found.groups if group.by == "weather"} == {"unknown"}
    (command,) = (group for group in found.groups if group.by == "command")
    assert (command.name, command.clips) == ("follow", 3)


def test_intervals_are_those_of_the_numbers_that_runs_are_compared_by(run, dataset_path):
    found = evaluate(run, dataset_path, "all")
    numbers, intervals = found.numbers(), found.intervals()
    errors = found.l2_m["student"]["complete"]
    assert intervals.keys() == {name for name in numbers if numbers[name] is not None}
    for name in errors:
        assert intervals[name] == found.interval["student"]["complete"][name]
    for name, similarity in found.similarity.items():
        assert intervals[f"cosine {name}"] == similarity.cosine.interval


def shown(evaluation):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(evaluation)
    return console.export_text()


def test_the_tables_show_every_number_on_a_narrow_terminal(evaluation):
    table = shown(evaluation)
    assert max(map(len, table.splitlines())) <= 80
    for masks in evaluation.l2_m.values():
        for row in masks.values():
            assert all(f" {value:.3f} " in table for value in row.values())
    for masks in evaluation.collision.values():
        assert all(f" {100 * value:.2f} " in table for value in masks["complete"].values())
    assert "\N{HORIZONTAL ELLIPSIS}" not in table


def test_a_dataset_without_other_road_users_or_speed(run, write, tmp_path, evaluation):
    bare = write(tmp_path / "bare.zarr", without={*AGENT_FEATURES, "truth_agent_count", "can_bus"})
    found = evaluate(run, bare)
    assert found.l2_m["student"] == evaluation.l2_m["student"]
    assert found.l2_m.keys() == {"student", "teacher", "stand_still"}
    assert (found.collision, found.crowded_frames) == ({}, None)
    assert len(found.missing) == 2
    table = "".join(shown(found).split())  # a long path is folded
    assert f"teachonce add-ground-truth {bare} --data ROOT".replace(" ", "") in table


def test_frames_with_more_agents_than_places_are_counted(evaluation, dataset_path, monkeypatch):
    assert evaluation.crowded_frames == 0
    dataset = LatentDataset.open(dataset_path)
    monkeypatch.setattr("student.open_loop.ground_truth.AGENTS", 0)  # one agent is too many
    assert read_ground_truth(dataset, ("clip-c",)).crowded_frames == 24
    assert "24 frames have more agents" in shown(evaluation.model_copy(update={"crowded_frames": 24}))


@pytest.fixture
def blind(write, tmp_path):
    """Return the same dataset without a future: the expert stands still, without other road users."""
    return write(tmp_path / "blind.zarr", future=False)


def test_a_plan_that_cannot_see_the_future_is_the_same_without_it(run, dataset_path, blind):
    known = LatentDataset.open(dataset_path)
    assert (LatentDataset.open(blind).read("clip-c", "ego_trajectory") == 0).all()
    assert (known.read("clip-c", "ego_trajectory") != 0).any()
    evaluation, tensors = measured(run, blind, known)
    expected, _ = measured(run, dataset_path, known)
    assert evaluation == expected
    assert np.isfinite(tensors["student"]).all()


def test_a_planted_leak_is_found(run, dataset_path, blind, monkeypatch):
    """A student that reads the ground truth on the disk plans otherwise without it."""
    known = LatentDataset.open(dataset_path)
    honest = OrionLite.forward
    at_hand = {"path": dataset_path}

    def leaky(self, scene_queries, ego_token, **more):
        future = LatentDataset.open(at_hand["path"]).read("clip-c", "ego_trajectory")[: len(ego_token)]
        trajectory = torch.from_numpy(future)
        return honest(self, scene_queries, ego_token, trajectory=trajectory, latent="future")

    monkeypatch.setattr(OrionLite, "forward", leaky)
    expected, _ = measured(run, dataset_path, known)
    at_hand["path"] = blind
    evaluation, _ = measured(run, blind, known)
    assert evaluation.l2_m["student"] != expected.l2_m["student"]


def measured(run, dataset_path, truth_of):
    """Return what is found for plans made from one dataset, with the ground truth of another."""
    device = torch.device("cpu")
    trained = load_trained(run, dataset_path)
    own = policies(trained.model, trained.dataset, device)
    plans, samples = plan_split(trained.dataset, "val", own, features=FEATURES, device=device)
    ground_truth = read_ground_truth(truth_of, samples.clips)
    return measure(plans, ground_truth, truth_of, samples, split="val")


def test_a_dataset_of_another_teacher_is_refused(run, write, tmp_path):
    other = write(tmp_path / "other.zarr", weights="sha256:beef")
    with pytest.raises(IdentityError, match="sha256:beef"):
        evaluate(run, other)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        evaluate(tmp_path, other)


def test_policies_of_another_system_are_measured_without_a_teacher(dataset_path):
    def straight(batch):
        return PolicyOutput(2 * constant_velocity(batch).positions)

    found, arrays = evaluate_open_loop(
        LatentDataset.open(dataset_path),
        "val",
        {"student": straight},
        features=("command",),
        device=torch.device("cpu"),
    )
    # The expert goes on at constant velocity: twice as far is as wrong as not at all.
    assert found.l2_m.keys() == {"student", "constant_velocity", "stand_still"}
    assert found.l2_m["student"]["complete"] == pytest.approx(found.l2_m["stand_still"]["complete"], rel=1e-5)
    assert found.similarity == {}
    assert "teacher" not in shown(found)
    assert "teacher" not in arrays
