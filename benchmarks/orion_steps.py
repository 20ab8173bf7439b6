"""Steps of ORION with random weights: its frames, its operations, and the ways to run it that are compared.

Dimension letters: B slots, N vision tokens, D token width.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.teachers.orion.checkpoints.tensors import build
from pipeline.teachers.orion.inputs import OrionBatch
from pipeline.teachers.orion.network import backbone, language_model
from pipeline.teachers.orion.network.memory import OrionMemory
from pipeline.teachers.orion.precision import PrecisionConfig
from pipeline.teachers.orion.teacher import OrionTeacher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.teachers.orion.network.config import OrionConfig
    from pipeline.teachers.orion.network.language_model import LanguageModel
    from pipeline.teachers.orion.network.model import Orion
    from pipeline.teachers.orion.presets import OrionPreset

CAMERAS = 6
FRAME_S = 0.1


class WholePrompt(nn.Module):
    """The language model as the reference runs it: it computes all positions, of which one is used."""

    def __init__(self, language: LanguageModel) -> None:
        super().__init__()
        self.language = language

    def forward(self, vision: Tensor) -> Tensor:
        """Map vision tokens (B, N, D) to the planning token (B, D)."""
        return self.language.hidden_states(vision)[:, self.language.waypoint]


class PlainHeads(PrecisionConfig):
    """A precision whose heads compute in float32 on a GPU as well."""

    def prepare_heads(self, model: Orion, device: str) -> None:
        """Leave them as they are."""


def load(
    preset: OrionPreset,
    device: str,
    precision: PrecisionConfig,
    *,
    aligned: int = backbone.ALIGNED,
    prefix: bool = True,
) -> OrionTeacher:
    """Load a teacher with random weights.

    Args:
        preset: Its sizes, seed and ``random_device``.
        device: Where it runs.
        precision: Number formats that it computes in.
        aligned: Multiple to which hidden channels of the backbone are padded; 1 for none.
        prefix: Whether the beginning of the prompt is cached.
    """
    usual, backbone.ALIGNED = backbone.ALIGNED, aligned
    try:
        teacher = OrionTeacher(
            preset.name,
            preset.config,
            preset.images,
            preset.random_seed or 0,
            device=device,
            precision=precision,
            random_device=preset.random_device,
        )
    finally:
        backbone.ALIGNED = usual
    if not prefix:
        teacher.model.language_model.prefix = None
    return teacher


@contextlib.contextmanager
def separate_passes() -> Iterator[None]:
    """Let a GPU rotate, cut, pad, attend and add by operations of their own, as a CPU does."""

    def never(*_: object) -> bool:
        return False

    with (
        mock.patch.object(backbone, "one_kernel_attends", never),
        mock.patch.object(backbone, "adds_in_place", never),
        mock.patch.object(language_model, "adds_in_place", never),
    ):
        yield


def frames(preset: OrionPreset, slots: int, index: int, *, pin: bool) -> OrionBatch:
    """Return frame ``index`` of ``slots`` clips: images of noise, while the vehicle drives straight on."""
    width, height = preset.images.cropped
    pose = torch.eye(4).repeat(slots, 1, 1)
    pose[:, 1, 3] = index
    camera = torch.tensor([[450.0, 320, 0, -370], [0, 280, -910, -550], [0, 1, 0, -1.2], [0, 0, 0, 1]])
    generator = torch.Generator().manual_seed(index)
    images = torch.randint(0, 256, (slots, CAMERAS, 3, height, width), dtype=torch.uint8, generator=generator)
    tensors = {
        "images": images,
        "lidar2img": camera.expand(slots, CAMERAS, 4, 4).contiguous(),
        "ego_pose": pose,
        "ego_pose_inv": torch.linalg.inv(pose),
        "timestamp_s": torch.full((slots,), index * FRAME_S, dtype=torch.float64),
        "command": torch.zeros(slots, dtype=torch.int64),
        "can_bus": torch.zeros(slots, 18, dtype=torch.float64),
    }
    return OrionBatch(
        clips=tuple(f"clip {slot}" for slot in range(slots)),
        **{name: tensor.pin_memory() if pin else tensor for name, tensor in tensors.items()},
    )


@functools.cache
def flops(config: OrionConfig) -> int:
    """Return the floating-point operations of one frame of one slot, of the prompt up to the waypoint."""
    model = build(config).to("meta")
    side = config.backbone.image_size
    double = torch.float64
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(
            torch.empty(1, CAMERAS, 3, side, side),
            torch.empty(1, CAMERAS, 4, 4),
            torch.empty(1, 4, 4),
            torch.empty(1, 4, 4),
            torch.empty(1, dtype=double),
            torch.empty(1, 19, dtype=double),
            torch.empty(1, dtype=torch.bool),
            OrionMemory.empty(config, 1, "meta"),
        )
    return counter.get_total_flops()
