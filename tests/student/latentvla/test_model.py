"""The network: its fusion starts as nothing, and its decision transformer sees no code too early."""

import math

import pytest
import torch

from student.latentvla.config import DecisionConfig, TransFuserConfig
from student.latentvla.embeddings.decision_transformer import DecisionTransformer
from student.latentvla.model import LatentVla, ego_state
from tests.student.latentvla.sizes import DECISION, SIZES, config

FRAMES = 4


def frames(seed=0):
    """Inputs of a few frames, the teacher's states, and its codes."""
    draw = torch.Generator().manual_seed(seed)
    rows, columns = SIZES.image
    strip = torch.randint(256, (FRAMES, rows, columns, 3), generator=draw, dtype=torch.uint8)
    can_bus = torch.randn(FRAMES, 18, generator=draw)
    positions, codes = SIZES.codes
    states = (
        torch.randn(FRAMES, 6, SIZES.states, generator=draw),
        torch.randn(FRAMES, positions, SIZES.states, generator=draw),
    )
    told = torch.randint(codes, (FRAMES, positions), generator=draw)
    return (strip, torch.arange(FRAMES), can_bus), states, told


def built(embeddings, **more):
    torch.manual_seed(0)
    return LatentVla(config(embeddings=embeddings, **more), SIZES)


@pytest.mark.parametrize("embeddings", ["teacher", "student"])
def test_before_the_first_step_the_plan_is_the_plain_planners_bit_for_bit(embeddings):
    inputs, states, _ = frames()
    plain, fused = built("none").eval(), built(embeddings).eval()
    fused.planner.load_state_dict(plain.planner.state_dict())
    with torch.no_grad():
        expected, found = plain(*inputs).plan, fused(*inputs, states=states).plan
    assert all(torch.equal(mine, other) for mine, other in zip(expected, found, strict=True))


@pytest.mark.parametrize(("embeddings", "behind"), [("teacher", "pools"), ("student", "decision")])
def test_the_gradient_reaches_the_fusion_first_and_what_is_behind_it_after_a_step(embeddings, behind):
    inputs, states, codes = frames()
    network = built(embeddings)
    weights = dict(network.get_submodule(behind).named_parameters())
    steps = torch.optim.SGD(network.parameters(), lr=0.1)
    network(*inputs, states=states, codes=codes).plan.trajectory.square().sum().backward()
    assert network.fusion.attention.out_proj.weight.grad.any()
    assert not any(weight.grad.any() for weight in weights.values() if weight.grad is not None)
    steps.step()
    network.zero_grad()
    network(*inputs, states=states, codes=codes).plan.trajectory.square().sum().backward()
    reached = {name for name, weight in weights.items() if weight.grad is not None and weight.grad.any()}
    left = {"code_head.weight", "code_head.bias"} if behind == "decision" else set()
    assert weights.keys() - reached == left


def test_a_decision_transformer_learns_from_pools_that_it_does_not_move():
    inputs, states, codes = frames()
    network = built("student")
    predicted = network(*inputs, states=states, codes=codes)
    assert predicted.teacher.visual.shape == predicted.embeddings.visual.shape == (FRAMES, 3, 16)
    assert predicted.teacher.action.shape == predicted.embeddings.action.shape == (FRAMES, 2, 16)
    assert not predicted.teacher.visual.requires_grad
    assert predicted.embeddings.visual.requires_grad


def test_at_released_sizes_it_has_fifty_million_weights():
    with torch.device("meta"):
        decision = DecisionTransformer(
            DecisionConfig(), TransFuserConfig().width, positions=12, codes=16, visual=16, action=4
        )
    assert sum(weight.numel() for weight in decision.decoder.parameters()) == 50_449_408
    rest = sum(weight.numel() for weight in decision.parameters()) - 50_449_408
    assert rest == 256 * 512 + 512 + 32 * 512 + 17 * 512 + 2 * (512 * 256 + 256) + 512 * 16 + 16
    assert rest == pytest.approx(0.4e6, rel=0.1)


