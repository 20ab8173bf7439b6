"""Folders of a Qwen2.5-VL of tiny width: as transformers writes them today, and as the release is spelt."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import Qwen2_5_VLConfig

from pipeline.teachers.latent_action_vlm.network import build, random_weights, shapes_of
from pipeline.teachers.latent_action_vlm.presets import LATENTVLA_TINY
from pipeline.teachers.latent_action_vlm.prompt import END, IMAGE, TURN, VISION_END, VISION_START

SPECIAL = (TURN, END, VISION_START, VISION_END, IMAGE, "<|video_pad|>")
"""Tokens 256 to 261, behind the bytes."""
ROWS = 300
FIRST_CODE = 270


def tokenizer(more: tuple[str, ...] = ()) -> Tokenizer:
    """Bytes without merges, the special tokens, and more tokens from 262 on."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({byte: number for number, byte in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in (*SPECIAL, *more)])
    return made


def config(**text: Any) -> dict[str, Any]:
    """Arguments of ``Qwen2_5_VLConfig``."""
    sizes = LATENTVLA_TINY.sizes
    return {
        **sizes,
        "model_type": "qwen2_5_vl",
        "text_config": {**sizes["text_config"], "vocab_size": ROWS, **text},
        "vision_start_token_id": 258,
        "vision_end_token_id": 259,
        "image_token_id": 260,
        "video_token_id": 261,
    }


def released(described: Mapping[str, Any]) -> dict[str, Any]:
    """Spell a configuration as the release does: sizes of the language model on top."""
    text = dict(described["text_config"])
    rope = text.pop("rope_parameters")
    rest = {key: value for key, value in described.items() if key != "text_config"}
    scaling = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    return {**rest, **text, "rope_theta": rope["rope_theta"], "rope_scaling": scaling}


def weights(seed: int = 0, **text: Any) -> dict[str, Tensor]:
    """Random weights under today's names."""
    return dict(random_weights(shapes_of(build(Qwen2_5_VLConfig(**config(**text)))), seed))


def released_name(name: str) -> str:
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def write_folder(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    described: Mapping[str, Any] | None = None,
    more_tokens: tuple[str, ...] = (),
    files: int = 1,
) -> Path:
    """Write a checkpoint, its tensors under the names that are given, in one file or several."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(described or config()))
    tokenizer(more_tokens).save(str(folder / "tokenizer.json"))
    if files == 1:
        save_file(dict(tensors), folder / "model.safetensors")
        return folder
    place = {name: f"model-{number % files}.safetensors" for number, name in enumerate(tensors)}
    for file in {*place.values()}:
        save_file({name: tensors[name] for name in tensors if place[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))
    return folder
