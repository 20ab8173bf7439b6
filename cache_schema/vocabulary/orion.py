"""ORION's tokens: what is stored of what its language model saw and said, and its planner's weights by name.

All but one of the vision tokens are one linear map 256 -> 4096 of what a dataset stores as ``scene_queries``,
so that the stored form is 15.6 times smaller and loses nothing but fp16 rounding. The ego token is made at
full width, and stands before the tokens of the map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_schema.format.derivations import Derivation, DerivedSegment

if TYPE_CHECKING:
    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.manifest import Manifest

SCENE_QUERIES = "scene_queries"
"""(Q, E) narrow queries in the segments scene, history and map."""
EGO_TOKEN = "ego_token"
"""(D) the token made of command, CAN bus and ego motion."""
PLANNING_TOKEN = "planning_token"
"""(D) hidden state from which the planner plans."""
VISION_TOKENS = "vision_tokens"
"""(Q + 1, D) all tokens that stand for the images. A dataset may as well store them."""
HEADS = "teacher_heads"
"""Asset with the projections ``scene`` and ``map``."""
PLANNER = "teacher_planner"
"""Asset with the planner's weights, under the released checkpoint's names."""
PLANNER_PARTS = ("present_distribution", "future_distribution", "predict_model", "ego_fut_decoder")
"""The planner's four networks, as checkpoints name them."""
PROJECTION_OF = {"scene": "scene", "history": "scene", "map": "map"}
"""Segment of ``scene_queries`` -> its projection in the asset ``teacher_heads``."""


def vision_tokens(queries: FeatureSpec, ego_token: FeatureSpec) -> Derivation | None:
    """How vision tokens follow from stored queries and ego token; None where these are something else."""
    names = [name for name, _ in queries.segments]
    if len(queries.shape) != 2 or len(ego_token.shape) != 1 or queries.ragged or ego_token.ragged:
        return None
    if names.count("map") != 1 or not {*names} <= {*PROJECTION_OF}:
        return None
    segments, begin = [], 0
    for name, length in queries.segments:
        if name == "map":
            segments.append(
                DerivedSegment(name="ego", input=ego_token.name, begin=0, length=1, projection=None)
            )
        segments.append(
            DerivedSegment(
                name=name, input=queries.name, begin=begin, length=length, projection=PROJECTION_OF[name]
            )
        )
        begin += length
    return Derivation(
        name=VISION_TOKENS,
        width=ego_token.fixed_shape[0],
        asset=HEADS,
        segments=tuple(segments),
        description="Tokens that the language model saw, derived from scene_queries and ego_token.",
    )


def implied_derivations(manifest: Manifest) -> tuple[Derivation, ...]:
    """What can be derived in a dataset whose manifest does not say so, as none of format 1 does."""
    queries, ego_token = manifest.feature(SCENE_QUERIES), manifest.feature(EGO_TOKEN)
    assets = [asset.name for asset in manifest.assets]
    if queries is None or ego_token is None or f"{HEADS}.safetensors" not in assets:
        return ()
    derivation = vision_tokens(queries, ego_token)
    return () if derivation is None else (derivation,)