@pytest.fixture
def decision():
    torch.manual_seed(0)
    options = DecisionConfig(**DECISION)
    return DecisionTransformer(options, 16, positions=5, codes=7, visual=3, action=2).eval()


def test_a_code_is_told_from_those_before_it_alone(decision):
    scene = torch.randn(2, 9, 16)
    codes = torch.randint(7, (2, 5))
    told = decision(scene, codes)
    for position in range(5):
        other = codes.clone()
        other[:, position] = (other[:, position] + 1) % 7
        changed = decision(scene, other)
        before, after = slice(0, position + 1), slice(position + 1, None)
        torch.testing.assert_close(changed.logits[:, before], told.logits[:, before], rtol=0, atol=1e-6)
        moved = (changed.logits[:, after] - told.logits[:, after]).abs().amax(dim=-1)
        assert (moved > 0).all()
        torch.testing.assert_close(changed.embeddings.visual, told.embeddings.visual, rtol=0, atol=1e-6)
        assert torch.allclose(changed.embeddings.action, told.embeddings.action) == (position == 4)


def test_its_own_codes_are_the_likeliest_one_after_the_other(decision):
    scene = torch.randn(3, 9, 16)
    own = decision(scene)
    codes = own.logits.argmax(dim=-1)
    torch.testing.assert_close(decision(scene, codes).logits, own.logits, rtol=0, atol=1e-6)
    # Any search that takes each code as the likeliest after those before it ends at the same.
    chosen = torch.zeros(3, 5, dtype=torch.int64)
    for position in range(5):
        chosen[:, position] = decision(scene, chosen).logits[:, position].argmax(dim=-1)
    assert torch.equal(chosen, codes)


def test_a_code_that_is_not_known_stands_as_the_beginning_does(decision):
    scene = torch.randn(1, 9, 16)
    unknown = decision(scene, torch.full((1, 5), -1))
    assert unknown.logits.isfinite().all()
    first = decision(scene, torch.zeros(1, 5, dtype=torch.int64))
    torch.testing.assert_close(first.logits[:, 0], unknown.logits[:, 0], rtol=0, atol=1e-6)
    assert not torch.allclose(first.logits[:, 1], unknown.logits[:, 1])


def test_a_parallel_one_reads_no_codes():
    torch.manual_seed(0)
    options = DecisionConfig(**DECISION, decoding="parallel")
    decision = DecisionTransformer(options, 16, positions=5, codes=7, visual=3, action=2).eval()
    scene = torch.randn(2, 9, 16)
    assert torch.equal(decision(scene).logits, decision(scene, torch.randint(7, (2, 5))).logits)
    assert not any("code_embedding" in name for name, _ in decision.named_parameters())


def test_the_ego_state_is_command_velocity_and_acceleration():
    can_bus = torch.arange(18.0).repeat(2, 1)
    state = ego_state(torch.tensor([0, 5]), can_bus)
    assert state.tolist() == [
        [1, 0, 0, 0, 0, 0, 7, 0, 10, 11],
        [0, 0, 0, 0, 0, 1, 7, 0, 10, 11],
    ]


def test_pixels_are_between_0_and_1():
    (strip, command, can_bus), _, _ = frames()
    network = built("none").eval()
    seen = []
    network.planner._backbone.image_encoder.conv1.register_forward_pre_hook(
        lambda _, inputs: seen.append(*inputs)
    )
    network(torch.full_like(strip, 51), command, can_bus)
    assert seen[0].shape == (FRAMES, 3, *SIZES.image)
    assert (seen[0] - 0.2).abs().max() < 1e-6
    assert math.isclose(seen[0].max().item(), 0.2, rel_tol=1e-6)


def test_a_fused_planner_without_states_is_an_error():
    inputs, _, _ = frames()
    with pytest.raises(ValueError, match="teacher's states"):
        built("teacher")(*inputs)
    with pytest.raises(ValueError, match="number of codes"):
        LatentVla(config(embeddings="student"), SIZES._replace(codes=None))
    with pytest.raises(ValueError, match="width of the states"):
        LatentVla(config(embeddings="teacher"), SIZES._replace(states=None))
