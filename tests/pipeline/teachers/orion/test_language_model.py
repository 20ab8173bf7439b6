"""The one position that is read, against the whole model."""

import dataclasses

import pytest
import torch

from pipeline.teachers.orion.network import language_model
from pipeline.teachers.orion.network.language_model import LanguageModel
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM

VISION = 37
WAYPOINT = 8 + VISION
"""The prompt of the tiny preset has four words before the vision tokens, and the waypoint token is the fifth
after them; one more follows."""


@pytest.fixture(params=[(1, False), (3, False), (3, True)], ids=["1 layer", "3 layers", "prefix cached"])
def language(request) -> LanguageModel:
    torch.manual_seed(0)
    layers, cached = request.param
    sizes = dataclasses.replace(ORION_TINY_RANDOM.config.language, layers=layers)
    language = LanguageModel(sizes, VISION).eval().requires_grad_(False)
    if cached:
        language.cache_prefix()
    return language


@pytest.fixture
def vision() -> torch.Tensor:
    return torch.randn(2, VISION, 128, generator=torch.Generator().manual_seed(1))


def stock(language: LanguageModel, vision: torch.Tensor) -> torch.Tensor:
    """Hidden states of the whole prompt, put together by hand, as transformers' own model computes them."""
    before, after = (
        language.model.embed_tokens(torch.tensor(words)).expand(len(vision), -1, -1)
        for words in ([1, 11, 12, 13], [14, 15, 16, 17, 128, 2])
    )
    return language.model(inputs_embeds=torch.cat((before, vision, after), dim=1)).last_hidden_state


def test_the_planning_token_is_the_whole_model_s_hidden_state_at_the_waypoint(language, vision):
    whole = stock(language, vision)
    assert whole.shape == (2, WAYPOINT + 2, 128)
    token = language(vision)
    torch.testing.assert_close(token, whole[:, WAYPOINT], rtol=0, atol=1e-5)
    # Neighbours are far away, so the position counts.
    assert (token - whole[:, WAYPOINT - 1]).abs().max() > 1
    assert (token - whole[:, WAYPOINT + 1]).abs().max() > 1


def test_sums_in_place_change_rounding_only(language, vision, monkeypatch):
    token = language(vision)
    monkeypatch.setattr(language_model, "adds_in_place", lambda _: True)  # as on a GPU
    before = vision.clone()
    torch.testing.assert_close(language(vision), token, rtol=0, atol=1e-5)
    assert vision.equal(before)


def test_hidden_states_are_those_of_the_whole_prompt(language, vision):
    torch.testing.assert_close(language.hidden_states(vision), stock(language, vision), rtol=0, atol=1e-5)


def test_the_planning_token_reads_every_vision_token(language, vision):
    token = language(vision)
    for place in (0, VISION - 1):
        changed = vision.clone()
        changed[:, place] += 1
        assert (language(changed) - token).abs().amax(dim=1).min() > 1e-3


def test_a_frame_computes_only_what_depends_on_it_and_is_read(language, vision):
    """No cached position, none behind the waypoint, and one of the last layer."""
    lengths = {}

    def note(name):
        def hook(_, given):
            lengths[name] = given[0].shape[1] if given[0].ndim == 3 else 1

        return hook

    for name, module in language.model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(note(name))
    language(vision)
    layers = language.model.config.num_hidden_layers
    reading = {f"layers.{layers - 1}.self_attn.{name}" for name in ("k_proj", "v_proj")}
    last = {name for name in lengths if name.startswith(f"layers.{layers - 1}.")} - reading
    assert len(lengths) == 7 * layers
    assert {lengths[name] for name in last} == {1}
    assert {lengths[name] for name in lengths.keys() - last} == {WAYPOINT + 1 - (4 if language.prefix else 0)}
