"""InternVL3 as a ``Teacher`` of attention: questions in, attention averaged over heads out.

Questions about the same images begin with the same tokens. Attention is causal, so what these attend to does
not depend on the question: it is computed once, kept as a cache of keys and values, and stored once.

Dimension letters as in ``cache_schema.vocabulary.attention``; R is the tokens of one pass: P or S.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import DynamicCache

from cache_schema.format.manifest import TeacherIdentity
from cache_schema.progress import SILENT
from cache_schema.vocabulary.attention import (
    ATTENTION_FIRST,
    ATTENTION_GROUPS,
    ATTENTION_GROUPS_PREFIX,
    ATTENTION_GROUPS_TO_PREFIX,
    ATTENTION_PENULTIMATE,
    PREFIX_SAMPLE,
)
from pipeline.teachers.device import make_current
from pipeline.teachers.internvl3.attention import AttentionReader
from pipeline.teachers.internvl3.inputs import QuestionReader, pinned, sequence_features
from pipeline.teachers.internvl3.model.checkpoint import load_weights
from pipeline.teachers.internvl3.model.network import build
from pipeline.teachers.precision import TYPES, compute_exact_float32

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cache_schema.progress import Progress
    from pipeline.questions.sample import QuestionSample
    from pipeline.teachers.internvl3.attention import Maps
    from pipeline.teachers.internvl3.inputs import QuestionInputs
    from pipeline.teachers.internvl3.model.checkpoint import Checkpoint, RandomWeights
    from pipeline.teachers.internvl3.options import AttentionOptions


class Key(NamedTuple):
    """What decides everything about a prefix."""

    clip: str
    token_ids: tuple[int, ...]
    images: tuple[str, ...]


@dataclass(frozen=True)
class Prefix:
    """What questions about the same images share."""

    key: Key
    sample: int
    """Place in the clip of the first of them, which stores it."""
    cache: DynamicCache
    """Keys and values of its tokens."""
    maps: Maps
    """Rows of its own tokens, (P, P); of groups of layers only until they are stored."""


@dataclass(frozen=True)
class SlotState:
    """What a slot carries from question to question."""

    clip: str = ""
    samples: int = 0
    """Questions of this clip so far."""
    prefix: Prefix | None = None


class AttentionTeacher:
    """A frozen InternVL3 whose attention is read; implements ``Teacher``.

    One question is one forward pass, however many slots there are: batches would have to be padded, and a
    question's own tokens behind a shared prefix are few.

    Args:
        name: Part of its identity.
        options: What was chosen.
        weights: A checkpoint, or random ones; and sizes and tokenizer.
        device: Where it runs.
        precision: A key of ``TYPES``. Softmax and averages are in float32 always.
        progress: Counts tensors.
    """

    kind = "questions"
    fresh_inputs = True

    def __init__(
        self,
        name: str,
        options: AttentionOptions,
        weights: Checkpoint | RandomWeights,
        *,
        device: str,
        precision: str,
        progress: Progress = SILENT,
    ) -> None:
        compute_exact_float32()
        sizes = weights.sizes
        read = options.layers_read(sizes.language.layers)
        self.features = options.attention_features(sizes.language.layers)
        self.device = device
        self._stored: torch.dtype = getattr(torch, options.stored)
        self._share_prefix = options.share_prefix
        self._groups = len(read.groups)
        self._reader = QuestionReader(weights.tokenizer, sizes, options.layout, options.max_tokens)
        self.model = build(sizes, read.depth)
        origin = load_weights(self.model, weights, device, TYPES[precision], progress)
        self._attention = AttentionReader(self.model.language_model.layers, read)
        attention = {
            "student_layers": options.student_layers,
            "start": options.start,
            "end": options.end,
            "groups": [list(group) for group in read.groups],
        }
        self.identity = TeacherIdentity(
            name=name,
            weights=origin,
            precision=precision if precision == "fp32" else f"{precision}, attention averaged in fp32",
            preprocessing=self._reader.preprocessing,
            architecture={
                "model": sizes.arguments(),
                "prefix": "shared" if options.share_prefix else "repeated",
                **({"attention": attention} if read.groups else {}),
            },
        )

    def prepare(self, sample: QuestionSample) -> QuestionInputs:
        """Tokenise a question and read its images; see ``Teacher``."""
        return self._reader.read(sample)

    def collate(self, inputs: Sequence[QuestionInputs | None]) -> list[QuestionInputs | None]:
        """Return the inputs as they are, with pixels on their way to a GPU; see ``Teacher``."""
        return pinned(inputs, self.device)

    def begin(self, slots: int) -> list[SlotState]:
        """Return the state before the first question of ``slots`` clips."""
        make_current(self.device)
        return [SlotState()] * slots

    @torch.inference_mode()
    def step(
        self, batch: Sequence[QuestionInputs | None], state: Sequence[SlotState]
    ) -> tuple[dict[str, Tensor | list[Tensor]], list[SlotState]]:
        """Compute the features of one question a slot; see ``Teacher``."""
        rows, states = [], []
        for inputs, before in zip(batch, state, strict=True):
            values, after = ({}, before) if inputs is None else self._attend(inputs, before)
            rows.append(values)
            states.append(after)
        features: dict[str, Tensor | list[Tensor]] = sequence_features(batch)
        idle = torch.zeros(0)
        for spec in self.features:
            if spec.name == PREFIX_SAMPLE:
                places = [row.get(PREFIX_SAMPLE, 0) for row in rows]
                features[PREFIX_SAMPLE] = torch.tensor(places, dtype=torch.int32)
            elif spec.name not in features:
                features[spec.name] = [row.get(spec.name, idle).to(self._stored) for row in rows]
        return features, states

    def assets(self) -> dict[str, dict[str, Tensor]]:
        """Return the tokenizer."""
        return self._reader.tokenizer.asset()

    def _attend(self, inputs: QuestionInputs, before: SlotState) -> tuple[dict, SlotState]:
        """Compute the attention of one question, and what the next one may share with it."""
        sample, last = (before.samples, before.prefix) if before.clip == inputs.clip else (0, None)
        length = inputs.prefix if self._share_prefix else 0
        embedded = self._embed(inputs, length, len(inputs.token_ids), with_images=not length)
        if not length:
            values = self._values(inputs, self._pass(embedded, DynamicCache()), None, sample)
            return values, SlotState(inputs.clip, sample + 1, last)
        key = Key(inputs.clip, tuple(inputs.token_ids[:length].tolist()), inputs.images)
        prefix = last
        if prefix is None or prefix.key != key:
            cache = DynamicCache()
            maps = self._pass(self._embed(inputs, 0, length, with_images=True), cache)
            prefix = Prefix(key, sample, cache, maps)
        values = self._values(inputs, self._pass(embedded, prefix.cache), prefix, sample)
        prefix.cache.crop(length - len(inputs.token_ids))  # by so many
        stored = replace(prefix, maps=prefix.maps._replace(groups=None))
        return values, SlotState(inputs.clip, sample + 1, stored)

    def _embed(self, inputs: QuestionInputs, begin: int, end: int, *, with_images: bool) -> Tensor:
        """Return the embeddings (1, R, width) of some tokens, and of all images if they are among them."""
        ids = inputs.token_ids[begin:end].to(self.device)
        embedded = self.model.language_model.embed_tokens(ids)
        if with_images and inputs.images:
            pixels = self._reader.recipe.normalise(inputs.pixels.to(self.device, non_blocking=True))
            images = self.model.get_image_features(pixels).pooler_output
            for (first, behind), image in zip(inputs.image_runs.tolist(), images, strict=True):
                embedded[first - begin : behind - begin] = image
        return embedded[None]

    def _pass(self, embedded: Tensor, cache: DynamicCache) -> Maps:
        self.model.language_model(inputs_embeds=embedded, past_key_values=cache, use_cache=True)
        return self._attention.take()

    def _values(self, inputs: QuestionInputs, own: Maps, prefix: Prefix | None, sample: int) -> dict:
        """Return the features of attention of one question.

        Args:
            inputs: The question.
            own: Attention (S, P + S) of the tokens behind the prefix.
            prefix: The prefix, if it has one.
            sample: The question's place in its clip.
        """
        length = len(prefix.key.token_ids) if prefix else 0
        values = {}
        is_image = torch.zeros(len(inputs.token_ids), dtype=torch.bool)
        for first, behind in inputs.image_runs.tolist():
            is_image[first:behind] = True
        columns = is_image.nonzero()[:, 0].to(self.device)
        text = (~is_image).nonzero()[:, 0]
        early, late = text[text < length].to(self.device), text[text >= length].to(self.device)
        for name, field in ((ATTENTION_FIRST, "first"), (ATTENTION_PENULTIMATE, "penultimate")):
            if (rows := getattr(own, field)) is None:
                continue
            block = rows[late - length][:, columns]
            if prefix:
                block = torch.cat((getattr(prefix.maps, field)[early][:, columns], block))
            values[name] = block
        if own.groups is not None:
            values[PREFIX_SAMPLE] = prefix.sample if prefix else sample
            values[ATTENTION_GROUPS] = own.groups[..., length:]
            values[ATTENTION_GROUPS_TO_PREFIX] = own.groups[..., :length]
            stored = prefix.maps.groups if prefix else None
            nothing = own.groups.new_zeros(self._groups, 0, 0)
            values[ATTENTION_GROUPS_PREFIX] = nothing if stored is None else stored
        return values
