"""Replies of the recorded student, against those that transformers generates for each prompt alone."""

import functools

import pytest
import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration

from student.drive_kd.evaluation.generate import Reply, greedy_replies
from student.drive_kd.model import normalised
from tests.student.drive_kd.recorded import SAMPLES, answer_start, inputs, model_arguments, student, tensors

MOST = 12
NONE = -1  # a token that never comes


def prompt_of(key, trainable):
    ids, runs, images = inputs(key, trainable)
    return ids[: answer_start(key)], runs, images


@functools.cache
def expected(key):
    theirs = InternVLForConditionalGeneration(InternVLConfig(**model_arguments())).eval()
    theirs.load_state_dict(tensors("student_hf_names"))
    ids, _, pixels = prompt_of(key, "all")
    found = theirs.generate(
        input_ids=ids[None],
        attention_mask=torch.ones_like(ids[None]),
        pixel_values=normalised(pixels),
        max_new_tokens=MOST,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    return found[0, len(ids) :].tolist()


def replies(keys, trainable="all", *, stop=NONE, most=MOST):
    model = student(trainable).eval()
    prompts = [model.embed(*prompt_of(key, trainable)) for key in keys]
    return greedy_replies(model.language_model, model.lm_head, prompts, stop=stop, most=most)


@pytest.mark.parametrize("keys", [["s0"], ["s2", "s0", "s1"], [*SAMPLES]])
def test_a_batch_of_prompts_gets_the_replies_of_each_alone(keys):
    assert len({len(prompt_of(key, "all")[0]) for key in keys}) == len(keys)  # so that some are filled up
    assert replies(keys) == [Reply(expected(key), ended=False) for key in keys]


def test_embeddings_give_the_replies_of_pixels():
    keys = [key for key in SAMPLES if f"{key}.student_image_embeds" in tensors("inputs")]
    assert replies(keys, "language") == [Reply(expected(key), ended=False) for key in keys]


def test_a_reply_ends_at_its_token_while_others_go_on():
    keys = [*SAMPLES]
    everything = [expected(key) for key in keys]
    # A token that one reply has early, and another not at all or later.
    stop = everything[0][2]
    found = replies(keys, stop=stop)
    for reply, whole in zip(found, everything, strict=True):
        ends = stop in whole
        assert reply == Reply(whole[: whole.index(stop)] if ends else whole, ended=ends)
    assert found[0].ended
    assert replies(keys[:1], stop=everything[0][0]) == [Reply([], ended=True)]


def test_generation_stops_once_all_replies_have_ended():
    model, steps = student("all").eval(), []
    whole = expected("s0")
    stop = next(token for token in whole[2:] if token not in whole[:2])
    prompt = model.embed(*prompt_of("s0", "all"))
    said = model.language_model.embed_tokens(torch.tensor(whole[:2]))
    model.language_model.register_forward_hook(lambda *_: steps.append(1))
    # The second prompt has the first two tokens of the reply already, and so ends two earlier.
    prompts = [prompt, torch.cat([prompt, said])]
    found = greedy_replies(model.language_model, model.lm_head, prompts, stop=stop, most=MOST)
    until = whole.index(stop)
    assert found == [Reply(whole[:until], ended=True), Reply(whole[2:until], ended=True)]
    assert len(steps) == until + 1


def test_a_reply_has_no_more_tokens_than_wanted():
    for most in (1, 2):
        (found,) = replies(["s0"], most=most)
        assert found == Reply(expected("s0")[:most], ended=False)
    # The last token that is wanted may be the one that ends it.
    (found,) = replies(["s0"], stop=expected("s0")[0], most=1)
    assert found == Reply([], ended=True)
