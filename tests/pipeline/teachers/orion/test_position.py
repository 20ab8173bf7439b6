"""Encodings against numbers worked out by hand."""

import math

import pytest
import torch

from pipeline.teachers.orion.network.attention import attention_mask
from pipeline.teachers.orion.network.backbone import apply_rotary, rotary_table
from pipeline.teachers.orion.network.config import DETECTION_RANGE_M, OrionConfig
from pipeline.teachers.orion.network.position import (
    Volume,
    frequency_encoding,
    inverse_sigmoid,
    time_encoding,
    token_pixels,
)


def test_frequencies_come_in_blocks():
    code = frequency_encoding(torch.tensor([0.1, 0.2]))
    expected = [wave(2**k * x) for k in range(6) for wave in (math.sin, math.cos) for x in (0.1, 0.2)]
    assert code.tolist() == pytest.approx(expected, abs=1e-6)


def test_time_takes_sine_and_cosine_by_turns():
    code = time_encoding(torch.tensor([0.3], dtype=torch.float64), 4)
    angles = (2 * math.pi * 0.3, 2 * math.pi * 0.3 / 100)
    assert code.dtype == torch.float32
    assert code[0].tolist() == pytest.approx([f(a) for a in angles for f in (math.sin, math.cos)], abs=1e-6)


def test_a_logit_is_finite_outside_its_range():
    logits = inverse_sigmoid(torch.tensor([-3.0, 0.5, 4.0]))
    assert logits.tolist() == pytest.approx([-11.512925, 0, 11.512925], abs=1e-5)


def test_a_volume_maps_its_corners():
    volume = Volume(DETECTION_RANGE_M)
    assert volume.normalise(torch.tensor([-51.2, 51.2, -1.0])).tolist() == [0, 1, 0.5]
    assert volume.denormalise(torch.tensor([0.5, 0.25, 1.0])).tolist() == pytest.approx(
        [0, -25.6, 3], abs=1e-5
    )


def test_depths_begin_at_one_metre_and_end_at_59():
    pixels = token_pixels(OrionConfig())
    assert pixels.shape == (1600, 64, 4)
    assert pixels[0, 0].tolist() == [8, 8, 1, 1]
    assert pixels[41, 0].tolist() == [24, 24, 1, 1]  # the second token of the second row
    assert pixels[1, 63].tolist() == pytest.approx([24 * 59.3477, 8 * 59.3477, 59.3477, 1], rel=1e-5)


def test_rotation_turns_adjacent_channels_by_row_then_by_column():
    cos, sin = rotary_table(6, 4, 8)  # positions 0, 4, 8, 12, and again 0, 4; frequencies 1 and 0.01
    angles = (4, 4, 0.04, 0.04, 8, 8, 0.08, 0.08)  # row 1, column 2
    assert cos[1, 2, 0].tolist() == pytest.approx([math.cos(a) for a in angles], abs=1e-6)
    assert cos[5, 2].equal(cos[1, 2])  # row 1 of the next window
    turned = apply_rotary(torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 0]), (cos[1, 2, 0], sin[1, 2, 0]))
    expected = [math.cos(4), math.sin(4), -math.sin(0.04), math.cos(0.04), 0, 0, 0, 0]
    assert turned.tolist() == pytest.approx(expected, abs=1e-6)


def test_only_extra_queries_see_extra_queries():
    seen = attention_mask(extra=1, queries=2, memory=1).int().tolist()
    assert seen == [[1, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]]
