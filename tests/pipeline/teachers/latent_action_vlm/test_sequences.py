"""Prompts, their lengths, and where their tokens are."""

import math

import numpy as np
import pytest
import torch

from cache_schema.errors import ClipError, RequestError
from cache_schema.vocabulary.driving import COMMANDS
from pipeline.teachers.latent_action_vlm.images import TOKEN, pooled
from pipeline.teachers.latent_action_vlm.prompt import (
    IMAGE,
    QUESTION,
    SYSTEM,
    VISION_END,
    VISION_START,
    ByteTokenizer,
    EgoState,
    Prompt,
)
from pipeline.teachers.latent_action_vlm.sequences import positions, sequences

IMAGE_ID = 240
TOKENIZER = ByteTokenizer({IMAGE: IMAGE_ID, VISION_START: 241, VISION_END: 242})


def prompt(**changes) -> Prompt:
    return Prompt(**{"tokenizer": TOKENIZER, "cameras": ("CAM_FRONT",), "image_tokens": 2, **changes})


def test_a_prompt_reads_so():
    state = EgoState(COMMANDS.index("change_left"), speed=7.46, acceleration=-0.04, yaw_rate=math.radians(-3))
    assert prompt(cameras=("CAM_FRONT_LEFT", "CAM_FRONT")).text(state) == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
        "front-left: <|vision_start|><|image_pad|><|image_pad|><|vision_end|>\n"
        "front: <|vision_start|><|image_pad|><|image_pad|><|vision_end|>\n"
        "speed 7.5, acceleration 0.0, yaw rate -3.0, command change left\n"
        f"{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "command" not in prompt(ego=False).text(state)


def test_the_state_is_read_from_the_can_bus():
    can_bus = np.arange(18.0)
    assert EgoState.of(3, can_bus) == EgoState(3, speed=7.0, acceleration=10.0, yaw_rate=15.0)


def test_bytes_are_themselves_and_special_tokens_are_not_spelt():
    assert TOKENIZER.encode(f"a{VISION_START}{IMAGE}{IMAGE}{VISION_END}\n") == [97, 241, 240, 240, 242, 10]


def test_no_prompt_is_longer_than_the_length_and_one_is_as_long():
    asked = prompt()
    draw = np.random.default_rng(0)
    lengths = set()
    for command in range(len(COMMANDS)):
        for _ in range(50):
            numbers = draw.uniform(-1, 1, 3) * 10.0 ** draw.integers(-2, 3, 3)
            lengths.add(len(asked.ids(EgoState(command, numbers[0], numbers[1], math.radians(numbers[2])))))
    assert len(lengths) > 5
    assert max(lengths) <= asked.length
    assert len(asked.ids(EgoState(5, -999.9, -999.9, math.radians(-999.9)))) == asked.length


@pytest.mark.parametrize("speed", [1000.0, -1e9, math.nan, math.inf])
def test_a_number_that_has_no_room_leaves_the_clip_out(speed):
    with pytest.raises(ClipError, match="the ego's speed is"):
        prompt().ids(EgoState(0, speed=speed))
    assert prompt(ego=False).ids(EgoState(0, speed=speed))


def test_positions_by_hand():
    """Two tokens of text, an image of 2 rows and 3 columns, one token, and an image again."""
    ids = torch.tensor([5, 6, *[IMAGE_ID] * 6, 7, *[IMAGE_ID] * 6, 8])
    time = [0, 1, *[2] * 6, 5, *[6] * 6, 9]
    row = [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 6, 6, 7, 7, 7, 9]
    column = [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 8, 6, 7, 8, 9]
    assert positions(ids, IMAGE_ID, (2, 3)).tolist() == [time, row, column]


def test_padding_goes_before():
    stacked = sequences([[5, IMAGE_ID, 6], [5, 6]], 5, IMAGE_ID, (1, 1))
    assert stacked.ids.tolist() == [[0, 0, 5, IMAGE_ID, 6], [0, 0, 0, 5, 6]]
    assert stacked.valid.tolist() == [[False, False, True, True, True], [False, False, False, True, True]]
    assert stacked.positions.tolist() == [[[0, 0, 0, 1, 2], [0, 0, 0, 0, 1]]] * 3
    assert stacked.next_position.tolist() == [3, 2]


def test_images_that_are_not_whole_and_prompts_that_are_too_long_are_refused():
    with pytest.raises(RequestError, match=r"5 tokens of an image in a row(.|\n)*6: 2 rows and 3 columns"):
        sequences([[5, *[IMAGE_ID] * 5, 6]], 9, IMAGE_ID, (2, 3))
    with pytest.raises(RequestError, match=r"has 3 tokens(.|\n)*at most 2"):
        sequences([[5, 6, 7]], 2, IMAGE_ID, (2, 3))


def test_cells_by_hand():
    """One image of 2 rows and 4 columns of tokens, one channel, to one row and two columns of cells."""
    tokens = torch.tensor([1.0, 2, 3, 4, 10, 20, 30, 40]).view(1, 8, 1)
    assert pooled(tokens, (2, 4), (1, 2)).tolist() == [[33 / 4], [77 / 4]]
    assert pooled(tokens, (2, 4), (2, 2)).flatten().tolist() == [1.5, 3.5, 15, 35]
    two = torch.cat((tokens, tokens + 100))
    assert pooled(two, (2, 4), (1, 1)).flatten().tolist() == [110 / 8, 910 / 8]
    assert TOKEN == 28
