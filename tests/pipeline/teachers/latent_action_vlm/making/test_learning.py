"""Latent actions of a world of four actions, which the model is never told."""

import pytest
import torch

from pipeline.teachers.latent_action_vlm.making.actions_config import preset_of
from pipeline.teachers.latent_action_vlm.making.code_restart import CodeRestart
from pipeline.teachers.latent_action_vlm.making.latent_action_model import (
    EgoModel,
    LatentActionConfig,
    mean_square,
)
from pipeline.teachers.latent_action_vlm.making.training_loop import join_processes

STEPS, BATCH = 400, 32
CONFIG = preset_of("tiny", {"restart_every": "25"})
SIZES = LatentActionConfig(
    feature_width=8,
    condition_width=4,
    width=16,
    heads=2,
    encoder_layers=1,
    decoder_layers=1,
    code_width=4,
    tokens=1,
    ego_codes=8,
    environment_codes=2,
)


def world(generator: torch.Generator, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of three patches, to all of which an action adds its own vector; and the actions."""
    actions = torch.randint(4, (samples,), generator=generator)
    moves = torch.randn(4, 8, generator=torch.Generator().manual_seed(7)) * 2
    earlier = torch.randn(samples, 3, 8, generator=generator)
    return torch.stack([earlier, earlier + moves[actions, None]], dim=1), actions


@pytest.fixture(scope="module")
def learned():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = EgoModel(SIZES)
    restart = CodeRestart(model.vq_action.codebook.weight, CONFIG, STEPS, join_processes(CONFIG, "cpu"))
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=5e-3)
    for step in range(STEPS):
        output = model(world(generator, BATCH)[0])
        optimizer.zero_grad()
        (output.mse + output.ego.loss + output.environment.loss).backward()
        optimizer.step()
        restart.after(output.ego, step)
    return model


@torch.no_grad()
def test_codes_are_the_actions_and_rebuild_what_follows(learned):
    frames, actions = world(torch.Generator().manual_seed(2), 256)
    ego, environment = learned.encode(frames)
    codes = ego.codes[:, 0]
    # A code means one action, though an action may have several codes.
    likeliest = sum(actions[codes == code].bincount().max().item() for code in codes.unique())
    assert likeliest > 0.95 * len(actions)
    assert len(codes.unique()) >= 4
    right, shuffled, none = (
        mean_square(learned.decode(frames[:, 0], value, environment.value), frames).item()
        for value in (ego.value, ego.value.roll(1, 0), torch.zeros_like(ego.value))
    )
    assert right < 0.1 * shuffled
    assert right < none
