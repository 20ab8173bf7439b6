"""The terms of the loss: numbers worked out by hand, and recordings of NAVSIM's."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from student.latentvla.ego_frame import boxes_to_ego, driven, to_ego, to_lidar
from student.latentvla.losses.agents import Agents, box_losses
from student.latentvla.losses.codes import CodeKl, CodeLabels
from student.latentvla.losses.embedding import Embedding
from student.latentvla.losses.trajectory import Trajectory
from student.latentvla.planner.latent_transfuser import Plan
from student.latentvla.prediction import Embeddings, Prediction
from tests.paths import GOLDEN

FOLDER = GOLDEN / "latentvla"
NO_PLAN = Plan(torch.zeros(1, 6, 3), torch.zeros(1, 2, 5), torch.zeros(1, 2))


def telling(*logits: float) -> Prediction:
    return Prediction(NO_PLAN, code_logits=torch.tensor([[logits]], requires_grad=True))


def test_the_losses_of_boxes_and_trajectory_are_the_recorded_ones():
    recorded = load_file(FOLDER / "ltf.safetensors")
    weights = json.loads((FOLDER / "ltf.meta.json").read_text())["config"]
    plan = Plan(*(recorded[f"out.{name}"] for name in ("trajectory", "agent_states", "agent_labels")))
    error, entropy = box_losses(
        plan,
        recorded["target.agent_states"],
        recorded["target.agent_labels"],
        class_weight=weights["agent_class_weight"],
        box_weight=weights["agent_box_weight"],
    )
    torch.testing.assert_close(error, recorded["loss.agent_box"][0], rtol=1e-6, atol=2e-5)
    torch.testing.assert_close(entropy, recorded["loss.agent_class"][0], rtol=1e-6, atol=2e-5)
    l1 = (plan.trajectory - recorded["target.trajectory"]).abs().mean()
    torch.testing.assert_close(l1, recorded["loss.trajectory_l1"][0], rtol=1e-6, atol=2e-5)


def test_forward_in_the_lidars_coordinates_is_x_in_the_egos():
    ahead, right = [0.0, 5.0], [3.0, 0.0]
    assert to_ego(torch.tensor([ahead, right])).tolist() == [[5.0, 0.0], [0.0, -3.0]]
    somewhere = torch.randn(4, 2)
    assert torch.equal(to_lidar(to_ego(somewhere)), somewhere)


def test_driven_poses_are_sums_of_steps_with_the_direction_of_each():
    offsets = torch.tensor([[[0.0, 2.0], [-2.0, 0.0], [0.1, 0.0], [0.0, 0.0]]])
    poses, known = driven(offsets, torch.tensor([[True, True, True, False]]))
    # 2 m ahead, then 2 m to the left, then 0.1 m to the right: too short to tell a heading.
    torch.testing.assert_close(poses[0, :3, :2], torch.tensor([[2.0, 0.0], [2.0, 2.0], [2.0, 1.9]]))
    torch.testing.assert_close(poses[0, :2, 2], torch.tensor([0.0, math.pi / 2]))
    assert known[0].tolist() == [[True] * 3, [True] * 3, [True, True, False], [False] * 3]


def test_a_trajectory_counts_what_is_known():
    batch = {
        "ego_trajectory": torch.tensor([[[0.0, 2.0], [0.0, 0.1]], [[0.0, 2.0], [0.0, 0.0]]]),
        "ego_trajectory_mask": torch.tensor([[True, True], [True, False]]),
    }
    trajectory = torch.zeros(2, 2, 3)
    trajectory[0, 0] = torch.tensor([1.0, 1.0, 0.5])  # errors 1, 1, 0.5
    trajectory[0, 1] = torch.tensor([2.1, 0.0, 3.0])  # no error: the heading is not known
    trajectory[1, 0] = torch.tensor([2.0, 0.0, 0.0])
    trajectory[1, 1] = 100.0
    plan = Plan(trajectory, torch.zeros(2, 1, 5), torch.zeros(2, 1))
    assert Trajectory()(Prediction(plan), batch).item() == pytest.approx(10 * 2.5 / 12)


def test_a_box_turns_with_the_coordinates():
    # 3 m to the right and 10 m ahead, 4 m long and 2 m wide, headed to the ego's left: -x in the LiDAR's.
    box = torch.tensor([[[3.0, 10.0, 4.0, 2.0, math.pi]]])
    torch.testing.assert_close(
        boxes_to_ego(box), torch.tensor([[[10.0, -3.0, math.pi / 2, 4.0, 2.0]]]), rtol=0, atol=1e-6
    )
    backwards = boxes_to_ego(torch.tensor([[[0.0, 1.0, 4.0, 2.0, -math.pi / 2 - 0.1]]]))
    assert backwards[0, 0, 2].item() == pytest.approx(math.pi - 0.1, abs=1e-6)


def agents_of(*rows):
    """Rows of (x, y, class) in the LiDAR's coordinates; 4 m by 2 m, headed as the ego."""
    boxes = torch.tensor([[[x, y, 4.0, 2.0, math.pi / 2] for x, y, _ in rows]])
    return {"truth_agent_boxes": boxes, "truth_agent_classes": torch.tensor([[kind for *_, kind in rows]])}


