"""Language model: Llama from transformers, over one constant prompt with vision tokens in it.

Source: spec ORION teacher 1.7.
Dimension letters: B slots, N vision tokens, T positions of the whole prompt, P positions in front of the
vision tokens, W positions from there to the waypoint token, H heads, E head width, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, rotate_half

from pipeline.teachers.orion.network.kernels.add_product import add_product, adds_in_place
from pipeline.teachers.orion.network.prompt import IMAGE_PLACEHOLDER
from pipeline.teachers.precision import attention_in_fixed_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaDecoderLayer

    from pipeline.teachers.orion.network.config import LanguageConfig

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, each (1, length of a sequence, head width)."""


class Projected(NamedTuple):
    """Queries, keys and values of a layer's attention, rotated: (B, H, length of a sequence, E) each."""

    q: Tensor
    k: Tensor
    v: Tensor

    def behind(self, prefix: Projected | None) -> Projected:
        """Return these behind the ones of a prefix (1, H, P, E), if any, which all slots share."""
        if prefix is None:
            return self
        shared = (part.expand(len(self.q), -1, -1, -1) for part in prefix)
        return Projected(*(torch.cat(pair, dim=2) for pair in zip(shared, self, strict=True)))


LayerForward = Callable[["LlamaDecoderLayer", Tensor, Rotation, Projected | None], Tensor]
"""A decoder layer's output (B, W, D) by the layer, its input (B, W, D), rotation, and prefix."""


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
        self.prefix: list[Projected] | None = None
        """By layer: what attention reads of the positions in front of the vision tokens; None: not cached."""
        self.apply_layer: LayerForward = decoder_layer
        """Computes all layers but the last; it may be compiled."""
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
        positions = slice(self.split if self.prefix else 0, self.waypoint + 1)
        x = self._sequence(vision)[:, positions].contiguous()  # (B, W, D)
        rotation = self._rotation(positions, x.dtype)
        prefixes = self.prefix or [None] * len(self._layers)
        *layers, (last, last_prefix) = zip(self._layers, prefixes, strict=True)
        for layer, prefix in layers:
            x = self.apply_layer(layer, x, rotation, prefix)
        return self.model.norm(at_last_position(last, x, rotation, last_prefix))

    def hidden_states(self, vision: Tensor) -> Tensor:
        """Map vision tokens (B, N, D) to hidden states (B, T, D) of the whole prompt after the final norm."""
        x = self._sequence(vision)
        rotation = self._rotation(slice(x.shape[1]), x.dtype)
        for layer in self._layers:
            x = layer(x, position_embeddings=rotation)
        return self.model.norm(x)

    @torch.inference_mode()
    def cache_prefix(self) -> None:
        """Compute once what depends on the weights alone; they are in place. Results change by rounding."""
        x = self.model.embed_tokens(self.get_buffer("words")[None, : self.split])  # (1, P, D)
        rotation = self._rotation(slice(self.split), x.dtype)
        self.prefix = []
        for layer in self._layers:
            projected = project(layer.self_attn, layer.input_layernorm(x), rotation)
            mixed = F.scaled_dot_product_attention(*projected, is_causal=True)
            x = after_attention(layer, x, mixed)
            self.prefix.append(projected)

    @property
    def _layers(self) -> Sequence[LlamaDecoderLayer]:
        return cast("Sequence[LlamaDecoderLayer]", self.model.layers)

    def _sequence(self, vision: Tensor) -> Tensor:
        """Return the embedded prompt (B, T, D) with the vision tokens inserted."""
        words = self.model.embed_tokens(self.get_buffer("words")).expand(vision.shape[0], -1, -1)
        before, after = words.tensor_split((self.split,), dim=1)
        return torch.cat((before, vision.to(words.dtype), after), dim=1)

    def _rotation(self, positions: slice, dtype: torch.dtype) -> Rotation:
        return self.get_buffer("cos")[:, positions].to(dtype), self.get_buffer("sin")[:, positions].to(dtype)


def decoder_layer(
    layer: LlamaDecoderLayer, x: Tensor, rotation: Rotation, prefix: Projected | None
) -> Tensor:
    """Return a decoder layer's output (B, W, D) at the positions of x (B, W, D), which follow a prefix."""
    own = project(layer.self_attn, layer.input_layernorm(x), rotation)
    # With the queries of the prefix the mask is the square one that every attention kernel knows.
    mixed = F.scaled_dot_product_attention(*own.behind(prefix), is_causal=True)
    return after_attention(layer, x, mixed[:, :, -x.shape[1] :])


def at_last_position(
    layer: LlamaDecoderLayer, x: Tensor, rotation: Rotation, prefix: Projected | None
) -> Tensor:
    """Return a decoder layer's output (B, D) at the last position of x (B, W, D), which follows a prefix."""
    attention, read = layer.self_attn, layer.input_layernorm(x)
    # A linear layer of a slice (B, 1, D) would copy its weight for every row of the batch.
    q = heads(attention, attention.q_proj(read[:, -1])[:, None])
    k, v = (heads(attention, proj(read)) for proj in (attention.k_proj, attention.v_proj))
    cos, sin = rotation
    q, k = rotate(q, (cos[:, -1:], sin[:, -1:])), rotate(k, rotation)
    _, k, v = Projected(q, k, v).behind(prefix)
    with attention_in_fixed_order():
        mixed = F.scaled_dot_product_attention(q, k, v).flatten(1)  # (B, D)
    here = x[:, -1] + attention.o_proj(mixed)
    return here + layer.mlp(layer.post_attention_layernorm(here))


def project(attention: LlamaAttention, x: Tensor, rotation: Rotation) -> Projected:
    """Return what attention reads of x (B, L, D)."""
    q, k, v = (heads(attention, p(x)) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    return Projected(rotate(q, rotation), rotate(k, rotation), v)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate (B, H, L, E) by position."""
    cos, sin = rotation
    return x * cos + rotate_half(x) * sin


def heads(attention: LlamaAttention, x: Tensor) -> Tensor:
    """Cut (B, L, D) into (B, H, L, E)."""
    return x.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)


def after_attention(layer: LlamaDecoderLayer, x: Tensor, mixed: Tensor) -> Tensor:
    """Return a decoder layer's output (B, L, D) by its input and its mixed values (B, H, L, E).

    On a GPU the input is changed in place.
    """
    mlp = layer.mlp
    x = plus(x, layer.self_attn.o_proj, mixed.transpose(1, 2).flatten(2))
    read = layer.post_attention_layernorm(x)
    return plus(x, mlp.down_proj, mlp.act_fn(mlp.gate_proj(read)) * mlp.up_proj(read))


def plus(x: Tensor, linear: nn.Module, y: Tensor) -> Tensor:
    """Return x (B, L, D) plus a linear map of y; in place on a GPU, where the map is not quantised."""
    if adds_in_place(x) and type(linear) is nn.Linear:
        add_product(x, y, linear.weight)
        return x
    return x + linear(y)
