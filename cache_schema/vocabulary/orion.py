"""ORION's features, its derived vision tokens, and its planner's weights by name.

All but one of the vision tokens are one linear map 256 -> 4096 of what a dataset stores as ``scene_queries``,
so that the stored form is 15.6 times smaller and loses nothing but fp16 rounding. The ego token is made at
full width, and stands before the tokens of the map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_schema.format.derivations import Derivation, DerivedSegment
from cache_schema.vocabulary.driving import COMMANDS, TRAJECTORY_STEPS

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
PLANNER_LATENT = 32
"""Width of the planner's Gaussian latent variable."""
PLANNER_GRU_LAYERS = 4
"""Layers of the planner's GRU."""
PROJECTION_OF = {"scene": "scene", "history": "scene", "map": "map"}
"""Segment of ``scene_queries`` -> its projection in the asset ``teacher_heads``."""


def vision_tokens(queries: FeatureSpec, ego_token: FeatureSpec) -> Derivation | None:
    """Return how vision tokens follow from stored queries and ego token; None where these do not fit."""
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
    """Return what can be derived in a dataset of format 1, which cannot declare it."""
    queries, ego_token = manifest.feature(SCENE_QUERIES), manifest.feature(EGO_TOKEN)
    if queries is None or ego_token is None or manifest.asset(HEADS) is None:
        return ()
    derivation = vision_tokens(queries, ego_token)
    return () if derivation is None else (derivation,)


def planner_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the planner's 44 tensors, under the checkpoint's names.

    Args:
        width: Width D of the planning token.

    Source: spec ORION teacher 1.8.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, outputs: int, inputs: int, *kernel: int) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, *kernel)
        shapes[f"{name}.bias"] = (outputs,)

    for name, inputs in (
        ("present_distribution", width),
        ("future_distribution", width + 2 * TRAJECTORY_STEPS),
    ):
        linear(f"{name}.encoder.conv1", 2 * inputs, inputs, 1)
        linear(f"{name}.encoder.conv2", 2 * inputs, 2 * inputs, 1)
        linear(f"{name}.encoder.conv3", inputs // 2, 2 * inputs, 1)
        linear(f"{name}.last_conv.1", 2 * PLANNER_LATENT, inputs // 2, 1)
    hidden = width // PLANNER_GRU_LAYERS
    for layer in range(PLANNER_GRU_LAYERS):
        gru = "predict_model.gru"
        shapes[f"{gru}.weight_ih_l{layer}"] = (3 * hidden, hidden if layer else PLANNER_LATENT)
        shapes[f"{gru}.weight_hh_l{layer}"] = (3 * hidden, hidden)
        shapes[f"{gru}.bias_ih_l{layer}"] = (3 * hidden,)
        shapes[f"{gru}.bias_hh_l{layer}"] = (3 * hidden,)
    linear("predict_model.linear1", width // 2, hidden)
    linear("predict_model.linear2", width, width // 2)
    linear("predict_model.linear3", width, width)
    linear("ego_fut_decoder.0", 2 * width, 2 * width)
    linear("ego_fut_decoder.2", 2 * width, 2 * width)
    linear("ego_fut_decoder.4", 2 * len(COMMANDS), 2 * width)
    return shapes
