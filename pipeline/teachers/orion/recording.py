"""A recorded ORION: its sizes, and the activations of this port at each recorded stage.

Dimension letters: B slots, N images, H W token rows and columns, E head width, D token width.
"""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from pipeline.teachers.orion.network.config import (
    BackboneConfig,
    DecoderConfig,
    DetectionConfig,
    LanguageConfig,
    MapConfig,
    OrionConfig,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from torch import Tensor, nn

    from pipeline.teachers.orion.network.model import Orion, OrionOutput

Activations = dict[str, tuple["Tensor", "Tensor"]]
"""First input and output of each module of a model, by module name."""


@contextmanager
def capture_activations(model: Orion) -> Generator[Activations]:
    """Record the first input and the output of every module while the model runs."""
    activations: Activations = {}

    def record(name: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if inputs:
                activations[name] = inputs[0], output

        return module.register_forward_hook(hook)

    hooks = [record(name, module) for name, module in model.named_modules()]
    try:
        yield activations
    finally:
        for hook in hooks:
            hook.remove()


def stages(model: Orion, result: OrionOutput, activations: Activations) -> dict[str, Tensor]:
    """Return every stage that is computed here, under its recorded name and in its recorded shape."""

    def output(name: str) -> Tensor:
        return activations[name][1]

    def layers(head: str) -> Tensor:
        names = (f"{head}.decoder.layers.{layer}" for layer in itertools.count())
        return torch.stack([output(name) for name in itertools.takewhile(activations.__contains__, names)])

    detection, road_map = result.detection, result.road_map
    ego_input, ego_token = activations["pts_bbox_head.can_bus_embed"]
    vision_tokens, _ = activations["language_model"]
    return {
        "img_feats": output("img_backbone").permute(0, 3, 1, 2),  # (N, D, H, W)
        "pos_embed": output("ray_positions"),
        "det_dec": layers("pts_bbox_head"),
        "mq_out": output("pts_bbox_head.memory_decoder_mq"),
        "history_query": output("pts_bbox_head.memory_decoder_cq"),
        "can_bus_input": ego_input,
        "can_bus_token": ego_token,
        "det_tokens": torch.cat((output("pts_bbox_head.output_projection"), ego_token[:, None]), dim=1),
        "det.all_cls_scores": detection.class_logits,
        "det.all_bbox_preds": detection.boxes,
        "motion_dec": output("pts_bbox_head.motion_decoder"),
        "det.all_traj_preds": detection.futures.flatten(-2),
        "det.all_traj_cls_scores": detection.future_logits,
        "map_dec": layers("map_head"),
        "map_tokens": output("map_head.output_projection"),
        "map.cls_one2one": road_map.class_logits,
        "map.pts_one2one": road_map.points.flatten(-2),
        "vision_tokens": vision_tokens,
        # Beside the planning token, for which the model computes no other position of the last layer.
        "llm_hidden": model.language_model.hidden_states(vision_tokens),
        "planning_token": result.planning_token,
    }


def recorded_sizes(meta: Mapping[str, Any], stored: Mapping[str, Tensor], input_ids: Tensor) -> OrionConfig:
    """Return the sizes of a recorded model.

    Args:
        meta: Its description, as JSON.
        stored: Its weights under the released names.
        input_ids: (T) its prompt.
    """
    dims = meta["dims"]
    image, detection, road, llama = (dims[k] for k in ("img_backbone", "pts_bbox_head", "map_head", "llama"))
    vocabulary, width = stored["lm_head.base_model.model.model.embed_tokens.weight"].shape
    return OrionConfig(
        width=detection["embed_dims"],
        lane_points=road["n_control"],
        depths=stored["coords_d"].numel(),
        backbone=BackboneConfig(
            image_size=image["img_size"],
            patch_size=image["patch_size"],
            width=image["embed_dim"],
            heads=image["num_heads"],
            depth=image["depth"],
            mlp_width=stored["img_backbone.blocks.0.mlp.w1.bias"].numel(),
            window=image["window_size"],
            global_blocks=tuple(sorted({*range(image["depth"])} - {*image["window_block_indexes"]})),
        ),
        detection=DetectionConfig(
            scene_queries=detection["num_extra"],
            learned_queries=detection["num_query"],
            kept=detection["num_propagated"],
            memory_frames=detection["memory_len"] // detection["num_propagated"],
            history_tokens=detection["num_memory"],
            history=detection["scence_memory_len"],
            classes=detection["num_classes"],
            modes=stored["pts_bbox_head.motion_mode_query.weight"].shape[0],
            steps=stored["pts_bbox_head.traj_branches.0.4.bias"].numel() // 2,
            small_ffn_width=detection["memory_decoder_transformer"]["feedforward_dims"],
            decoder=_decoder_sizes(detection["transformer"]),
        ),
        lanes=MapConfig(
            map_queries=road["num_extra"],
            lanes=road["num_lanes_one2one"],
            trained_lanes=road["num_lane"],
            kept=road["topk_proposals"],
            memory_frames=road["memory_len"] // road["topk_proposals"],
            classes=road["num_classes"],
            decoder=_decoder_sizes(road["transformer"]),
        ),
        language=LanguageConfig(
            vocabulary=vocabulary,
            width=width,
            mlp_width=llama["intermediate_size"],
            layers=llama["num_hidden_layers"],
            heads=llama["num_attention_heads"],
            max_positions=llama["max_position_embeddings"],
            rms_norm_eps=llama["rms_norm_eps"],
            lora_rank=next(t.shape[0] for name, t in stored.items() if "lora_A" in name),
            prompt=tuple(input_ids.tolist()),
            waypoint=meta["waypoint_id"],
        ),
    )


def _decoder_sizes(dims: Mapping[str, Any]) -> DecoderConfig:
    return DecoderConfig(
        layers=dims["num_layers"], heads=dims["num_heads"], ffn_width=dims["feedforward_dims"]
    )
