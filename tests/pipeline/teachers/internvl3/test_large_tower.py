"""The vision tower of the 38B, which no recorded vector covers, against the definitions in plain torch.

Dimension letters: n image, P token of the tower, D its width, H head.
"""

import json

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from pipeline.teachers.internvl3.model.checkpoint import transformers_names
from pipeline.teachers.internvl3.model.network import shapes
from pipeline.teachers.internvl3.model.sizes import InternVLSizes, LanguageSizes, VisionSizes
from pipeline.teachers.internvl3.options import Options
from pipeline.teachers.internvl3.presets import StudentPreset
from tests.pipeline.teachers.internvl3.conftest import RECORDED, close, make_folder, remote_config

HEADS, SIDE, PATCH = 3, 56, 7
VISION = VisionSizes(12, 2, HEADS, 24, SIDE, PATCH, norm="rms_norm", attention_bias=False, qk_norm=True)
TOWER = "vision_model"


def rms(x, weight, eps=1e-6):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def embeddings(pixels, w):
    """Return (n, tokens, width) by the names of the model's own program."""
    patches = F.conv2d(
        pixels,
        w[f"{TOWER}.embeddings.patch_embedding.weight"],
        w[f"{TOWER}.embeddings.patch_embedding.bias"],
        stride=PATCH,
    )
    n, width, side, _ = patches.shape
    first = w[f"{TOWER}.embeddings.class_embedding"].expand(n, 1, width)
    x = torch.cat((first, patches.flatten(2).mT), 1) + w[f"{TOWER}.embeddings.position_embedding"]
    for number in range(VISION.layers):
        layer = {name.removeprefix(f"{TOWER}.encoder.layers.{number}."): weight for name, weight in w.items()}
        q, k, v = (rms(x, layer["norm1.weight"]) @ layer["attn.qkv.weight"].mT).chunk(3, -1)
        # Normalised over all heads together.
        q, k = rms(q, layer["attn.q_norm.weight"]), rms(k, layer["attn.k_norm.weight"])
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (q, k, v))
        mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        mixed = mixed.transpose(1, 2).flatten(2) @ layer["attn.proj.weight"].mT + layer["attn.proj.bias"]
        x = x + layer["ls1"] * mixed
        hidden = rms(x, layer["norm2.weight"]) @ layer["mlp.fc1.weight"].mT + layer["mlp.fc1.bias"]
        x = x + layer["ls2"] * (F.gelu(hidden) @ layer["mlp.fc2.weight"].mT + layer["mlp.fc2.bias"])
    grid = x[:, 1:].unflatten(1, (side // 2, 2, side // 2, 2))
    joined = grid.permute(0, 1, 3, 2, 4, 5).reshape(n, (side // 2) ** 2, 4 * width)
    joined = F.layer_norm(joined, joined.shape[-1:], w["mlp1.0.weight"], w["mlp1.0.bias"])
    return (
        F.gelu(joined @ w["mlp1.1.weight"].mT + w["mlp1.1.bias"]) @ w["mlp1.3.weight"].mT + w["mlp1.3.bias"]
    )


def remote_names(sizes):
    """Names and shapes of a checkpoint of the model's own program, derived from the recorded ones."""
    recorded = json.loads((RECORDED / "internvl3_keys.json").read_text())["InternVL3-1B"]["remote_code"]
    wanted, found = shapes(sizes), {}
    norms = [f"{TOWER}.encoder.layers.0.attn.{part}_norm.weight" for part in "qk"]
    for name in (*recorded["shapes_with_layer_0_standing_for_all"], *norms):
        for number in range(max(sizes.vision.layers, sizes.language.layers)):
            numbered = name.replace("layers.0.", f"layers.{number}.")
            names = transformers_names(numbered)
            if names[0] in wanted:
                rows, *rest = wanted[names[0]]
                found[numbered] = (len(names) * rows, *rest)
    return found


def test_the_large_tower(recorded, tmp_path):
    language = LanguageSizes(16, 1, 2, 1, 16, vocabulary=recorded.meta["vocab"])
    sizes = InternVLSizes(language, VISION, recorded.student_sizes.image_token)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator) * 0.5 + ("norm" in name)
        for name, shape in remote_names(sizes).items()
    }
    assert f"{TOWER}.encoder.layers.1.attn.q_norm.weight" in weights
    assert f"{TOWER}.encoder.layers.1.attn.qkv.bias" not in weights
    save_file(weights, tmp_path / "weights.safetensors")
    folder = make_folder(tmp_path / "x", remote_config(sizes), tmp_path / "weights.safetensors")
    student = StudentPreset("x", sizes, options=Options(stored="float32")).load(folder, device="cpu")
    pixels = torch.randint(0, 256, (2, SIDE, SIDE, 3), generator=generator, dtype=torch.uint8)
    with torch.inference_mode():
        wanted = embeddings(student._reader.recipe.normalise(pixels), weights)
        assert close(student._images(pixels), wanted) < 1e-5
