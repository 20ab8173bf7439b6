"""Against vectors of transformers' own forward passes, recorded without a cache and without padding."""

import pytest
import torch

from pipeline.teachers.latent_action_vlm.extractor import LatentActions, latent_actions
from pipeline.teachers.latent_action_vlm.images import patches, pooled
from tests.pipeline.teachers.latent_action_vlm.recorded_vlm import recorded

PIXELS, STATES, LOGITS = 5e-7, 1e-4, 2e-5
"""Limits of the recording's README, absolute."""


def told(*, forced: bool, padding: int = 0) -> LatentActions:
    it = recorded()
    given = it.tensors["in.codes"] if forced else None
    with torch.inference_mode():
        prompts = it.prompts(padding=padding)
        return latent_actions(it.model, it.images, prompts, it.code_ids, it.count, given=given)


def close(ours: torch.Tensor, name: str, limit: float) -> None:
    torch.testing.assert_close(ours, recorded().tensors[name], rtol=0, atol=limit)


def test_images_become_the_recorded_patches():
    close(patches(recorded().images.flatten(0, 1)), "in.pixel_values", PIXELS)


def test_tokens_are_where_the_library_says():
    it, prompts = recorded(), recorded().prompts()
    positions = it.tensors["positions"]
    assert torch.equal(prompts.positions, positions[..., : -it.count])
    behind = prompts.next_position[:, None] + torch.arange(it.count)
    assert torch.equal(behind.expand(3, -1, -1), positions[..., -it.count :])


@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("kind", ["forced", "greedy"])
def test_codes_logits_and_states(kind, padding):
    actions = told(forced=kind == "forced", padding=padding)
    close(actions.code_logits, f"{kind}.code_logits", LOGITS)
    close(actions.act_hidden, f"{kind}.act_hidden", STATES)
    close(actions.visual_hidden, "visual_hidden", STATES)
    close(actions.codes, "in.codes" if kind == "forced" else "greedy.codes", 0)


def test_the_mass_of_the_codes_completes_their_likelihood():
    """Over the whole vocabulary: softmax among the codes, times their mass."""
    actions = told(forced=True)
    among = actions.code_logits.log_softmax(dim=-1).gather(-1, actions.codes[..., None])[..., 0]
    nll = -(among + actions.code_mass.log()).sum(dim=-1)
    torch.testing.assert_close(nll, recorded().tensors["forced.nll_sum"], rtol=1e-5, atol=0)


def test_visual_states_are_averaged_over_cells():
    it = recorded()
    cells = tuple(it.meta["options"]["pool"])
    close(pooled(it.tensors["visual_hidden"], it.grid, cells), "vis_pooled", STATES)


def test_positions_in_one_dimension_would_be_far_off():
    """The library falls back to these where it is not told which tokens are of images."""
    it = recorded()
    prompts = it.prompts()
    length = prompts.ids.shape[1]
    flat = torch.arange(length).expand(3, len(prompts.ids), -1)
    wrong = prompts._replace(positions=flat, next_position=torch.full_like(prompts.next_position, length))
    with torch.inference_mode():
        actions = latent_actions(
            it.model, it.images, wrong, it.code_ids, it.count, given=it.tensors["in.codes"]
        )
    error = (actions.code_logits - it.tensors["forced.code_logits"]).abs().max()
    assert error > 1000 * LOGITS
