"""The planning losses against what the authors' own loss modules return (see tests/golden/losses)."""

import pytest
import torch
from safetensors.torch import load_file

from student.orion_lite.losses.boundary import Boundary
from student.orion_lite.losses.collision import Collision
from student.orion_lite.losses.latent import Latent
from student.orion_lite.losses.regression import Regression
from student.orion_lite.model import Prediction
from student.orion_lite.planner import Gaussian
from tests.paths import GOLDEN

VECTORS = load_file(GOLDEN / "losses/vectors.safetensors")
PRECISIONS = {"out64": (torch.float64, 1e-9), "out": (torch.float32, 2e-6)}
PLANNING = {"reg": Regression(), "bound": Boundary(), "col": Collision()}


def recorded(dtype):
    """Return the recorded inputs as a prediction with leaf tensors, and a batch."""
    given = {name[3:]: value.to(dtype) for name, value in VECTORS.items() if name.startswith("in.")}
    leaf = {
        name: given[name].clone().requires_grad_()
        for name in ("ego_fut_preds", "present_mu", "present_log_sigma", "future_mu", "future_log_sigma")
    }
    predicted = Prediction(
        planning_token=torch.zeros(5, 1, dtype=dtype),
        offsets=leaf["ego_fut_preds"],
        present=Gaussian(leaf["present_mu"], leaf["present_log_sigma"]),
        future=Gaussian(leaf["future_mu"], leaf["future_log_sigma"]),
    )
    best_mode = given["agent_fut_cls_preds"].argmax(dim=-1)[:, :, None, None, None]  # (B, A, 1, 1, 1)
    batch = {
        "lane_points": given["lane_preds"],
        "lane_logits": given["lane_scores"],
        "agent_xy": given["agent_preds"],
        "agent_class_scores": given["agent_score_preds"],
        "agent_offsets": given["agent_fut_preds"].take_along_dim(best_mode, dim=2).squeeze(2),
        "ego_trajectory": given["ego_fut_trajs"],
        "ego_trajectory_mask": given["ego_fut_masks"].bool(),
        "command": given["ego_fut_cmd"].argmax(dim=-1),
    }
    return predicted, batch, leaf


def close(actual, expected, tolerance):
    """Compare relative to max(1, |expected|)."""
    torch.testing.assert_close(actual.detach(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", PLANNING)
def test_planning_losses_match_the_recording(name, precision):
    dtype, tolerance = PRECISIONS[precision]
    predicted, batch, leaf = recorded(dtype)
    term = PLANNING[name]
    close(term.elements(predicted, batch), VECTORS[f"{precision}.{name}.elements"], tolerance)

    loss = term(predicted, batch)
    loss.backward()
    close(loss, VECTORS[f"{precision}.{name}.loss"], tolerance)
    close(leaf["ego_fut_preds"].grad, VECTORS[f"{precision}.{name}.grad_ego_fut_preds"], tolerance)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["bound", "col"])
def test_terms_without_the_mask_match_the_recording(name, precision):
    dtype, tolerance = PRECISIONS[precision]
    predicted, batch, _ = recorded(dtype)
    batch["ego_trajectory_mask"] = torch.ones(5, 6, dtype=torch.bool)
    close(
        PLANNING[name].elements(predicted, batch), VECTORS[f"{precision}.{name}.elements_unmasked"], tolerance
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_latent_divergence_matches_the_recording(precision):
    dtype, tolerance = PRECISIONS[precision]
    predicted, batch, leaf = recorded(dtype)
    close(Latent().elements(predicted, batch), VECTORS[f"{precision}.kl.per_sample"], tolerance)

    loss = Latent()(predicted, batch)
    loss.backward()
    close(loss, VECTORS[f"{precision}.kl.loss"], tolerance)
    for name in ("present_mu", "present_log_sigma", "future_mu", "future_log_sigma"):
        close(leaf[name].grad, VECTORS[f"{precision}.kl.grad_{name}"], tolerance)

    batch["ego_trajectory_mask"][:] = True
    close(Latent().elements(predicted, batch), VECTORS[f"{precision}.kl.per_sample_unmasked"], tolerance)


def test_sums_match_the_recording():
    predicted, batch, leaf = recorded(torch.float64)
    planning = torch.stack([term(predicted, batch) for term in PLANNING.values()]).sum()
    planning.backward()
    close(planning, VECTORS["out64.sum3.loss"], 1e-9)
    close(leaf["ego_fut_preds"].grad, VECTORS["out64.sum3.grad_ego_fut_preds"], 1e-9)
    close(planning + Latent()(predicted, batch), VECTORS["out64.total.loss"], 1e-9)
