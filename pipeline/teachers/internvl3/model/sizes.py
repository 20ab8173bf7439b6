"""Sizes of an InternVL3, as of a preset or of a checkpoint's config.json.

Source: spec Drive-KD 2.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cache_schema.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SHUFFLED = 2
"""Patches in a row and in a column that one token of an image is made of: the pixel shuffle's factor."""


@dataclass(frozen=True)
class VisionSizes:
    """An InternViT; by default the one with 300 million weights."""

    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_width: int = 4096
    image_size: int = 448
    patch_size: int = 14
    norm: Literal["layer_norm", "rms_norm"] = "layer_norm"
    norm_eps: float = 1e-6
    attention_bias: bool = True
    """Whether queries, keys and values have biases."""
    qk_norm: bool = False
    """Whether queries and keys are normalised."""


@dataclass(frozen=True)
class LanguageSizes:
    """A Qwen2."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp_width: int
    vocabulary: int = 151674
    norm_eps: float = 1e-6
    rope_theta: float = 1e6
    positions: int = 32768
    """Longest sequence that its rotary positions were trained for."""


@dataclass(frozen=True)
class InternVLSizes:
    """An InternVL3: vision tower, projector, language model."""

    language: LanguageSizes
    vision: VisionSizes = field(default_factory=VisionSizes)
    image_token: int = 151667
    """Id of ``<IMG_CONTEXT>``, which holds the place of every token of an image."""

    @property
    def tokens_per_image(self) -> int:
        """Tokens that the language model gets of one image."""
        return (self.vision.image_size // self.vision.patch_size // SHUFFLED) ** 2

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of transformers' ``InternVLConfig``, as JSON values."""
        vision, language = self.vision, self.language
        return {
            "vision_config": {
                "hidden_size": vision.width,
                "num_hidden_layers": vision.layers,
                "num_attention_heads": vision.heads,
                "intermediate_size": vision.mlp_width,
                "image_size": vision.image_size,
                "patch_size": vision.patch_size,
                "norm_type": vision.norm,
                "layer_norm_eps": vision.norm_eps,
                "attention_bias": vision.attention_bias,
                "use_qk_norm": vision.qk_norm,
                "hidden_act": "gelu",
                "use_mean_pooling": True,
            },
            "text_config": {
                "model_type": "qwen2",
                "hidden_size": language.width,
                "num_hidden_layers": language.layers,
                "num_attention_heads": language.heads,
                "num_key_value_heads": language.kv_heads,
                "intermediate_size": language.mlp_width,
                "vocab_size": language.vocabulary,
                "rms_norm_eps": language.norm_eps,
                "rope_parameters": {"rope_type": "default", "rope_theta": language.rope_theta},
                "max_position_embeddings": language.positions,
                "hidden_act": "silu",
                "tie_word_embeddings": False,
            },
            "image_token_id": self.image_token,
            "image_seq_length": self.tokens_per_image,
            "downsample_ratio": 1 / SHUFFLED,
            "projector_hidden_act": "gelu",
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "default",
            "tie_word_embeddings": False,
        }


def check_sizes(config: Mapping[str, Any], sizes: InternVLSizes, file: Path) -> None:
    """Check that a checkpoint's config.json describes a model of certain sizes.

    Args:
        config: Content of the file: of ``InternVLChatModel``, whose language model is under ``llm_config``,
            or of transformers, whose language model is under ``text_config``.
        sizes: What it must describe.
        file: The file, for the message.

    Raises:
        CheckpointError: It does not, or it is of another architecture.
    """
    wanted = _flat(sizes)
    try:
        found = _of_remote_code(config) if "llm_config" in config else _of_transformers(config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{file} does not describe an InternVL3: {error!r}",
            expected="the config.json of an InternVL3, from either of its two kinds of repositories",
            repair="download the folder again, with config.json, tokenizer and all .safetensors files",
        ) from error
    if differing := {key: value for key, value in found.items() if value != wanted[key]}:
        raise CheckpointError(
            f"{file} is of another model: " + ", ".join(f"{key} {differing[key]}" for key in differing),
            expected=", ".join(f"{key} {wanted[key]}" for key in differing),
            repair="choose the preset of this checkpoint, or the checkpoint of this preset",
        )


_FIXED = {"architecture of the language model": "qwen2", "rotary positions": "plain", "pixel shuffle": 2}
"""What no preset changes; see ``_flat``."""


def _flat(sizes: InternVLSizes) -> dict[str, Any]:
    vision = {f"vision.{key}": value for key, value in asdict(sizes.vision).items()}
    language = {f"language.{key}": value for key, value in asdict(sizes.language).items()}
    return vision | language | {"image token": sizes.image_token} | _FIXED


def _of_remote_code(config: Mapping[str, Any]) -> dict[str, Any]:
    vision, language = config["vision_config"], config["llm_config"]
    shuffle = config.get("ps_version") == "v2" and config.get("select_layer", -1) == -1
    return {
        **_common(vision, language),
        "vision.norm": vision["norm_type"],
        "vision.attention_bias": vision["qkv_bias"],
        "vision.qk_norm": vision["qk_normalization"],
        "pixel shuffle": 1 / config["downsample_ratio"] if shuffle else "another version",
    }


def _of_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    from transformers import InternVLConfig

    # It fills in what the file leaves out because it is the default.
    whole = InternVLConfig.from_dict(dict(config)).to_dict()
    vision, language = whole["vision_config"], whole["text_config"]
    return {
        **_common(vision, language),
        "vision.norm": vision["norm_type"],
        "vision.attention_bias": vision["attention_bias"],
        "vision.qk_norm": vision["use_qk_norm"],
        "pixel shuffle": 1 / whole["downsample_ratio"] if whole["vision_feature_layer"] == -1 else "another",
        "image token": whole["image_token_id"],
    }


def _common(vision: Mapping[str, Any], language: Mapping[str, Any]) -> dict[str, Any]:
    """What both kinds of config.json call the same."""
    rope = language.get("rope_parameters") or {}
    scaling = rope or language.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    # Dynamic scaling begins behind the longest sequence, where this teacher ends.
    plain = kind in ("default", "dynamic") and not language.get("use_sliding_window")
    return {
        "vision.width": vision["hidden_size"],
        "vision.layers": vision["num_hidden_layers"],
        "vision.heads": vision["num_attention_heads"],
        "vision.mlp_width": vision["intermediate_size"],
        "vision.image_size": _side(vision["image_size"]),
        "vision.patch_size": _side(vision["patch_size"]),
        "vision.norm_eps": vision["layer_norm_eps"],
        "language.width": language["hidden_size"],
        "language.layers": language["num_hidden_layers"],
        "language.heads": language["num_attention_heads"],
        "language.kv_heads": language["num_key_value_heads"],
        "language.mlp_width": language["intermediate_size"],
        "language.vocabulary": language["vocab_size"],
        "language.norm_eps": language["rms_norm_eps"],
        "language.rope_theta": rope.get("rope_theta") or language["rope_theta"],
        "language.positions": language["max_position_embeddings"],
        "architecture of the language model": language["model_type"],
        "rotary positions": "plain" if plain else kind,
    }


def _side(size: int | list[int] | tuple[int, ...]) -> int | tuple[int, ...]:
    """The side of a square, however it is written."""
    if isinstance(size, int):
        return size
    return size[0] if len(set(size)) == 1 else tuple(size)
