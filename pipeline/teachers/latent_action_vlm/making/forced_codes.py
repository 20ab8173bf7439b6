"""How likely a model finds given codes: all of them in one pass, with rows of codes that are trained.

Dimension letters: B sequences, S tokens of a prompt with its padding, N codes, K values of a code, D width, V
vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.teachers.latent_action_vlm.extractor import image_tokens

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration

    from pipeline.teachers.latent_action_vlm.sequences import Sequences


class CodeRows:
    """The rows (K, D) of codes in a model's embedding and in its head, which may be the same.

    Args:
        model: All other rows of it stay as they are.
        code_ids: Token ids of the codes.
    """

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, code_ids: range) -> None:
        rows = slice(code_ids.start, code_ids.stop)
        embedding = model.model.language_model.embed_tokens.weight
        head = model.lm_head.weight
        self.code_ids, self.tied = code_ids, head is embedding
        self.read = nn.Parameter(embedding[rows].detach().float().clone())
        """What the model reads of a code."""
        self.said = self.read if self.tied else nn.Parameter(head[rows].detach().float().clone())
        """What it says codes by."""

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {"rows.read": self.read} | ({} if self.tied else {"rows.said": self.said})


def forced_nll(
    model: Qwen2_5_VLForConditionalGeneration,
    rows: CodeRows,
    images: Tensor,
    prompts: Sequences,
    codes: Tensor,
) -> Tensor:
    """Return (B, N) float32, minus the log-probability of each code among all tokens, given those before.

    Args:
        model: With attention by PyTorch, whose masks are booleans.
        rows: Rows of codes.
        images: (B, C, 3, H, W) uint8 RGB; both sizes are multiples of 28.
        prompts: On the model's device.
        codes: (B, N) int64, in 0..K-1.
    """
    language_model, head = model.model.language_model, model.lm_head.weight
    with torch.no_grad():
        embedded = language_model.embed_tokens(prompts.ids)
        of_image = prompts.ids == model.config.image_token_id
        embedded[of_image] = image_tokens(model, images).to(embedded.dtype)
    behind = codes.shape[1] - 1
    given = F.embedding(codes[:, :-1], rows.read).to(embedded.dtype)
    valid = F.pad(prompts.valid, (0, behind), value=True)
    length = valid.shape[1]
    mask = valid[:, None, None] & torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()
    # Padding sees itself, because attention to nothing at all is undefined. Nothing sees padding.
    mask |= torch.eye(length, dtype=torch.bool, device=valid.device)
    places = prompts.next_position[:, None] + torch.arange(behind, device=valid.device)
    hidden = language_model(
        inputs_embeds=torch.cat([embedded, given], dim=1),
        attention_mask=mask,
        position_ids=torch.cat([prompts.positions, places.expand(3, -1, -1)], dim=2),
        use_cache=False,
    ).last_hidden_state[:, -behind - 1 :]
    said = F.linear(hidden.float(), rows.said)
    ids = torch.arange(rows.code_ids.start, rows.code_ids.stop, device=head.device)
    others = F.linear(hidden, head).float().index_fill(-1, ids, -torch.inf)
    among_all = torch.logaddexp(said.logsumexp(-1), others.logsumexp(-1))
    return among_all - said.gather(-1, codes[..., None])[..., 0]
