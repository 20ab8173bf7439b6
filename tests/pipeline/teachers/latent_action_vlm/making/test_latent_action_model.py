"""Both stages against vectors of UniVLA's own code: stages, losses, gradients and five steps of AdamW."""

import json

import pytest
import torch
from safetensors.torch import load_file

from pipeline.teachers.latent_action_vlm.making.latent_action_model import (
    EgoModel,
    EnvironmentModel,
    LatentActionConfig,
)
from tests.paths import GOLDEN

RECORDED = GOLDEN / "latentvla"
ACTIVATIONS, GRADIENTS = 2e-5, 1e-5


@pytest.fixture(scope="module")
def recorded():
    return load_file(RECORDED / "lam.safetensors")


@pytest.fixture(scope="module")
def meta():
    return json.loads((RECORDED / "lam.meta.json").read_text())


@pytest.fixture(scope="module")
def config(meta):
    sizes = meta["config"]
    return LatentActionConfig(
        feature_width=sizes["dino"],
        condition_width=sizes["cond"],
        width=sizes["model"],
        heads=sizes["heads"],
        encoder_layers=sizes["enc"],
        decoder_layers=sizes["dec"],
        code_width=sizes["latent"],
        tokens=sizes["n"],
        ego_codes=sizes["codes_ego"],
        environment_codes=sizes["codes_env"],
    )


def below(recorded, prefix):
    return {name.removeprefix(prefix): value for name, value in recorded.items() if name.startswith(prefix)}


@pytest.fixture(params=["stage1", "stage2"])
def stage(request, recorded, config):
    """Name of a stage, its model with the recorded weights, and what it is called with."""
    model = {"stage1": EnvironmentModel, "stage2": EgoModel}[request.param](config)
    model.load_state_dict(below(recorded, f"{request.param}.param."))
    inputs = [recorded["in.features"]] + ([recorded["in.condition"]] if request.param == "stage1" else [])
    return request.param, model, inputs


def loss_of(output):
    return output.mse + output.environment.loss + (0 if output.ego is None else output.ego.loss)


def test_every_recorded_stage(stage, recorded):
    name, model, inputs = stage
    seen = {}
    for place, module in {
        "encoder_in": model.encoder.ffn,
        "encoder_block0": model.encoder.transformer_blocks[0],
        "encoder_out": model.encoder,
        "decoder_in": model.decoder.ffn,
        "decoder_out": model.decoder,
    }.items():
        module.register_forward_hook(lambda _, __, out, place=place: seen.__setitem__(place, out))
    output = model(*inputs)
    kinds = {"": output.environment} if output.ego is None else {"": output.ego, "_env": output.environment}
    for suffix, found in kinds.items():
        codebook = model.vq_action if suffix == "" and output.ego is not None else model.vq
        uncontrol = suffix.replace("_env", "_uncontrol")
        seen |= {
            f"encoder_latent{suffix}": found.latent,
            f"code_vectors{suffix}": codebook.codebook(found.codes),
            f"z_q{uncontrol}": found.value[:, None],
            f"loss.codebook{suffix}": found.codebook_loss[None],
            f"loss.commitment{suffix}": found.commitment_loss[None],
        }
        assert torch.equal(found.codes, recorded[f"{name}.indices{uncontrol}"])
    seen |= {
        "recon": output.features[:, None],
        "target": inputs[0][:, 1:],
        "loss.mse": output.mse[None],
        "loss.total": loss_of(output)[None],
    }
    of_stage = {
        key
        for key in below(recorded, f"{name}.")
        if not key.startswith(("param.", "grad.", "train", "indices", "usage"))
    }
    assert seen.keys() == of_stage
    for place, value in seen.items():
        torch.testing.assert_close(value, recorded[f"{name}.{place}"], rtol=0, atol=ACTIVATIONS, msg=place)


