"""The released checkpoint's names for ORION's weights, and which of its tensors are copies or unused here.

Source: spec ORION teacher 4.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.teachers.orion.network.config import BackboneConfig

_SPELLINGS = (
    (r"^language_model\.", "lm_head.base_model.model."),
    (r"^(ray_positions|query_positions)\.", ""),
    (r"\.(cls|reg|traj|traj_cls)_branch\.", r".\1_branches.0."),
    (r"\.decoder\.layers\.(\d+)\.self_attention\.", r".decoder.layers.\1.0.attn."),
    (r"\.decoder\.layers\.(\d+)\.self_norm\.", r".decoder.layers.\1.1."),
    (r"\.decoder\.layers\.(\d+)\.cross_attention\.", r".decoder.layers.\1.2.attn."),
    (r"\.decoder\.layers\.(\d+)\.cross_norm\.", r".decoder.layers.\1.3."),
    (r"\.decoder\.layers\.(\d+)\.ffn\.0\.", r".decoder.layers.\1.4._layers.0."),
    (r"\.decoder\.layers\.(\d+)\.ffn\.2\.", r".decoder.layers.\1.4._layers.3."),
    (r"\.decoder\.layers\.(\d+)\.ffn_norm\.", r".decoder.layers.\1.5."),
    (r"\.decoder\.layers\.(\d+)\.", r".transformer.query_decoder._layers.\1.transformer_layers."),
    (r"_decoder(_[mc]q)?\.attention\.", r"_decoder\1.0.attn."),
    (r"_decoder(_[mc]q)?\.attention_norm\.", r"_decoder\1.1."),
    (r"_decoder(_[mc]q)?\.ffn\.0\.", r"_decoder\1.2._layers.0."),
    (r"_decoder(_[mc]q)?\.ffn\.2\.", r"_decoder\1.2._layers.3."),
    (r"_decoder(_[mc]q)?\.ffn_norm\.", r"_decoder\1.3."),
    (r"((?:motion|memory)_decoder(?:_[mc]q)?)\.", r"\1._layers.0.transformer_layers."),
)
"""Name in this port -> name in the checkpoint, as patterns that are applied in order."""

_COPIES = (
    (r"^(?:pts_bbox_head|map_head)\.(query_pos|time_embedding|ego_pose_pe)\.", r"\1."),
    (r"\.(cls|reg|tl)_branches\.[1-9]\d*\.", r".\1_branches.0."),
)
"""Tensors stored again under another name -> the name that is used."""

_UNUSED = (
    r"^(coords_d|position_range)$",
    r"\.(pc_range|code_weights|match_costs|weighted_mask)$",
    r"\.rotary_emb\.(inv_freq|cos_cached|sin_cached)$",
    r"^img_backbone\.rope_(win|glb)\.freqs_(cos|sin)$",
    r"^pts_bbox_head\.tl_branches\.",
    r"^lm_head\.base_model\.model\.lm_head\.weight$",
)
"""Constants that are computed here, and what only training, text or traffic-light states need."""

_ADAPTED = re.compile(r"^(lm_head\..*\.self_attn\.[qkvo]_proj)\.weight$")


def checkpoint_name(name: str) -> str:
    """Return the checkpoint's name for a weight of ``Orion``."""
    for ours, theirs in _SPELLINGS:
        name = re.sub(ours, theirs, name)
    return name


def adapter_names(name: str) -> tuple[str, str, str] | None:
    """Return the names of the frozen weight and adapters A and B behind a weight; None if not adapted."""
    match = _ADAPTED.match(name)
    if match is None:
        return None
    layer = match[1]
    return f"{layer}.base_layer.weight", f"{layer}.lora_A.default.weight", f"{layer}.lora_B.default.weight"


def copy_of(name: str, backbone: BackboneConfig) -> str | None:
    """Return the name under which the same tensor is stored first; None where this is the first."""
    rotation = re.match(r"^img_backbone\.blocks\.(\d+)\.attn\.rope\.(freqs_(?:cos|sin))$", name)
    if rotation:
        span = "glb" if int(rotation[1]) in backbone.global_blocks else "win"
        return f"img_backbone.rope_{span}.{rotation[2]}"
    for again, first in _COPIES:
        original = re.sub(again, first, name)
        if original != name:
            return original
    return None


def is_unused(name: str) -> bool:
    """Return whether extraction ignores a tensor of the checkpoint."""
    return any(re.search(pattern, name) for pattern in _UNUSED)
