"""InternVL3's tokenizer, as its checkpoint's folder holds it.

Text is always encoded as text: a question that spells ``<IMG_CONTEXT>`` or ``<|im_end|>`` gets the tokens of
these letters, so no question can pretend to hold an image, or to have ended.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer

from cache_schema.errors import CheckpointError
from cache_schema.storage.atomic_io import sha256_bytes
from cache_schema.vocabulary.attention import SPECIAL_TOKENS, TOKENIZER
from pipeline.teachers.weights import refuse_placeholder

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

FILE = "tokenizer.json"

SPLITTING = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""How Qwen2 cuts text into words before it merges letters. Source: Qwen2's tokenizer.json."""


class QuestionTokenizer:
    """Encodes text, never as a special token; safe for several threads.

    Args:
        content: A tokenizer.json.
        origin: Where it is from, for messages.

    Raises:
        CheckpointError: It is none, or it lacks one of ``SPECIAL_TOKENS``.
    """

    def __init__(self, content: bytes, origin: object) -> None:
        self._content = content
        try:
            described = json.loads(content)
            for token in described["added_tokens"]:
                token["special"] |= token["content"] in SPECIAL_TOKENS
            self._tokenizer = Tokenizer.from_str(json.dumps(described))
        except Exception as error:
            raise CheckpointError(
                f"{origin} is no tokenizer: {error}",
                expected="a tokenizer.json that the tokenizers library reads",
                repair="download the checkpoint's folder again",
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True
        found = {token: self._tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
        ids = [number for number in found.values() if number is not None]
        if lacking := [token for token, number in found.items() if number is None]:
            raise CheckpointError(
                f"the tokenizer {origin} has no {', '.join(lacking)}",
                expected="InternVL3's tokenizer: another family's makes other tokens of every question",
                repair="take the tokenizer of the checkpoint itself",
            )
        self.begin, self.end, self.image, self.image_end, self.image_context = ids

    @property
    def digest(self) -> str:
        """``sha256:...`` of the tokenizer.json."""
        return f"sha256:{sha256_bytes(self._content)}"

    @property
    def size(self) -> int:
        """Ids that it uses: one more than the largest."""
        return max(self._tokenizer.get_vocab().values()) + 1

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; none of them is special."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def asset(self) -> dict[str, dict[str, Tensor]]:
        """Return the asset that holds the tokenizer.json; see ``cache_schema.vocabulary.attention``."""
        content = torch.from_numpy(np.frombuffer(self._content, np.uint8).copy())
        return {TOKENIZER: {"tokenizer_json": content}}


def read_tokenizer(folder: Path) -> QuestionTokenizer:
    """Read the tokenizer of a checkpoint: its tokenizer.json, or else its vocab.json and merges.txt.

    Raises:
        CheckpointError: It has none, or a broken one.
    """
    file = folder / FILE
    refuse_placeholder(file)
    try:
        if file.exists():
            return QuestionTokenizer(file.read_bytes(), file)
        return QuestionTokenizer(_from_older_files(folder), folder / "vocab.json")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the tokenizer of {folder} cannot be read: {error}",
            expected=f"{FILE}, or vocab.json, merges.txt and added_tokens.json",
            repair="download the checkpoint's folder again, with its tokenizer",
        ) from error


def _from_older_files(folder: Path) -> bytes:
    """Return the tokenizer.json that a slow Qwen2 tokenizer's files mean."""
    vocabulary: dict[str, int] = json.loads((folder / "vocab.json").read_bytes())
    added: dict[str, int] = json.loads((folder / "added_tokens.json").read_bytes())
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    return tokenizer_json(vocabulary, merges, added)


def tokenizer_json(vocabulary: dict[str, int], merges: list[list[str]], added: dict[str, int]) -> bytes:
    """Return a tokenizer.json of Qwen2's kind: byte-level pairs, merged within words.

    Args:
        vocabulary: Token -> id.
        merges: Pairs of tokens that are merged, in order.
        added: Special token -> id.
    """
    level: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    words = {"type": "Split", "pattern": {"Regex": SPLITTING}, "behavior": "Isolated", "invert": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    described = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, **flags}
            for token, number in sorted(added.items(), key=lambda entry: entry[1])
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, {**level, "use_regex": False}]},
        "post_processor": None,
        "decoder": {**level, "use_regex": False},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    }
    return json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
