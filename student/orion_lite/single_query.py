"""A transformer decoder with a single query.

With one query, the keys and values of the tokens need not be computed: the query passes through the keys'
weights instead, and the attended mixture of tokens through the values'. That is the same function of the same
weights with a fiftieth of the multiplications (16 heads, 529 tokens, width 1024). Self-attention of a single
query is its own value.

Dimension letters: B batch, N token, H width, A head, D width of a head (H / A).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor, nn


ALIGNED = 8
"""On a GPU the tokens are padded to a multiple of this: tensor cores load rows of 16 bytes. Products with 529
tokens run at a third of the speed of those with 536."""


def decode(decoder: nn.TransformerDecoder, query: Tensor, memory: Tensor) -> Tensor:
    """Decode one query (B, H) over a memory (B, N, H), as a ``decoder`` with ``norm_first`` does; (B, H).

    Dropout is applied where the module applies it.
    """
    tokens, x = memory.shape[1], query
    if memory.is_cuda:
        memory = F.pad(memory, (0, 0, 0, -tokens % ALIGNED))
    for layer in decoder.layers:
        x = x + layer.dropout1(_self_attention(layer.self_attn, layer.norm1(x)))
        x = x + layer.dropout2(_cross_attention(layer.multihead_attn, layer.norm2(x), memory, tokens))
        inner = layer.dropout(layer.activation(layer.linear1(layer.norm3(x))))
        x = x + layer.dropout3(layer.linear2(inner))
    return x


def _self_attention(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Map (B, H) to (B, H); the query and key rows of the weights have no effect."""
    width = attention.embed_dim
    value = F.linear(x, attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
    heads = value.unflatten(1, (attention.num_heads, -1))  # (B, A, D)
    # The attention weight is 1, unless dropout removes it for a head.
    kept = F.dropout(torch.ones_like(heads[..., :1]), attention.dropout, attention.training)
    return attention.out_proj((heads * kept).flatten(1))


def _cross_attention(attention: nn.MultiheadAttention, x: Tensor, memory: Tensor, tokens: int) -> Tensor:
    """Map (B, H) and the memory (B, N, H), maybe padded, to (B, H).

    Only its first ``tokens`` are attended to. The keys' bias adds the same to every score.
    """
    count = attention.num_heads
    to_query, to_key, to_value = attention.in_proj_weight.chunk(3)  # (H, H) each
    query_bias, _, value_bias = attention.in_proj_bias.chunk(3)
    query = F.linear(x, to_query, query_bias).unflatten(1, (count, -1))  # (B, A, D)
    to_key, to_value = (weight.unflatten(0, (count, -1)) for weight in (to_key, to_value))  # (A, D, H)
    projected = (query.transpose(0, 1) @ to_key).transpose(0, 1)  # (B, A, H)
    scores = _scores(projected, memory, tokens) / math.sqrt(query.shape[-1])  # (B, A, N)
    weights = F.dropout(scores.softmax(dim=-1), attention.dropout, attention.training)
    mixed = weights @ memory  # (B, A, H)
    value = (mixed.transpose(0, 1) @ to_value.transpose(1, 2)).transpose(0, 1)  # (B, A, D)
    value = value + weights.sum(dim=-1, keepdim=True) * value_bias.unflatten(0, (count, -1))
    return attention.out_proj(value.flatten(1))


def _scores(projected: Tensor, memory: Tensor, tokens: int) -> Tensor:
    """Return products (B, A, N) of queries (B, A, H) and memory (B, N, H), minus infinity behind tokens."""
    if not memory.is_cuda:
        return projected @ memory.transpose(1, 2)
    # The same in another order, by which the gradient of the memory lies in memory as the memory does.
    scores = (memory @ projected.transpose(1, 2)).transpose(1, 2)
    return scores.masked_fill(torch.arange(memory.shape[1], device=memory.device) >= tokens, -math.inf)
