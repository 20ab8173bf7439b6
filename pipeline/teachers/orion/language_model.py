"""Language model: Llama, as transformers has it, over one constant prompt with vision tokens in it.

Source: spec ORION teacher 1.7.
Dimension letters: B slots, N vision tokens, T positions of the whole sequence, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from pipeline.teachers.orion.prompt import IMAGE_PLACEHOLDER

if TYPE_CHECKING:
    from pipeline.teachers.orion.config import LanguageConfig


class LanguageModel(nn.Module):
    """Vision tokens to hidden states of the whole prompt."""

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
        with torch.device("cpu"):  # real numbers even in a model built on the meta device
            self.model.rotary_emb = LlamaRotaryEmbedding(llama)
        self.split = config.prompt.index(IMAGE_PLACEHOLDER)
        words = [token for token in config.prompt if token != IMAGE_PLACEHOLDER]
        self.register_buffer("words", torch.tensor(words, device="cpu"), persistent=False)
        self.waypoint = words.index(config.waypoint) + vision_tokens

    def forward(self, vision: Tensor) -> Tensor:
        """Vision tokens (B, N, D) to hidden states (B, T, D) after the final norm."""
        words = self.model.embed_tokens(self.get_buffer("words")).expand(vision.shape[0], -1, -1)
        before, after = words.tensor_split((self.split,), dim=1)
        sequence = torch.cat((before, vision.to(words.dtype), after), dim=1)
        return self.model(inputs_embeds=sequence).last_hidden_state

    def planning_token(self, hidden: Tensor) -> Tensor:
        """The hidden state (B, D) at the waypoint token."""
        return hidden[:, self.waypoint]
