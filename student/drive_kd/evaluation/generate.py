"""Greedy replies to a batch of prompts, with a cache of keys and values.

Dimension letters: B prompt of a batch, N token of a prompt, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn


class Reply(NamedTuple):
    """What was generated for one prompt."""

    ids: list[int]
    """Tokens before the one that ends a reply."""
    ended: bool
    """Whether it came to its end, or was cut."""


@torch.no_grad()
def greedy_replies(
    language_model: nn.Module, head: nn.Module, prompts: Sequence[Tensor], *, stop: int, most: int
) -> list[Reply]:
    """Continue every prompt by the likeliest token until the token ``stop``.

    Prompts are filled up on their left, which attention does not see: to rounding, each reply is that of the
    prompt alone.

    Args:
        language_model: Of transformers; returns ``last_hidden_state`` and ``past_key_values``.
        head: From hidden states to logits.
        prompts: (N, D) embeddings of each.
        stop: Token that ends a reply.
        most: Tokens after which a reply is cut, ``stop`` included; at least 1.
    """
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=prompts[0].device)  # (B)
    embedded = pad_sequence(list(prompts), batch_first=True, padding_side="left")  # (B, N, D)
    places = torch.arange(embedded.shape[1], device=embedded.device)
    places = places - (embedded.shape[1] - lengths)[:, None]  # (B, N), negative in the padding
    mask = (places >= 0).long()
    output = language_model(
        inputs_embeds=embedded, attention_mask=mask, position_ids=places.clamp(min=0), use_cache=True
    )
    tokens: list[Tensor] = []
    running = torch.ones_like(lengths, dtype=torch.bool)
    while True:
        token = head(output.last_hidden_state[:, -1]).float().argmax(dim=-1)  # (B)
        tokens.append(token)
        running &= token != stop
        if len(tokens) == most or not running.any():
            return [_reply(ids, stop) for ids in torch.stack(tokens, dim=1).tolist()]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        output = language_model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=(lengths + len(tokens) - 1)[:, None],
            past_key_values=output.past_key_values,
            use_cache=True,
        )


def _reply(ids: list[int], stop: int) -> Reply:
    return Reply(ids[: ids.index(stop)], ended=True) if stop in ids else Reply(ids, ended=False)
