"""A tiny ORION, and clips of synthetic frames for it."""

import math
from pathlib import Path

import pytest
import torch

from pipeline.teachers.orion.inputs import OrionBatch
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM
from tests.paths import GOLDEN


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def tiny():
    return ORION_TINY_RANDOM.load(None, device="cpu")


@pytest.fixture(scope="session")
def frame_of():
    """``frame_of(clip, index)``: one slot's frame; an empty clip name is an idle slot, all zeros."""

    def make(clip: str, index: int, *, seconds: float | None = None) -> OrionBatch:
        if not clip:
            zeros = torch.zeros
            return OrionBatch(
                clips=("",),
                images=zeros(1, 6, 3, 48, 96, dtype=torch.uint8),
                lidar2img=zeros(1, 6, 4, 4),
                ego_pose=zeros(1, 4, 4),
                ego_pose_inv=zeros(1, 4, 4),
                timestamp_s=zeros(1, dtype=torch.float64),
                command=zeros(1, dtype=torch.int64),
                can_bus=zeros(1, 18, dtype=torch.float64),
            )
        draw = torch.Generator().manual_seed(sum(clip.encode()) * 1000 + index)
        yaw = 0.3 + 0.01 * index
        pose = torch.tensor(
            [
                [math.cos(yaw), -math.sin(yaw), 0, 100 + index],
                [math.sin(yaw), math.cos(yaw), 0, -50 + 0.5 * index],
                [0, 0, 1, 1.84],
                [0, 0, 0, 1],
            ],
            dtype=torch.float64,
        )
        camera = torch.tensor([[68.0, 48, 0, -57], [0, 42, -137, -82], [0, 1, 0, -1.2], [0, 0, 0, 1]])
        can_bus = torch.zeros(1, 18, dtype=torch.float64)
        can_bus[0, :2] = pose[:2, 3]
        can_bus[0, 7] = 5
        can_bus[0, 16:] = torch.tensor([yaw, math.degrees(yaw)])
        return OrionBatch(
            clips=(clip,),
            images=torch.randint(0, 256, (1, 6, 3, 48, 96), dtype=torch.uint8, generator=draw),
            lidar2img=camera.expand(1, 6, 4, 4),
            ego_pose=pose.float()[None],
            ego_pose_inv=torch.linalg.inv(pose).float()[None],
            timestamp_s=torch.tensor([index / 10 if seconds is None else seconds], dtype=torch.float64),
            command=torch.tensor([index % 6]),
            can_bus=can_bus,
        )

    return make


@pytest.fixture(scope="session")
def together():
    """``together(frames)``: the frames of several slots as one batch."""

    def make(frames: list[OrionBatch]) -> OrionBatch:
        tensors = {
            name: torch.cat([getattr(frame, name) for frame in frames])
            for name in OrionBatch.__dataclass_fields__
            if name != "clips"
        }
        return OrionBatch(clips=tuple(frame.clips[0] for frame in frames), **tensors)

    return make
