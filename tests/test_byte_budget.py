"""What a frame of the released ORION takes, by arithmetic; and what int8 does to the tokens made from it.

The reference's files hold 4,518,808 bytes a frame before deflate, which saves 8 %: spec Orion-Lite 1.4.
"""

import numpy as np
import pytest

from cache_schema.format.encodings import decode, encode, stored_arrays
from cache_schema.format.features import FeatureSpec
from cache_schema.format.layout import file_sizes
from cache_schema.vocabulary.driving import GROUND_TRUTH
from pipeline.teachers.orion.presets import ORION_7B
from tests.tokens import vision_tokens

INCUMBENT = {
    # Values of float16 a frame.
    "visual_queries": 529 * 4096,
    "planning_token": 4096,
    "ego_fut_trajs": 6 * 2,
    "ego_fut_masks": 6,
    "ego_fut_cmd": 6,
    "lane_scores": 300 * 6,
    "lane_preds": 300 * 11 * 2,
    "agent_preds": 900 * 2,
    "agent_fut_preds": 900 * 6 * 6 * 2,
    "agent_score_preds": 900 * 9,
    "agent_fut_cls_preds": 900 * 6,
}
INCUMBENT_BYTES = 4_518_808
SAME_CONTENT = ("ego_trajectory", "ego_trajectory_mask", "command")
"""Truth that the reference's files hold; ours have more."""
FRAMES = 248
"""A common length of a Bench2Drive clip."""


def with_int8(spec: FeatureSpec) -> FeatureSpec:
    changes = {"encoding": "int8-per-channel"} if spec.name == "scene_queries" else {}
    return FeatureSpec(**spec.model_dump() | changes)


def bytes_a_frame(features: tuple[FeatureSpec, ...]) -> float:
    """Checksums and indices included."""
    arrays = [array for spec in features for array in stored_arrays(spec)]
    return sum(sum(file_sizes(array, FRAMES).values()) for array in arrays) / FRAMES


def test_a_frame_takes_a_twelfth_of_the_incumbents_and_a_twentieth_with_int8():
    assert 2 * sum(INCUMBENT.values()) == INCUMBENT_BYTES
    truth = tuple(spec for spec in GROUND_TRUTH if spec.name in SAME_CONTENT)
    lossless = (*ORION_7B.features, *truth)
    # Values alone: 2 bytes of each array but the truth's 48 + 6 + 1.
    values = 2 * (528 * 256 + 2 * 4096 + 300 * (22 + 6) + 900 * (2 + 9 + 12)) + 55
    assert values == 344_975
    assert values < bytes_a_frame(lossless) < values + 150
    assert bytes_a_frame(lossless) <= INCUMBENT_BYTES / 12
    small = tuple(map(with_int8, lossless))
    # Half of the queries, and a float32 for each of their 256 channels with a checksum and an index entry.
    saved = 528 * 256 - 256 * 4 - 20
    assert bytes_a_frame(small) == pytest.approx(bytes_a_frame(lossless) - saved, abs=1)
    assert bytes_a_frame(small) <= INCUMBENT_BYTES / 20


@pytest.mark.parametrize("seed", range(3))
def test_tokens_made_from_int8_queries_are_the_same_tokens(seed: int):
    """Channels of very different size, eight of them massive and off centre, as language models have them."""
    rng = np.random.default_rng(seed)
    queries_spec = with_int8(ORION_7B.features[0])
    queries, channels, width = *queries_spec.shape, 4096
    scales = rng.lognormal(sigma=1.0, size=channels)
    scales[:8] *= rng.uniform(20, 80, 8)
    noise = rng.standard_normal((2, queries, channels)) + rng.standard_normal((2, 1, channels))
    values = (noise * scales).astype(np.float16)
    weight = {
        name: rng.standard_normal((width, channels)).astype(np.float32) / 16 for name in ("scene", "map")
    }
    heads = {f"{name}.weight": matrix for name, matrix in weight.items()}
    heads |= {f"{name}.bias": rng.standard_normal(width).astype(np.float32) for name in weight}
    ego = rng.standard_normal((2, width)).astype(np.float16)

    read = decode(queries_spec, encode(queries_spec, values))
    before, after = (vision_tokens(array, ego, heads, queries_spec) for array in (values, read))
    lengths = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
    cosine = (before * after).sum(-1, dtype=np.float64) / lengths
    assert cosine.mean(1).min() >= 0.9999
    # The worst token is one that is small in the massive channels, whose steps are large.
    assert cosine.min() >= 0.998
    # A cosine hides what happens to small channels: so each of them by itself.
    exact = values.astype(np.float64)
    error = np.sqrt(np.square(read - exact).mean(1)) / exact.std(1)  # (B, C)
    assert np.median(error) < 0.012
    assert error.max() < 0.03
