"""The model over a window of frames, its memory handed from each to the next, gradients and all.

Dimension letters: B windows, K frames of a window, N = K B frames, D token width.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from pipeline.teachers.orion.network.memory import OrionMemory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.teachers.orion.images import ImagePreprocessing
    from pipeline.teachers.orion.network.backbone import Backbone
    from pipeline.teachers.orion.network.config import OrionConfig
    from pipeline.teachers.orion.network.detection_head import DetectionOutput
    from pipeline.teachers.orion.network.map_head import MapOutput
    from pipeline.teachers.orion.network.model import Orion

Windows = dict[str, Tensor]
"""Name -> (B, K, *shape); see ``examples``."""
Output = TypeVar("Output", bound=Any)


@dataclass(frozen=True)
class Unrolled:
    """Output of N frames: all windows' first frames, then all their second ones, and so on."""

    detection: DetectionOutput
    road_map: MapOutput
    planning_token: Tensor
    """(N, D)."""
    tokens: Tensor
    """(N, image tokens of all cameras, backbone width)."""
    rays: Tensor
    """(N, image tokens of all cameras, E): their positions."""


def unroll(
    model: Orion, config: OrionConfig, images: ImagePreprocessing, windows: Mapping[str, Tensor]
) -> Unrolled:
    """Run the model over windows, each from an empty memory."""
    drop_cached_positions(model.img_backbone)
    slots, length = windows["command"].shape
    memory = OrionMemory.empty(config, slots, "cpu")
    outputs = []
    seen: list[tuple[Tensor, Tensor]] = []
    # Tokens and rays are the head's first two arguments.
    with model.pts_bbox_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[:2])):
        for frame in range(length):
            now = {name: values[:, frame] for name, values in windows.items()}
            output, memory = model(
                images.normalise(now["images"]),
                torch.linalg.inv(now["lidar2img"]),
                now["ego_pose"].float(),
                now["ego_pose_inv"].float(),
                now["timestamp_s"],
                torch.cat((now["command"][:, None].double(), now["can_bus"]), dim=-1),
                torch.full((slots,), frame > 0),
                memory,
            )
            outputs.append(output)
    tokens, rays = zip(*seen, strict=True)
    return Unrolled(
        _joined([output.detection for output in outputs]),
        _joined([output.road_map for output in outputs]),
        torch.cat([output.planning_token for output in outputs]),
        torch.cat(tokens),
        torch.cat(rays),
    )


def drop_cached_positions(backbone: Backbone) -> None:
    """Let the backbone resize its position embedding again, which it does once, and keeps."""
    vars(backbone).pop("_positions", None)


def in_order(windows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return (N, *shape) of every name, in the order of ``Unrolled``."""
    return {name: values.transpose(0, 1).flatten(0, 1) for name, values in windows.items()}


def _joined(outputs: Sequence[Output]) -> Output:
    kind = type(outputs[0])
    names = [field.name for field in fields(kind)]
    return kind(*(torch.cat([getattr(output, name) for output in outputs]) for name in names))