def test_gradients(stage, recorded):
    name, model, inputs = stage
    loss_of(model(*inputs)).backward()
    expected = below(recorded, f"{name}.grad.")
    found = {key: weight.grad for key, weight in model.named_parameters() if weight.grad is not None}
    assert found.keys() == expected.keys()
    # Those of temporal queries and keys are small, because a softmax over two frames hardly changes: the
    # recording is as far from a float64 computation as we are.
    rounding = torch.finfo(torch.float32).eps * max(gradient.abs().max() for gradient in expected.values())
    for key, gradient in expected.items():
        limit = GRADIENTS * gradient.abs().max() + rounding
        assert (found[key] - gradient).abs().max() <= limit, key


def test_five_steps_of_adamw(stage, recorded, meta):
    name, model, inputs = stage
    options = meta["optimizer"]
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        weights,
        lr=options["lr"],
        weight_decay=options["weight_decay"],
        betas=tuple(options["betas"]),
        eps=options["eps"],
    )
    losses, norms = [], []
    for _ in range(options["steps"]):
        loss = loss_of(model(*inputs))
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(weights, options["clip_norm"]))
        optimizer.step()
        losses.append(loss.detach())
    for what, values in (("train_losses", losses), ("train_grad_norms", norms)):
        torch.testing.assert_close(torch.stack(values), recorded[f"{name}.{what}"], rtol=2e-5, atol=0)
    trained = {"trained_codebook": model.vq if name == "stage1" else model.vq_action}
    if name == "stage2":
        trained["trained_codebook_env"] = model.vq
    for what, quantiser in trained.items():
        found = quantiser.codebook.weight
        torch.testing.assert_close(found, recorded[f"{name}.{what}"], rtol=0, atol=ACTIVATIONS)


def test_what_stage_2_takes_from_stage_1(config, meta):
    stage_1 = EnvironmentModel(config)
    kin = EgoModel.after(stage_1, keep_encoder=False)
    taken = {**stage_1.state_dict()}
    equal = {
        name for name, value in kin.state_dict().items() if name in taken and torch.equal(taken[name], value)
    }
    norms = {name for name in equal if ".norm" in name or ".ffn." in name}  # every new LayerNorm is the same
    assert equal - norms == {*meta["stage1_to_stage2"]}
    frozen = [name for name, weight in kin.named_parameters() if not weight.requires_grad]
    assert frozen == meta["frozen_in_stage2"]


def test_environment_codes_of_a_frozen_stage_1(config, recorded):
    """The whole of stage 1 gives them; nothing of it is trained, and new queries are the ego's alone."""
    stage_1 = EnvironmentModel(config)
    stage_1.load_state_dict(below(recorded, "stage1.param."))
    model = EgoModel.after(stage_1, keep_encoder=True)
    output = model(recorded["in.features"], recorded["in.condition"])
    assert torch.equal(output.environment.codes, recorded["stage1.indices"])
    assert output.ego is not None
    (output.mse + output.ego.loss).backward()
    reached = {name.partition(".")[0] for name, weight in model.named_parameters() if weight.grad is not None}
    assert "environment" not in reached
    assert reached >= {"action_latent_controllable", "encoder", "to_codebook", "vq_action", "decoder"}
    assert not any(name in ("action_latent", "to_codebook_uncontrol.weight") for name in model.state_dict())


def test_of_equally_near_codes_the_lowest_is_taken(config):
    model = EnvironmentModel(config)
    with torch.no_grad():
        model.vq.codebook.weight[:] = 1.0
    assert (model.vq(torch.zeros(2, config.tokens, config.code_width)).codes == 0).all()


def test_a_condition_of_another_sample_changes_nothing(recorded, config):
    """Rows of a batch are samples of their own, whatever the others' conditions are."""
    model = EnvironmentModel(config)
    features, condition = recorded["in.features"], recorded["in.condition"]
    changed = condition.clone()
    changed[1:] = 0.0
    one, other = (model.encode(features, given).latent[0] for given in (condition, changed))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
