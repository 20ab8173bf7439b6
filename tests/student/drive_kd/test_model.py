"""The student's network against the recorded maps and logits, and against transformers' own class."""

import pytest
import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration

from student.drive_kd.model import normalised, text_and_vision
from tests.student.drive_kd.recorded import (
    META,
    SAMPLES,
    image_runs,
    inputs,
    model_arguments,
    relative,
    student,
    tensors,
)

LAYERS = range(META["student"]["L"])


@pytest.mark.parametrize("trainable", ["language", "all"])
@pytest.mark.parametrize("key", SAMPLES)
def test_maps_and_logits_are_the_recorded_ones(key, trainable):
    maps, recorded = tensors("maps"), tensors("inputs")
    output = student(trainable)(*inputs(key, trainable), layers=LAYERS)
    assert output.logits.dtype == torch.float32
    if f"{key}.student_logits_last8" in recorded:
        assert relative(output.logits[-8:], recorded[f"{key}.student_logits_last8"]) <= 1e-5
    if f"{key}.student" in maps:
        assert relative(torch.stack([output.attention[i] for i in LAYERS]), maps[f"{key}.student"]) <= 1e-5
    is_image = recorded[f"{key}.is_image"].bool()
    for name, layer in (("first", 0), ("penult", len(LAYERS) - 2)):
        if f"{key}.student_tv.{name}" in maps:
            block = output.attention[layer][~is_image][:, is_image]
            assert relative(block, maps[f"{key}.student_tv.{name}"]) <= 1e-5


def test_pixels_and_the_places_of_tokens_are_the_recorded_ones():
    recorded = tensors("inputs")
    for key in SAMPLES:
        _, runs, pixels = inputs(key, "all")
        # Bytes that were taken out of normalised values again, and are exact only if these are.
        if f"{key}.pixel_values" in recorded:
            assert (normalised(pixels) - recorded[f"{key}.pixel_values"]).abs().max() <= 1e-6
        is_image = recorded[f"{key}.is_image"].bool()
        text, vision = text_and_vision(runs, len(is_image), int(is_image.sum()))
        assert torch.equal(text, (~is_image).nonzero()[:, 0])
        assert torch.equal(vision, is_image.nonzero()[:, 0])
        assert torch.equal(runs, image_runs(is_image))


def test_only_the_layers_that_are_read_return_attention_and_the_others_compute_the_same():
    model, sample = student("language"), inputs("s0", "language")
    everything = model(*sample, layers=LAYERS)
    for layers in ((), (0,), (len(LAYERS) - 2,)):
        some = model(*sample, layers=layers)
        assert some.attention.keys() == set(layers)
        assert relative(some.logits, everything.logits) <= 1e-5
    last = model(*sample, logits_from=len(sample[0]) - 3)
    assert relative(last.logits, everything.logits[-3:]) <= 1e-5


def test_attention_is_causal_and_has_a_gradient_in_training_mode():
    model = student("language").train()
    attention = model(*inputs("s1", "language"), layers=LAYERS).attention
    for layer in LAYERS:
        assert not attention[layer].triu(1).any()
        assert torch.allclose(attention[layer].sum(1), torch.ones(()), atol=1e-5)
    attention[0][-1, 0].backward()
    assert model.language_model.layers[0].self_attn.q_proj.weight.grad.any()


def test_in_bfloat16_the_softmax_stays_in_float32():
    model, sample = student("language"), inputs("s0", "language")
    exact = model(*sample, layers=(0,)).attention[0]
    with torch.autocast("cpu", torch.bfloat16):
        output = model(*sample, layers=(0,))
    attention = output.attention[0]
    assert attention.dtype == output.logits.dtype == torch.float32
    # Rounded to bfloat16, rows would add up to 1 within 2**-9 only.
    assert (attention.sum(1) - 1).abs().max() <= 1e-5
    assert relative(attention, exact) <= 2**-6


def test_its_weights_are_named_as_in_transformers_and_are_not_tied():
    arguments = model_arguments()
    # As configurations of the Hub are: they do not say that the weights are not tied.
    del arguments["tie_word_embeddings"], arguments["text_config"]["tie_word_embeddings"]
    config = InternVLConfig(**arguments)
    assert config.tie_word_embeddings
    theirs = InternVLForConditionalGeneration(InternVLConfig(**model_arguments())).state_dict()
    model = student("all")
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in theirs.items()
    }
    language = student("language").state_dict()
    assert language.keys() == {name for name in theirs if "language_model" in name or "lm_head" in name}
    untied = type(model)(config, "language")
    assert not untied.config.tie_word_embeddings
    assert not untied.config.text_config.tie_word_embeddings
    weights = untied.state_dict()
    names = ("lm_head.weight", "model.language_model.embed_tokens.weight")
    assert weights[names[0]].data_ptr() != weights[names[1]].data_ptr()
    assert not torch.equal(*(tensors("student_hf_names")[name] for name in names))


def test_the_language_model_can_be_used_by_itself_behind_a_forward_pass():
    # As generation does, with transformers' own masks; the layers that were read must not stay eager.
    model, sample = student("language"), inputs("s1", "language")
    expected = model(*sample, layers=LAYERS).logits
    hidden = model.language_model(inputs_embeds=model.embed(*sample)[None]).last_hidden_state[0]
    assert relative(model.lm_head(hidden), expected) <= 1e-5
