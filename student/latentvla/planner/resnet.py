"""Residual networks of basic blocks, from which the feature map of every stage is taken.

Source: spec LatentVLA 4. Weights have the names of timm: ``conv1``, ``bn1``, ``layer1`` to ``layer4``.

Dimension letters: B batch, C channel, R row, S column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

STEM_WIDTH = 64
"""Channels of the first convolution, in every residual network."""
STAGES = 4


class _BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        # Cut out here, not by a stride of the convolution: for fewer than 8 channels its gradient corrupts
        # memory in torch 2.13 and 2.14 on processors with AVX2 but without AVX-512.
        strided = x[..., :: self.stride, :: self.stride]
        shortcut = strided if self.downsample is None else self.downsample(strided)
        inner = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(inner)) + shortcut).relu()


class ResNet(nn.Module):
    """A residual network without its classifier; ResNet-34 with the released sizes.

    Args:
        inputs: Channels of the image.
        widths: Channels of the four stages; released 64, 128, 256, 512.
        blocks: Blocks of the four stages; released 3, 4, 6, 3.
    """

    def __init__(self, inputs: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, STEM_WIDTH, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        before = STEM_WIDTH
        for number, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
            first = _BasicBlock(before, width, stride=1 if number == 1 else 2)
            others = [_BasicBlock(width, width, stride=1) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *others))
            before = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, image: Tensor) -> Tensor:
        """Map an image (B, C, R, S) to what the first stage reads, (B, 64, R / 4, S / 4)."""
        return F.max_pool2d(self.bn1(self.conv1(image)).relu(), 3, stride=2, padding=1)

    def stage(self, number: int, x: Tensor) -> Tensor:
        """Apply one of the stages, 1 to 4; every one but the first halves rows and columns."""
        return self.get_submodule(f"layer{number}")(x)
