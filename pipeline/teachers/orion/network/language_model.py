"""Language model: Llama from transformers, over one constant prompt with vision tokens in it.

Source: spec ORION teacher 1.7.
Dimension letters: B slots, N vision tokens, T positions of the whole prompt, W positions up to the waypoint
token, H heads, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, rotate_half

from pipeline.teachers.orion.network.prompt import IMAGE_PLACEHOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer

    from pipeline.teachers.orion.network.config import LanguageConfig

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, each (1, length of a sequence, head width)."""


class LanguageModel(nn.Module):
    """Maps vision tokens to the planning token."""

    def __init__(self, config: LanguageConfig, vision_tokens: int) -> None:
        super().__init__()
        llama = LlamaConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.mlp_width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.max_positions,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            use_cache=False,
        )
        self.model = LlamaModel(llama)
        self.split = config.prompt.index(IMAGE_PLACEHOLDER)
        words = [token for token in config.prompt if token != IMAGE_PLACEHOLDER]
        self.waypoint = words.index(config.waypoint) + vision_tokens
        with torch.device("cpu"):  # real numbers even in a model built on the meta device
            self.model.rotary_emb = LlamaRotaryEmbedding(llama)
            positions = torch.arange(len(words) + vision_tokens)[None]
            cos, sin = self.model.rotary_emb(torch.empty(0), positions)
            self.register_buffer("words", torch.tensor(words), persistent=False)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)

    def forward(self, vision: Tensor) -> Tensor:
        """Map vision tokens (B, N, D) to the hidden state (B, D) after the final norm at the waypoint token.

        Only what this position depends on is computed: no token behind it, and no other position of the last
        layer.
        """
        x = self._sequence(vision)[:, : self.waypoint + 1]  # (B, W, D)
        rotation = self._rotation(x)
        *layers, last = self._layers
        for layer in layers:
            x = layer(x, position_embeddings=rotation)
        return self.model.norm(at_last_position(last, x, rotation))

    def hidden_states(self, vision: Tensor) -> Tensor:
        """Map vision tokens (B, N, D) to hidden states (B, T, D) of the whole prompt after the final norm."""
        x = self._sequence(vision)
        rotation = self._rotation(x)
        for layer in self._layers:
            x = layer(x, position_embeddings=rotation)
        return self.model.norm(x)

    @property
    def _layers(self) -> Iterable[LlamaDecoderLayer]:
        return cast("Iterable[LlamaDecoderLayer]", self.model.layers)

    def _sequence(self, vision: Tensor) -> Tensor:
        """Return the embedded prompt (B, T, D) with the vision tokens inserted."""
        words = self.model.embed_tokens(self.get_buffer("words")).expand(vision.shape[0], -1, -1)
        before, after = words.tensor_split((self.split,), dim=1)
        return torch.cat((before, vision.to(words.dtype), after), dim=1)

    def _rotation(self, x: Tensor) -> Rotation:
        length = x.shape[1]
        return self.get_buffer("cos")[:, :length].to(x.dtype), self.get_buffer("sin")[:, :length].to(x.dtype)


def at_last_position(layer: LlamaDecoderLayer, x: Tensor, rotation: Rotation) -> Tensor:
    """Return a decoder layer's output (B, D) at the last position of x (B, W, D), which attends to all."""
    here = x[:, -1] + attend_from_last(layer.self_attn, layer.input_layernorm(x), rotation)  # (B, D)
    return here + layer.mlp(layer.post_attention_layernorm(here))


def attend_from_last(attention: LlamaAttention, x: Tensor, rotation: Rotation) -> Tensor:
    """Return the attention output (B, D) of the last position over all of x (B, W, D)."""
    cos, sin = rotation

    def heads(projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (-1, attention.head_dim))

    # A linear layer of a slice (B, 1, D) would copy its weight for every row of the batch.
    q = heads(attention.q_proj(x[:, -1])).unsqueeze(2)  # (B, H, 1, head width)
    k, v = (heads(proj(x)).transpose(1, 2) for proj in (attention.k_proj, attention.v_proj))  # (B, H, W, ...)
    q = q * cos[:, -1:] + rotate_half(q) * sin[:, -1:]
    k = k * cos + rotate_half(k) * sin
    return attention.o_proj(F.scaled_dot_product_attention(q, k, v).flatten(1))
