"""Vision tokens as a reader derives them, from arrays at hand."""

from collections.abc import Mapping

import numpy as np

from cache_schema.format.features import FeatureSpec
from cache_schema.vocabulary import orion


def vision_tokens(
    queries: np.ndarray, ego_token: np.ndarray, heads: Mapping[str, np.ndarray], spec: FeatureSpec
) -> np.ndarray:
    """(n, Q, E) queries of the feature ``spec`` and (n, D) ego tokens to (n, Q + 1, D)."""
    ego = FeatureSpec(
        name="ego_token", shape=ego_token.shape[1:], axes=("channel",), dtype="float16", role="input"
    )
    derivation = orion.vision_tokens(spec, ego)
    assert derivation is not None
    return derivation.compute({spec.name: queries, ego.name: ego_token}, heads)
