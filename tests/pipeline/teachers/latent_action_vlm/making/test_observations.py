"""What is seen of images."""

import pytest
import torch
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from cache_schema.errors import CheckpointError
from pipeline.teachers.latent_action_vlm.making.clips.observations import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PATCH,
    Observer,
)

SIZE = 2 * PATCH


def test_pixels_of_patches_row_by_row():
    images = torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8)
    images[0, :PATCH, PATCH:, 1] = 255
    seen = Observer("pixels", SIZE)(images)
    assert seen.shape == (1, 4, 3 * PATCH**2)
    black, green = (torch.tensor([-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]), None)
    green = black.clone()
    green[1] = (1 - IMAGENET_MEAN[1]) / IMAGENET_STD[1]
    for patch, colour in enumerate([black, green, black, black]):
        expected = colour.repeat_interleave(PATCH**2)
        torch.testing.assert_close(seen[0, patch], expected)


def test_a_random_model_is_that_of_its_seed():
    images = torch.randint(0, 256, (2, SIZE, SIZE, 3), dtype=torch.uint8)
    one, same, other = (Observer("random-dinov2", SIZE, seed=seed)(images) for seed in (3, 3, 4))
    assert one.shape == (2, 4, Observer("random-dinov2", SIZE).width)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_folder_of_dinov2_gives_its_patch_tokens(tmp_path):
    """After the token of the class and the registers; at another size than it was trained with."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 3 * PATCH}
    model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes, patch_size=PATCH)).eval()
    model.save_pretrained(tmp_path / "dinov2")
    images = torch.randint(0, 256, (2, SIZE, SIZE, 3), dtype=torch.uint8)
    observer = Observer("dinov2", SIZE, folder=tmp_path / "dinov2")
    assert observer.width == 24
    assert observer.weights.startswith("sha256:")
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    pixels = ((images / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state[:, 5:]
    torch.testing.assert_close(observer(images), expected)


@pytest.mark.parametrize("folder", [None, "empty"])
def test_without_weights_of_dinov2_there_is_none(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"need its weights|holds no model.safetensors"):
        Observer("dinov2", SIZE, folder=None if folder is None else tmp_path)
