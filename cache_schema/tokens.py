"""The student's full-width input, derived from what is stored.

All but one of ORION's vision tokens are one linear map 256 -> 4096 of what the dataset stores as
``scene_queries``, so that the stored form is 15.6 times smaller and loses nothing but fp16 rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cache_schema.features import FeatureSpec

PROJECTION_OF = {"scene": "scene", "history": "scene", "map": "map"}
"""Segment of ``scene_queries`` -> its projection in the asset ``teacher_heads``."""


def vision_tokens(
    queries: np.ndarray, ego_token: np.ndarray, heads: Mapping[str, np.ndarray], spec: FeatureSpec
) -> np.ndarray:
    """Project stored queries to the tokens that the language model saw.

    Args:
        queries: (B, Q, E) ``scene_queries``.
        ego_token: (B, D) ``ego_token``, which is made at full width.
        heads: Asset ``teacher_heads``: ``scene.weight`` (D, E), ``scene.bias`` (D), and the same for ``map``.
        spec: Feature ``scene_queries``, whose segments name the parts.

    Returns:
        (B, Q + 1, D) float32 in the teacher's order: scene, history, ego, map.
    """
    parts, begin = [], 0
    for segment, length in spec.segments:
        if segment == "map":
            parts.append(ego_token.astype(np.float32)[:, None])
        head = PROJECTION_OF[segment]
        part = queries[:, begin : begin + length].astype(np.float32)
        parts.append(part @ heads[f"{head}.weight"].T + heads[f"{head}.bias"])
        begin += length
    return np.concatenate(parts, axis=1)
