"""The terms of the loss and their gradients against the recorded ones."""

import pytest
import torch
import torch.nn.functional as F

from cache_schema.errors import DatasetError
from student.drive_kd.config import Pi
from student.drive_kd.losses import LOSSES, Loss
from student.system import build_losses
from student.training.gradients import separate_gradients
from tests.student.drive_kd.recorded import (
    META,
    SAMPLES,
    TERMS,
    WITH_MAPS,
    flat,
    names_of,
    relative,
    sample,
    student,
    tensors,
)

ALL = build_losses(LOSSES, {name: {} for name in TERMS.values()}, Loss)
EVERY_LAYER = range(META["student"]["L"])


def terms_of(model, one):
    layers = {layer for loss in ALL.values() for layer in loss.layers(model)}
    output = model(*one[:3], layers=layers, logits_from=one.answer_start - 1)
    return {name: loss(output, one, model) for name, loss in ALL.items()}


@pytest.mark.parametrize("shared", [0, 1, 29])
@pytest.mark.parametrize("key", WITH_MAPS)
def test_losses_are_the_recorded_ones_wherever_the_prefix_ends(key, shared):
    terms = terms_of(student("language"), sample(key, "language", shared=shared))
    for term, name in TERMS.items():
        assert relative(terms[name], SAMPLES[key]["losses"][term]) <= 1e-5, term


@pytest.mark.parametrize("key", WITH_MAPS)
def test_gradients_and_what_no_loss_reaches_are_the_recorded_ones(key):
    model = student("all").train()
    terms = terms_of(model, sample(key, "all", shared=7))
    named = dict(model.named_parameters())
    scale = META["loss_scale"]
    found = separate_gradients(terms, list(named.values()), lambda loss: loss * scale)
    for term, name in TERMS.items():
        gradients = {key: value for key, value in zip(named, found[name], strict=True) if value is not None}
        recorded = SAMPLES[key]
        missing = {ours for theirs in recorded["missing_gradients"][term] for ours in names_of(theirs)}
        assert named.keys() - gradients.keys() == missing, term
        norm = torch.stack([value.square().sum() for value in gradients.values()]).sum().sqrt()
        assert relative(norm, recorded["norms"][term]) <= 1e-5, term
        if f"{key}.{term}" in tensors("gradients"):
            assert relative(flat(gradients), tensors("gradients")[f"{key}.{term}"]) <= 1e-5, term


def test_the_layers_that_learn_are_the_recorded_ones():
    assert student("language").group_layers == tuple(map(int, META["layer_groups"]))


def test_labels_are_the_recorded_ones():
    for key in WITH_MAPS:
        one, labels = sample(key, "language", shared=0), tensors("inputs")[f"{key}.labels"]
        assert torch.equal(one.token_ids[one.answer_start :], labels[labels != -100].long())
        assert (labels[: one.answer_start] == -100).all()


@torch.no_grad()
def test_a_cosine_is_that_of_whole_maps():
    model, one = student("language"), sample("s0", "language", shared=11)
    output = model(*one[:3], layers=EVERY_LAYER)
    losses = build_losses(LOSSES, {name: {"distance": "cosine"} for name in ("reasoning", "planning")}, Loss)
    groups = tensors("maps")["s0.r.groups"]
    pairs = [(output.attention[layer], group) for layer, group in enumerate(groups)]
    apart = torch.stack([1 - F.cosine_similarity(a.flatten(), b.flatten(), dim=0) for a, b in pairs]).mean()
    assert float(losses["reasoning"](output, one, model)) == pytest.approx(float(apart), rel=1e-4)
    same = one._replace(targets={"attention_penultimate": _block(output.attention[EVERY_LAYER[-2]], one)})
    assert float(losses["planning"](output, same, model)) == pytest.approx(0, abs=1e-6)
    nothing = one._replace(targets={"attention_penultimate": 0 * same.targets["attention_penultimate"]})
    assert float(losses["planning"](output, nothing, model)) == 1


def _block(attention, one):
    is_image = torch.zeros(len(one.token_ids), dtype=torch.bool)
    for begin, end in one.image_runs.tolist():
        is_image[begin:end] = True
    return attention[~is_image][:, is_image].detach()


@pytest.mark.parametrize(
    ("name", "feature"),
    [
        ("perception", "attention_first"),
        ("planning", "attention_penultimate"),
        ("reasoning", "attention_groups"),
        ("reasoning", "attention_groups_to_prefix"),
    ],
)
def test_attention_to_other_tokens_is_refused(name, feature):
    model, one = student("language"), sample("s0", "language", shared=5)
    output = model(*one[:3], layers=EVERY_LAYER)
    for wrong in (one.targets[feature][:, :-1], one.targets[feature][..., :0]):
        other = one._replace(targets={**one.targets, feature: wrong})
        with pytest.raises(DatasetError, match=f"{feature} of a sample of perception with"):
            ALL[name](output, other, model)


def test_pi_is_normalised_and_what_is_negative_counts_nothing():
    pi = Pi(perception=(0.8, 0.1, 0.1), reasoning=(-1, 3, 1), planning=(0, 0, 0))
    assert pi.row("perception") == pytest.approx({"perception": 0.8, "reasoning": 0.1, "planning": 0.1})
    assert pi.row("reasoning") == {"perception": 0, "reasoning": 0.75, "planning": 0.25}
    assert pi.row("planning") == {"perception": 0, "reasoning": 0, "planning": 0}
    assert Pi().row("reasoning") == {"perception": 0, "reasoning": 1, "planning": 0}
