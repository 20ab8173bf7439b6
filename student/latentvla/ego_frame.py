"""Ground truth in the ego's coordinates, in which the network computes.

Datasets hold the LiDAR's: x right, y forward. Inside, x is forward and y left. Headings count
counter-clockwise from x in both; metres and radians.

Dimension letters: B batch, T step (of 0.5 s), A agent.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from student.open_loop.collisions import SLOWEST_M


def to_ego(positions: Tensor) -> Tensor:
    """Turn (..., 2) in the LiDAR's coordinates into the ego's."""
    right, forward = positions.unbind(dim=-1)
    return torch.stack([forward, -right], dim=-1)


def to_lidar(positions: Tensor) -> Tensor:
    """Turn (..., 2) in the ego's coordinates into the LiDAR's."""
    forward, left = positions.unbind(dim=-1)
    return torch.stack([-left, forward], dim=-1)


def driven(offsets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the poses at the ends of steps, and what of them is known.

    A heading is the direction of its step. That of a step shorter than 0.25 m is not known.

    Args:
        offsets: (B, T, 2) each step from the one before, in the LiDAR's coordinates; 0 where masked.
        mask: (B, T) bool, steps that are known.

    Returns:
        (B, T, 3) x, y and heading in the ego's coordinates; (B, T, 3) bool.
    """
    steps = to_ego(offsets)
    heading = torch.atan2(steps[..., 1], steps[..., 0])
    turns = mask & (torch.linalg.vector_norm(steps, dim=-1) >= SLOWEST_M)
    poses = torch.cat([steps.cumsum(dim=1), heading[..., None]], dim=-1)
    return poses, torch.stack([mask, mask, turns], dim=-1)


def boxes_to_ego(boxes: Tensor) -> Tensor:
    """Turn boxes (B, A, 5) x, y, length, width, heading of the LiDAR's into x, y, heading, length, width."""
    places, size, heading = boxes.split([2, 2, 1], dim=-1)
    turned = heading - math.pi / 2
    wrapped = torch.atan2(turned.sin(), turned.cos())
    return torch.cat([to_ego(places), wrapped, size], dim=-1)
