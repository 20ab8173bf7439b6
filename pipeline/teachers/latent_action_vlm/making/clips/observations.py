"""What a latent action model sees of an image, and rebuilds: features of its patches.

Dimension letters: B batch, H rows, W columns, P patches, D feature width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cache_schema.errors import CheckpointError
from cache_schema.storage.atomic_io import sha256_of
from pipeline.bench2drive.jpeg import read_jpeg

if TYPE_CHECKING:
    from pathlib import Path

Observation = Literal["dinov2", "random-dinov2", "pixels"]
"""Patch tokens of a DINOv2 with registers, of a small one with random weights, or the patches' pixels."""

PATCH = 14
"""Pixels of a patch, in rows and in columns."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of R, G and B in 0..1."""
RANDOM_WIDTH, RANDOM_LAYERS, RANDOM_HEADS = 32, 2, 2
"""Sizes of the small DINOv2."""


def read_image(path: Path, size: int) -> np.ndarray:
    """Read a camera image (900, 1600) and shrink it to a square (size, size, 3) uint8 RGB.

    Raises:
        ClipError: The file is missing, or not whole.
    """
    return np.asarray(read_jpeg(path).resize((size, size), Image.Resampling.BICUBIC))


class Observer(nn.Module):
    """Turns images into features of patches; it is never trained.

    Args:
        kind: What features are.
        size: H and W of images, a multiple of ``PATCH``.
        folder: Of the published DINOv2, in transformers' format.
        seed: Of random weights.

    Raises:
        CheckpointError: The folder holds no DINOv2 with registers.
    """

    def __init__(self, kind: Observation, size: int, *, folder: Path | None = None, seed: int = 0) -> None:
        super().__init__()
        self.kind = kind
        self.weights = {"dinov2": "", "random-dinov2": f"random:{seed}", "pixels": "none"}[kind]
        """Where its weights are from, or their digest."""
        self.width = 3 * PATCH**2
        self.skipped = 0
        """Tokens before those of patches: one of the class, and registers."""
        self.model: nn.Module | None = None
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        if kind != "pixels":
            self._load(size, folder, seed)
        self.requires_grad_(False).eval()

    def _load(self, size: int, folder: Path | None, seed: int) -> None:
        from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

        if self.kind == "random-dinov2":
            config = Dinov2WithRegistersConfig(
                hidden_size=RANDOM_WIDTH,
                num_hidden_layers=RANDOM_LAYERS,
                num_attention_heads=RANDOM_HEADS,
                image_size=size,
                patch_size=PATCH,
            )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = Dinov2WithRegistersModel(config)
        else:
            file = None if folder is None else folder / "model.safetensors"
            if folder is None or file is None or not file.is_file():
                raise CheckpointError(
                    "the features of dinov2 need its weights"
                    if folder is None
                    else f"{folder} holds no model.safetensors",
                    expected="--dinov2 with the folder of a DINOv2 with registers, as transformers saves it",
                    repair="download facebook/dinov2-with-registers-base, or --set observation=random-dinov2",
                )
            model = Dinov2WithRegistersModel.from_pretrained(folder, local_files_only=True)
            self.weights = f"sha256:{sha256_of(file)}"
        self.model, self.width = model, model.config.hidden_size
        self.skipped = 1 + model.config.num_register_tokens

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return (B, P, D) float32 of images (B, H, W, 3) uint8."""
        pixels = (images.movedim(-1, -3).float() / 255 - self.mean) / self.std
        if self.model is None:
            return nn.functional.unfold(pixels, PATCH, stride=PATCH).transpose(1, 2)
        hidden = self.model(pixel_values=pixels).last_hidden_state
        return hidden[:, self.skipped :].float()
