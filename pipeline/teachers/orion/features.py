"""The features that ORION, or its vision stack alone, computes of every frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_schema.format.features import FeatureSpec
from cache_schema.vocabulary.driving import LIDAR
from cache_schema.vocabulary.orion import PLANNING_TOKEN

if TYPE_CHECKING:
    from pipeline.teachers.orion.network.config import OrionConfig


def orion_features(config: OrionConfig) -> tuple[FeatureSpec, ...]:
    """Return the features of an ORION of certain sizes."""
    detection, lanes, token_width = config.detection, config.lanes, config.language.width
    objects = detection.objects
    return (
        FeatureSpec(
            name="scene_queries",
            shape=(config.vision_tokens - 1, config.width),
            axes=("query", "channel"),
            dtype="float16",
            role="input",
            segments=config.scene_segments,
            description="Scene, history and map queries before their projection to the width of a token.",
        ),
        FeatureSpec(
            name="ego_token",
            shape=(token_width,),
            axes=("channel",),
            dtype="float16",
            role="input",
            description="Token made from command, CAN bus and ego motion.",
        ),
        FeatureSpec(
            name="planning_token",
            shape=(token_width,),
            axes=("channel",),
            dtype="float16",
            role="target",
            description="Hidden state after the language model's final norm at <waypoint_ego>.",
        ),
        FeatureSpec(
            name="lane_points",
            shape=(lanes.lanes, config.lane_points, 2),
            axes=("lane", "point", "xy"),
            dtype="float16",
            role="target",
            unit="m",
            frame=LIDAR,
            description="Points of every lane query.",
        ),
        FeatureSpec(
            name="lane_logits",
            shape=(lanes.lanes, lanes.classes),
            axes=("lane", "class"),
            dtype="float16",
            role="target",
            description="Class logits of every lane query.",
        ),
        FeatureSpec(
            name="agent_xy",
            shape=(objects, 2),
            axes=("agent", "xy"),
            dtype="float16",
            role="target",
            unit="m",
            frame=LIDAR,
            description="Box centre of every object query.",
        ),
        FeatureSpec(
            name="agent_class_scores",
            shape=(objects, detection.classes),
            axes=("agent", "class"),
            dtype="float16",
            role="target",
            description="Sigmoid class scores of every object query.",
        ),
        FeatureSpec(
            name="agent_offsets",
            shape=(objects, detection.steps, 2),
            axes=("agent", "step", "xy"),
            dtype="float16",
            role="target",
            unit="m",
            frame=LIDAR,
            description="Likeliest future of every object query: offset of each 0.5 s step.",
        ),
    )


def vision_features(config: OrionConfig) -> tuple[FeatureSpec, ...]:
    """Return those features that need no language model."""
    return tuple(spec for spec in orion_features(config) if spec.name != PLANNING_TOKEN)
