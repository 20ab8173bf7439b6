"""The student's full-width input, derived from what is stored.

All but one of ORION's vision tokens are one linear map 256 -> 4096 of what the dataset stores as
``scene_queries``, so that the stored form is 15.6 times smaller and loses nothing but fp16 rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cache_schema.errors import DatasetError
from cache_schema.format.features import FeatureSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cache_schema.format.manifest import Manifest

VISION_TOKENS = "vision_tokens"
"""Name of what is derived. A dataset may as well store a feature of this name."""
SOURCES = ("scene_queries", "ego_token")
"""Features that it is derived from."""
HEADS = "teacher_heads"
"""Asset with the projections."""
PROJECTION_OF = {"scene": "scene", "history": "scene", "map": "map"}
"""Segment of ``scene_queries`` -> its projection in the asset ``teacher_heads``."""


def vision_tokens_spec(manifest: Manifest) -> FeatureSpec | None:
    """Say what can be derived in a dataset: (Q + 1, D) float32, or None without all that it needs."""
    queries, ego_token = (manifest.feature(name) for name in SOURCES)
    if queries is None or ego_token is None or len(queries.shape) != 2 or len(ego_token.shape) != 1:
        return None
    segments = [name for name, _ in queries.segments]
    assets = [asset.name for asset in manifest.assets]
    if (
        segments.count("map") != 1
        or not {*segments} <= {*PROJECTION_OF}
        or f"{HEADS}.safetensors" not in assets
    ):
        return None
    before_map = segments.index("map")
    return FeatureSpec(
        name=VISION_TOKENS,
        shape=(queries.shape[0] + 1, *ego_token.shape),
        axes=("token", "channel"),
        dtype="float32",
        role="input",
        segments=(*queries.segments[:before_map], ("ego", 1), *queries.segments[before_map:]),
        description="Tokens that the language model saw, derived from scene_queries and ego_token.",
    )


def check_heads(heads: Mapping[str, np.ndarray], queries: FeatureSpec, ego_token: FeatureSpec) -> None:
    """Check that projections fit what they project.

    Raises:
        DatasetError: One is missing, or has another shape.
    """
    for head in sorted({PROJECTION_OF[name] for name, _ in queries.segments}):
        shapes = {
            f"{head}.weight": (*ego_token.shape, queries.shape[1]),
            f"{head}.bias": ego_token.shape,
        }
        for name, shape in shapes.items():
            if name not in heads or heads[name].shape != shape:
                raise DatasetError(
                    f"the asset {HEADS} has {name} of {heads[name].shape if name in heads else 'no shape'}",
                    expected=f"shape {shape}, which projects {queries.name} to the width of {ego_token.name}",
                    repair="fetch the asset again, or read the features that are stored",
                )


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
