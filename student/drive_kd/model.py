"""InternVL3 as a student: its language model, or all of it, which returns the attention that losses read.

Layers are those of transformers, under its names. Attention is computed map by map ("eager") only in layers
whose map is asked for, and by torch's fused kernel in all others.

Dimension letters: N token of a sequence, D its width, n image, S row or column of its pixels, H head.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from cache_schema.vocabulary.attention import PIXEL_MEAN, PIXEL_STD

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from transformers import InternVLConfig, InternVLModel, Qwen2Config, Qwen2Model
    from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

Trainable = Literal["language", "all"]


class StudentOutput(NamedTuple):
    """What the student says about one sample."""

    logits: Tensor
    """(tokens, vocabulary) float32; of all N tokens, or of the last ones."""
    attention: dict[int, Tensor]
    """Layer -> (N, N) float32: from each token (row) to each (column), the mean over heads, with gradient."""


class DriveKd(nn.Module):
    """A student of one sample at a time.

    Its weights have the names that transformers' ``InternVLForConditionalGeneration`` gives them. The head
    and the embedding of tokens are two matrices, as in every InternVL3, whatever the configuration says:
    transformers would share them by default, and lose one of the two when weights are loaded.

    Args:
        config: Sizes, as transformers has them.
        trainable: ``language`` for the language model and its head, which read embeddings of images; ``all``
            for the vision tower and the projector as well, which read pixels.
    """

    def __init__(self, config: InternVLConfig, trainable: Trainable) -> None:
        from transformers import AutoModel

        super().__init__()
        config = copy.deepcopy(config)
        text = cast("Qwen2Config", config.text_config)
        config.tie_word_embeddings = text.tie_word_embeddings = False
        self.config, self.trainable = config, trainable
        built = AutoModel.from_config(
            config if trainable == "all" else text,
            dtype=torch.float32,
            attn_implementation="sdpa",
        )
        self.model = built if trainable == "all" else nn.ModuleDict({"language_model": built})
        self.group_layers: tuple[int, ...] = tuple(range(text.num_hidden_layers - 1))
        """Layers that learn from groups of the teacher's layers; a dataset may know of others."""
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self._fused = self.language_model.config
        self._eager = copy.copy(self._fused)
        self._eager._attn_implementation = "eager"

    @property
    def language_model(self) -> Qwen2Model:
        """The layers of the language model, without its head."""
        return cast("Qwen2Model", self.model.get_submodule("language_model"))

    @property
    def depth(self) -> int:
        """Layers of the language model."""
        return len(self.language_model.layers)

    def embed(self, token_ids: Tensor, image_runs: Tensor, images: Tensor) -> Tensor:
        """Return what the first layer reads, (N, D).

        Args:
            token_ids: (N) int64.
            image_runs: (n, 2) places of each image's tokens, from the first to behind the last.
            images: Embeddings (n, tokens, D), or where everything is trained RGB bytes (n, S, S, 3).
        """
        embedded = self.language_model.embed_tokens(token_ids)
        if self.trainable == "all":
            whole = cast("InternVLModel", self.model)
            images = whole.get_image_features(pixel_values=normalised(images)).pooler_output
        images = images.flatten(0, 1).to(embedded.dtype)
        return embedded.index_put((text_and_vision(image_runs, len(token_ids), len(images))[1],), images)

    def forward(
        self,
        token_ids: Tensor,
        image_runs: Tensor,
        images: Tensor,
        *,
        layers: Collection[int] = (),
        logits_from: int = 0,
    ) -> StudentOutput:
        """Read one sample.

        Args:
            token_ids: As of ``embed``.
            image_runs: As of ``embed``.
            images: As of ``embed``.
            layers: The layers whose attention is returned.
            logits_from: The first token that the head is applied to: most of a vocabulary is wasted on the
                tokens of images and question.
        """
        hidden, attention = self.embed(token_ids, image_runs, images)[None], {}
        places = torch.arange(len(token_ids), device=token_ids.device)[None]
        rotary = self.language_model.rotary_emb(hidden, places)
        # The fused kernel masks what follows a token by itself; without a mask, the other would not.
        mask = hidden.new_full((len(token_ids),) * 2, -torch.inf, dtype=torch.float32).triu(1)[None, None]
        for index, layer in enumerate(cast("Iterable[Qwen2DecoderLayer]", self.language_model.layers)):
            read, own = index in layers, layer.self_attn
            own.config = self._eager if read else self._fused
            mixed, weights = own(
                layer.input_layernorm(hidden),
                position_embeddings=rotary,
                attention_mask=mask if read else None,
            )
            own.config = self._fused
            if read:
                attention[index] = weights[0].mean(dim=0, dtype=torch.float32)  # (H, N, N) to (N, N)
            hidden = hidden + mixed
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        hidden = self.language_model.norm(hidden[0, logits_from:])
        return StudentOutput(self.lm_head(hidden).float(), attention)


def text_and_vision(image_runs: Tensor, tokens: int, vision: int) -> tuple[Tensor, Tensor]:
    """Return the places of the tokens that stand for no image, and of those that do, both in order.

    Args:
        image_runs: (n, 2).
        tokens: Of the sequence.
        vision: How many of them stand for images; known, so that the host need not wait for a GPU.
    """
    places = torch.arange(tokens, device=image_runs.device)
    begins, ends = image_runs[:, :1], image_runs[:, 1:]
    stands_for_image = ((places >= begins) & (places < ends)).any(dim=0)  # (N)
    order = stands_for_image.byte().argsort(stable=True)
    return order[: tokens - vision], order[tokens - vision :]


def normalised(pixels: Tensor) -> Tensor:
    """Return RGB bytes (n, S, S, 3) as the vision tower reads them, (n, 3, S, S) float32."""
    mean, std = (torch.tensor(values, device=pixels.device) for values in (PIXEL_MEAN, PIXEL_STD))
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)
