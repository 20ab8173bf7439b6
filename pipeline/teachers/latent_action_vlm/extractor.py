"""What a Qwen2.5-VL tells of latent actions: one code after the other, and the states behind them.

A prompt's last token predicts the first code, each code the next one. All go through one cache of keys and
values. The library's own forward pass is not used: its positions depend on an argument that one forgets.

Dimension letters: B sequences, S tokens of a prompt with its padding, C images of a prompt, T tokens of an
image, N codes, K values of a code, D width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from transformers import DynamicCache

from pipeline.teachers.latent_action_vlm.images import MERGED, grid_of, patches
from pipeline.teachers.precision import attention_in_fixed_order

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Qwen2_5_VLForConditionalGeneration

    from pipeline.teachers.latent_action_vlm.sequences import Sequences


class LatentActions(NamedTuple):
    """Codes, and what led to them. All but the codes is float32."""

    codes: Tensor
    """(B, N) int64, in 0..K-1."""
    code_logits: Tensor
    """(B, N, K), each given the codes before."""
    code_mass: Tensor
    """(B, N) probability that the next token is a code, among all V."""
    act_hidden: Tensor
    """(B, N, D) states after the final norm that predict the codes."""
    visual_hidden: Tensor
    """(B, C, T, D) states after the final norm at tokens of images."""


def latent_actions(
    model: Qwen2_5_VLForConditionalGeneration,
    images: Tensor,
    prompts: Sequences,
    code_ids: range,
    count: int,
    *,
    given: Tensor | None = None,
) -> LatentActions:
    """Have a model tell its codes.

    Args:
        model: With attention by PyTorch, whose masks are booleans.
        images: (B, C, 3, H, W) uint8 RGB; both sizes are multiples of 28.
        prompts: On the model's device.
        code_ids: Token ids of the K codes.
        count: N.
        given: (B, N) int64 codes that each next code follows. None: the likeliest ones.
    """
    language_model, head = model.model.language_model, model.lm_head.weight
    embed = language_model.get_input_embeddings()
    code_rows = head[code_ids.start : code_ids.stop].float()
    of_image = prompts.ids == model.config.image_token_id
    embedded = embed(prompts.ids)
    embedded[of_image] = image_tokens(model, images).to(embedded.dtype)

    cache = DynamicCache(config=language_model.config)
    length = prompts.ids.shape[1]
    behind = torch.ones_like(prompts.valid[:, :1]).expand(-1, count)
    reachable = torch.cat((prompts.valid, behind), dim=1)[:, None, None]
    mask = reachable[..., :length] & torch.ones(length, length, dtype=torch.bool, device=head.device).tril()
    # Padding sees itself, because attention to nothing at all is undefined. Nothing sees padding.
    mask |= torch.eye(length, dtype=torch.bool, device=head.device)
    places = prompts.positions

    states, logits, codes = [], [], []
    visual = None
    for step in range(count):
        with attention_in_fixed_order():
            output = language_model(
                inputs_embeds=embedded,
                attention_mask=mask,
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
        visual = output[of_image] if visual is None else visual
        states.append(output[:, -1])
        logits.append(F.linear(states[-1].float(), code_rows))
        codes.append(logits[-1].argmax(dim=-1) if given is None else given[:, step])
        embedded = embed(codes[-1] + code_ids.start)[:, None]
        places = (prompts.next_position + step).expand(3, -1)[..., None]
        mask = reachable[..., : length + step + 1]

    hidden, code_logits = torch.stack(states, dim=1), torch.stack(logits, dim=1)
    others = F.linear(hidden, head).float()
    others[..., code_ids.start : code_ids.stop] = -torch.inf
    mass = torch.sigmoid(code_logits.logsumexp(dim=-1) - others.logsumexp(dim=-1))
    assert visual is not None, "at least one code is asked for"
    return LatentActions(
        codes=torch.stack(codes, dim=1),
        code_logits=code_logits,
        code_mass=mass,
        act_hidden=hidden.float(),
        visual_hidden=visual.float().view(*images.shape[:2], -1, hidden.shape[-1]),
    )


def image_tokens(model: Qwen2_5_VLForConditionalGeneration, images: Tensor) -> Tensor:
    """Return what stands for images (B, C, 3, H, W) uint8 in the sequences: (B * C * T, D)."""
    flat = images.flatten(0, 1)
    rows, columns = grid_of((images.shape[-1], images.shape[-2]))
    grid = torch.tensor([1, rows * MERGED, columns * MERGED], device=images.device).repeat(len(flat), 1)
    return torch.cat(model.model.get_image_features(patches(flat), grid).pooler_output)
