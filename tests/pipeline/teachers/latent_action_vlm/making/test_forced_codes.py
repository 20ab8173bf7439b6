"""The likelihood of given codes against recorded vectors, and what training may move."""

import copy

import torch
from torch import nn

from pipeline.teachers.latent_action_vlm.extractor import latent_actions
from pipeline.teachers.latent_action_vlm.making.forced_codes import CodeRows, forced_nll
from pipeline.teachers.latent_action_vlm.making.lora import adapt, adapters
from tests.pipeline.teachers.latent_action_vlm.recorded_vlm import recorded


def nll_of(model, rows, *, padding=0):
    it = recorded()
    return forced_nll(model, rows, it.images, it.prompts(padding=padding), it.tensors["in.codes"])


def test_the_recorded_likelihood_with_and_without_padding():
    it = recorded()
    for padding in (0, 5):
        nll = nll_of(it.model, CodeRows(it.model, it.code_ids), padding=padding)
        torch.testing.assert_close(nll.sum(1), it.tensors["forced.nll_sum"], rtol=1e-5, atol=0)


def test_new_adapters_change_nothing_and_their_gradients_reach_all_that_is_trained():
    it = recorded()
    model = copy.deepcopy(it.model)
    model.lm_head.weight = model.model.language_model.embed_tokens.weight
    weights = adapt(model.model.language_model, rank=4, alpha=8, seed=0)
    rows = CodeRows(model, it.code_ids)
    nll = nll_of(model, rows)
    torch.testing.assert_close(nll.sum(1), it.tensors["forced.nll_sum"], rtol=1e-5, atol=0)
    nll.sum().backward()
    layers = [*adapters(model.model.language_model)]
    assert len(layers) == 7 * it.model.config.text_config.num_hidden_layers
    assert all(adapter.up.grad.abs().max() > 0 for _, adapter in layers)
    assert rows.tied
    assert rows.read.grad.abs().amax(1).min() > 0
    trained = {id(weight) for weight in (*weights.values(), *rows.weights.values())}
    others = [weight for weight in model.parameters() if id(weight) not in trained]
    assert all(weight.grad is None and not weight.requires_grad for weight in others)


def test_a_merged_adapter_is_the_same_layer():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(6, 5))
    adapt(layer, rank=2, alpha=6, seed=1)
    nn.init.normal_(layer[0].up)
    inputs = torch.randn(3, 6)
    merged = nn.functional.linear(inputs, layer[0].merged, layer[0].layer.bias)
    torch.testing.assert_close(layer(inputs), merged)
    by_hand = layer[0].layer(inputs) + 3 * inputs @ layer[0].down.T @ layer[0].up.T
    torch.testing.assert_close(merged, by_hand)


def test_trained_rows_are_read_and_said():
    """As a model whose embedding and head have these rows in their places."""
    it = recorded()
    rows = CodeRows(it.model, it.code_ids)
    with torch.no_grad():
        rows.read += 0.1 * torch.randn(rows.read.shape, generator=torch.Generator().manual_seed(3))
        changed = copy.deepcopy(it.model)
        changed.lm_head.weight = changed.model.language_model.embed_tokens.weight
        changed.lm_head.weight[it.code_ids.start : it.code_ids.stop] = rows.read
        told = latent_actions(
            changed, it.images, it.prompts(), it.code_ids, it.count, given=it.tensors["in.codes"]
        )
        nll = nll_of(it.model, rows)
    among = told.code_logits.log_softmax(-1).gather(-1, told.codes[..., None])[..., 0]
    torch.testing.assert_close(nll, -(among + told.code_mass.log()), rtol=0, atol=1e-4)
    assert (nll.sum(1) - it.tensors["forced.nll_sum"]).abs().min() > 0.01
