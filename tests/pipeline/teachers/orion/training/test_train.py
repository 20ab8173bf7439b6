"""Training of the tiny teacher: the same network as the teacher's, and steps that can be repeated."""

import json

import pytest
import torch
from safetensors.torch import load_file

from pipeline.teachers.orion.checkpoints.tensors import teacher_shapes
from pipeline.teachers.orion.inputs import OrionBatch
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM as TINY
from pipeline.teachers.orion.training.cache import windows_of
from pipeline.teachers.orion.training.examples import ClipPlan
from pipeline.teachers.orion.training.measure import measure
from pipeline.teachers.orion.training.planner import Planner
from pipeline.teachers.orion.training.train import Stage, TeacherTraining, Trained, train
from pipeline.teachers.orion.training.unroll import in_order, unroll
from tests.paths import GOLDEN

STAGES = tuple(
    Stage(steps=1, length=length, batch=2, learning_rate=1e-3, warmup=1) for length in (None, 1, 2)
)
SETTINGS = TeacherTraining(clips=2, weaving=0, windows=1, length=2, held_out=1, stages=STAGES, log_every=1)


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    plans = [ClipPlan(7, clip, (0,), 2, frames=32) for clip in range(2)]
    return windows_of(plans, TINY.images, tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def trained(windows, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    return run, train(TINY, SETTINGS, run, windows)


def test_the_planner_is_the_recorded_one():
    recording = GOLDEN / "orion"
    weights = load_file(recording / "state_dict.safetensors")
    planner = Planner(width=64)
    planner.load_state_dict({name: weights[name] for name in planner.state_dict()})
    inputs, outputs = (
        load_file(recording / "inputs.safetensors"),
        load_file(recording / "outputs.safetensors"),
    )
    frames = json.loads((recording / "meta.json").read_text())["frames"]
    for frame in range(len(frames)):
        token, noise = outputs[f"{frame}.planning_token"], inputs[f"{frame}.noise"]
        present = planner.present(token)
        offsets = planner(token, present.mu + present.log_sigma.exp() * noise.flatten(1))
        torch.testing.assert_close(offsets, outputs[f"{frame}.ego_fut_preds_all"], rtol=0, atol=1e-5)


def test_unrolled_it_is_the_teacher_that_streams(windows):
    teacher = TINY.load(None, device="cpu")
    state, tokens = teacher.begin(2), []
    for frame in range(2):
        now = {name: values[:, frame] for name, values in windows.items()}
        batch = OrionBatch(
            clips=("a", "b"),
            images=now["images"],
            lidar2img=now["lidar2img"],
            ego_pose=now["ego_pose"].float(),
            ego_pose_inv=now["ego_pose_inv"].float(),
            timestamp_s=now["timestamp_s"],
            command=now["command"],
            can_bus=now["can_bus"],
        )
        output, state = teacher.forward(batch, state)
        tokens.append(output.planning_token)
    own = unroll(Trained.drawn(TINY, 0).model, TINY.config, TINY.images, windows)
    torch.testing.assert_close(own.planning_token, torch.cat(tokens), rtol=0, atol=1e-5)
    assert torch.equal(in_order(windows)["command"], windows["command"].T.flatten())


def test_object_queries_begin_where_agents_are(windows):
    trained = Trained.drawn(TINY, 0)
    trained.look_where_agents_are(windows, seed=0)
    agents = windows["boxes"][windows["labels"] >= 0][:, [0, 1, 4]]
    low, size = torch.tensor([-51.2, -51.2, -5.0]), torch.tensor([102.4, 102.4, 8.0])
    head = trained.model.pts_bbox_head
    for points in (head.reference_points.weight, head.pseudo_reference_points.weight):
        metres = points.detach() * size + low
        assert (metres[:, None] - agents).norm(dim=-1).amin(dim=1).max() < 1e-4
        assert len(metres.unique(dim=0)) > len(metres) / 2


def test_the_rate_rises_and_falls_to_nothing():
    stage = Stage(steps=100, length=1, batch=1, learning_rate=1.0, warmup=10)
    assert [stage.rate(step) for step in (0, 4, 9, 50, 99)] == pytest.approx([0.1, 0.5, 0.91, 0.5, 0.01])


def test_stages_follow_each_other():
    stages = tuple(Stage(steps=steps, length=None, batch=1, learning_rate=1.0) for steps in (3, 2))
    settings = TeacherTraining(stages=stages)
    assert settings.steps == 5
    assert [settings.at(step) for step in (0, 2, 3, 4)] == [
        *((stages[0], 0), (stages[0], 2)),
        *((stages[1], 0), (stages[1], 1)),
    ]
    with pytest.raises(IndexError):
        settings.at(5)


def test_windows_hold_the_frames_of_every_stage():
    with pytest.raises(ValueError, match="a stage unrolls 4 frames, of windows of 2"):
        TeacherTraining(length=2)


def test_of_single_images_the_backbone_alone_learns(windows, tmp_path):
    settings = SETTINGS.model_copy(update={"stages": STAGES[:1]})
    before = dict(Trained.drawn(TINY, 0).weights())
    after = train(TINY, settings, tmp_path, windows).weights()
    changed = {name for name, weight in after if not torch.equal(weight, before[name])}
    backbone = {name for name in changed if name.startswith("img_backbone.")}
    assert "img_backbone.patch_embed.proj.weight" in backbone
    # Where queries look was moved to places of agents.
    looks = ("reference_points", "pseudo_reference_points")
    assert changed - backbone == {f"pts_bbox_head.{points}.weight" for points in looks}
    assert {"tokens", "token_places", "step"} == json.loads((tmp_path / "log.jsonl").read_text()).keys()


def test_a_backbone_may_stay_as_it_is_while_all_else_learns(windows, tmp_path):
    frozen = SETTINGS.model_copy(update={"stages": (STAGES[2].model_copy(update={"backbone_factor": 0.0}),)})
    before = dict(Trained.drawn(TINY, 0).weights())
    for name, weight in train(TINY, frozen, tmp_path, windows).weights():
        assert torch.equal(weight, before[name]) == name.startswith("img_backbone"), name


def test_clips_in_which_the_ego_weaves_come_after_the_expert_s():
    plans = TeacherTraining(clips=2, weaving=3).learned
    assert [plan.weaves for plan in plans] == [False] * 2 + [True] * 3
    assert [plan.index for plan in plans] == list(range(5))


def test_every_weight_learns_that_the_teacher_reads(trained):
    before = dict(Trained.drawn(TINY, 0).weights())
    after = dict(trained[1].weights())
    assert {name: tuple(weight.shape) for name, weight in after.items()} == teacher_shapes(TINY.config)
    # Weight decay alone changes no bias, which begins at zero.
    still = {name for name, weight in after.items() if torch.equal(weight, before[name])}
    assert still == set(), still


def test_an_interrupted_run_goes_on_to_the_same_weights(trained, windows, tmp_path, monkeypatch):
    saved = []
    save = torch.save

    def save_once(state, file):
        if saved:
            raise KeyboardInterrupt
        saved.append(state["step"])
        save(state, file)

    monkeypatch.setattr(torch, "save", save_once)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, SETTINGS, tmp_path, windows)
    monkeypatch.undo()
    assert saved == [1]
    again = dict(train(TINY, SETTINGS, tmp_path, windows).weights())
    for name, weight in trained[1].weights():
        assert torch.equal(weight, again[name]), name


def test_other_settings_begin_anew(trained, windows):
    run, _ = trained
    other = train(TINY, SETTINGS.model_copy(update={"seed": 1, "stages": STAGES[2:]}), run, windows)
    drawn = dict(Trained.drawn(TINY, 1).weights())["map_head.reference_points_lane.weight"]
    moved = dict(other.weights())["map_head.reference_points_lane.weight"]
    # AdamW's first step is as large as its rate.
    torch.testing.assert_close(moved, drawn, rtol=0, atol=2e-3)


def test_figures_of_a_planner_that_stands_still(windows):
    random = Trained.drawn(TINY, 0)
    for weight in random.planner.parameters():
        weight.data.zero_()
    figures = measure(random.model, random.planner, TINY.config, TINY.images, windows)
    assert (figures.clips, figures.frames) == (2, 4)
    assert figures.l2 == pytest.approx(figures.l2_standing_still)
    expert = windows["trajectory"].cumsum(dim=2).norm(dim=-1).mean()
    assert figures.l2 == pytest.approx(expert.item(), rel=1e-5)
    assert figures.ratio == pytest.approx(figures.l2 / figures.l2_constant_velocity)
