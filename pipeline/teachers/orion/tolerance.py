"""How far a stage may be from its recording, by the roundings that it went through.

In float32 a stage is within its tolerance where its largest absolute difference is at most ``FLOAT32``. In 16
bits, where its relative error, ||ours - recorded|| / ||recorded||, is at most

    FLOAT32 + CERTAINTY * sqrt(roundings) * u,

the probabilistic bound of Higham and Mary (SIAM J. Sci. Comput. 41(5), 2019) for so many roundings in
sequence, each a relative error of mean 0 and at most u, where no layer amplifies the error of the one before:
each normalises what it reads, and adds what it computes to that. Where the heads on a GPU round to TF32,
which has float16's u, their layers count, too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from pipeline.teachers.precision import TYPES

if TYPE_CHECKING:
    from pipeline.teachers.orion.network.config import OrionConfig
    from pipeline.teachers.orion.precision import PrecisionConfig

FLOAT32 = 1e-4
"""Largest difference in float32: 1,700 times its unit roundoff, and values are of order 1."""

CERTAINTY = 5.0
"""A chain of roundings passes its bound with a chance of at most 2 exp(-CERTAINTY^2 / 2), 7e-6 a row."""

ROUNDINGS = 21
"""Roundings in sequence of one layer, of the backbone and of the language model alike.

Attention 12: two of norms and biases (Llama's norm has two, EVA's one, and a bias behind its attention),
weights and output of the first projections, rotary table, product with it and sum, attention weights, their
sum over values, weights and output of the last projection, sum with the input. MLP 9: again two of norms,
weights and output of the first maps, SiLU, product, weights and output of the last, sum with the input."""

BEFORE_IMAGES = {"pos_embed": 1, "can_bus_input": 0, "can_bus_token": 1, "mq_out": 2}
"""Stages that the images have no part in, and the layers that a head computes them with: a stack of linear
maps counts as one."""

BESIDE_DECODER = 4
"""Such layers of a head besides its decoder's: before it, two after it, and what projects its output."""

AFTER_LANGUAGE = (
    "llm_hidden",
    "planning_token",
    "present_mu",
    "present_log_sigma",
    "future_states",
    "ego_fut_preds_all",
    "traj",
)
"""Stages that the language model has part in."""

HISTORY_TOKENS = "state.det.memory_scene_query"
"""The one part of a memory that is computed and not chosen or copied."""


def derived_tolerance(stage: str, config: OrionConfig, placement: PrecisionConfig, device: str) -> float:
    """Return the largest difference of a stage that passes; see the module."""
    if placement.precision == "fp32":
        return FLOAT32
    u = torch.finfo(TYPES[placement.precision]).eps / 2
    in_16_bits = config.backbone.depth
    in_heads = BESIDE_DECODER + max(config.detection.decoder.layers, config.lanes.decoder.layers)
    if stage in BEFORE_IMAGES or (stage.startswith("state.") and stage != HISTORY_TOKENS):
        in_16_bits, in_heads = 0, BEFORE_IMAGES.get(stage, 0)  # poses, times and signals are copies
    elif stage == "img_feats":
        in_heads = 0
    elif stage in AFTER_LANGUAGE:
        in_16_bits += config.language.layers
    u_heads = torch.finfo(torch.float16).eps / 2 if placement.rounds_heads(device) else 0.0
    return FLOAT32 + CERTAINTY * math.sqrt(ROUNDINGS * (in_16_bits * u**2 + in_heads * u_heads**2))