def test_boxes_are_matched_at_the_least_cost_of_place_and_logit():
    # Two cars 10 m and 20 m ahead. Both boxes are at 11 m and 12 m: crossed, the errors are 9 + 2 = 11,
    # straight 1 + 8 = 9.
    boxes = torch.tensor([[[12.0, 0.0, 0.0, 4.0, 2.0], [11.0, 0.0, 0.0, 4.0, 2.0]]])
    logits = torch.tensor([[2.0, -1.0]])
    plan = Plan(torch.zeros(1, 6, 3), boxes, logits)
    batch = agents_of((0.0, 10.0, 0), (0.0, 20.0, 1))
    entropy = (math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2
    found = Agents()(Prediction(plan), batch).item()
    assert found == pytest.approx(10 * entropy + (1 + 8) / 2, rel=1e-6)
    # With one car, 10 m ahead, the nearer box saves 1 m, and the likelier one 10 x 3.
    one = agents_of((0.0, 10.0, 0))
    entropy = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2
    assert Agents()(Prediction(plan), one).item() == pytest.approx(10 * entropy + 2, rel=1e-6)
    # Without that factor, the nearer one is matched.
    entropy = (math.log1p(math.exp(2)) + math.log1p(math.exp(1))) / 2
    error, found = box_losses(
        plan, boxes_to_ego(one["truth_agent_boxes"]), torch.tensor([[True]]), class_weight=0, box_weight=1
    )
    assert (error.item(), found.item()) == (pytest.approx(1), pytest.approx(entropy))


@pytest.mark.parametrize(
    "unseen", [(0.0, 10.0, 7), (0.0, 10.0, -1), (0.0, 33.0, 0), (0.0, -5.0, 0), (10.0, 1.0, 0)]
)
def test_people_and_cars_behind_beside_or_far_away_do_not_count(unseen):
    logits = torch.tensor([[0.0]], requires_grad=True)
    boxes = torch.zeros(1, 1, 5, requires_grad=True)
    plan = Plan(torch.zeros(1, 6, 3), boxes, logits)
    found = Agents()(Prediction(plan), agents_of(unseen))
    assert found.item() == pytest.approx(10 * math.log(2))
    found.backward()
    assert boxes.grad is not None  # or its weights would be frozen where the first frames are empty
    assert not boxes.grad.any()


def test_of_more_cars_than_boxes_the_nearest_count():
    plan = Plan(torch.zeros(1, 6, 3), torch.zeros(1, 1, 5), torch.zeros(1, 1))
    batch = agents_of((0.0, 3.0, 0), (0.0, 4.0, 0))
    assert Agents()(Prediction(plan), batch).item() == pytest.approx(10 * math.log(2) + 3 + 4 + 2, rel=1e-6)


def test_the_divergence_of_codes_in_nats():
    teacher = {"code_logits": torch.tensor([[[0.0, math.log(3)]]])}
    found = CodeKl()(telling(0.0, 0.0), teacher)
    assert found.item() == pytest.approx(0.1308, abs=5e-5)
    assert CodeKl()(telling(1.0, 1.0 + math.log(3)), teacher).item() == pytest.approx(0, abs=1e-7)


def test_a_temperature_divides_both_logits_and_keeps_the_size():
    warm = CodeKl(temperature=2.0, weight=3.0)
    teacher = {"code_logits": torch.tensor([[[0.0, 2 * math.log(3)]]])}
    assert warm(telling(0.0, 0.0), teacher).item() == pytest.approx(3 * 4 * 0.1308, abs=1e-3)


def test_codes_of_a_frame_add_up_and_frames_are_averaged():
    logits = torch.zeros(2, 2, 2)
    logits[0, 0, 1] = logits[0, 1, 1] = math.log(3)
    predicted = Prediction(NO_PLAN, code_logits=torch.zeros(2, 2, 2))
    assert CodeKl()(predicted, {"code_logits": logits}).item() == pytest.approx(0.1308, abs=5e-5)


def test_labels_are_learned_where_there_are_any():
    predicted = telling(0.0, math.log(3))
    likely, none = torch.tensor([[1]]), torch.tensor([[-1]])
    assert CodeLabels()(predicted, {"code_labels": likely}).item() == pytest.approx(-math.log(0.75))
    missing = CodeLabels()(predicted, {"code_labels": none})
    assert missing.item() == 0
    missing.backward()  # the weights are reached, or they would be frozen


def test_embeddings_are_compared_one_kind_by_one():
    teacher = Embeddings(torch.zeros(1, 2, 2), torch.zeros(1, 1, 2))
    told = Embeddings(torch.full((1, 2, 2), 0.5), torch.full((1, 1, 2), 3.0))
    predicted = Prediction(NO_PLAN, embeddings=told, teacher=teacher)
    assert Embedding()(predicted, {}).item() == pytest.approx(0.125 + 2.5)
    assert Embedding(visual=0, action=2)(predicted, {}).item() == pytest.approx(5)


def test_terms_of_what_a_student_does_not_tell_are_an_error():
    with pytest.raises(ValueError, match="decision transformer"):
        CodeKl()(Prediction(NO_PLAN), {"code_logits": torch.zeros(1, 1, 2)})
    with pytest.raises(ValueError, match="decision transformer"):
        Embedding()(Prediction(NO_PLAN), {})
