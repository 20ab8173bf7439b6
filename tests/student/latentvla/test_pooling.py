"""Attention pooling, against recordings of UniVLA's own."""

import json

import pytest
import torch
from safetensors.torch import load_file

from student.latentvla.embeddings.pooling import AttentionPool
from tests.paths import GOLDEN

FOLDER = GOLDEN / "latentvla"


@pytest.fixture(scope="module")
def recorded():
    return load_file(FOLDER / "lam.safetensors")


def pool_of(recorded, name):
    prefix = f"pool.param.{name}."
    weights = {key.removeprefix(prefix): value for key, value in recorded.items() if key.startswith(prefix)}
    latents, width = weights["latents"].shape
    heads = json.loads((FOLDER / "lam.meta.json").read_text())["config"]["heads"]
    pool = AttentionPool(latents, weights["projection.weight"].shape[1], width, heads)
    pool.load_state_dict(weights)
    return pool


def test_many_latents_and_one_that_starts_from_anothers_output_are_the_recorded_ones(recorded):
    many = pool_of(recorded, "visual_many")(recorded["pool.in.visual"])
    torch.testing.assert_close(many, recorded["pool.visual_many"], rtol=0, atol=2e-5)
    seeing, acting = pool_of(recorded, "visual_one"), pool_of(recorded, "action_one")
    seen = seeing(recorded["pool.in.visual"])[:, 0]
    torch.testing.assert_close(seen, recorded["pool.visual_one"], rtol=0, atol=2e-5)
    acts = acting(recorded["pool.in.action"], seen)[:, 0]
    torch.testing.assert_close(acts, recorded["pool.action_one"], rtol=0, atol=2e-5)
    acts.square().sum().backward()
    for ours, name in (
        (acting.latents.grad, "pool.grad.action_one.latents"),
        (seeing.projection.weight.grad, "pool.grad.visual_one.projection.weight"),
    ):
        theirs = recorded[name]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())
