"""Token sequences of questions as texts: question, answer, reply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from cache_schema.errors import DatasetError
from cache_schema.vocabulary.attention import (
    ASSISTANT,
    SPECIAL_TOKENS,
    TOKEN_IDS,
    TOKENIZER,
    TURN_BEGIN,
    TURN_END,
    USER,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from student.loading.dataset import Dataset


class Texts:
    """The tokenizer that made a dataset's sequences.

    Raises:
        RequestError: The dataset has no tokenizer.
        DatasetError: It is not readable, or lacks the tokens of a chat.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.file: bytes = dataset.holder(TOKEN_IDS).asset(TOKENIZER)["tokenizer_json"].tobytes()
        """Content of the tokenizer's file."""
        try:
            self._tokenizer = Tokenizer.from_str(self.file.decode())
        except Exception as error:  # the library raises nothing more specific
            raise self._unfit(str(error)) from error
        ids = {token: self._tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
        special = {token: number for token, number in ids.items() if number is not None}
        if lacking := ids.keys() - special.keys():
            raise self._unfit(f"it lacks {', '.join(sorted(lacking))}")
        self._special = {*special.values()}
        self.stop = special[TURN_END]
        """Token that ends a turn."""
        self._header = self._tokenizer.encode(TURN_BEGIN + ASSISTANT, add_special_tokens=False).ids

    def prompt(self, ids: Sequence[int], answer_start: int) -> list[int]:
        """Return what a reply continues: the user's turn, and the header of the assistant's."""
        return [*ids[:answer_start], *self._header]

    def question(self, ids: Sequence[int], answer_start: int) -> str:
        """Return what the user asks, without images."""
        return self.text(ids[:answer_start]).removeprefix(USER).strip()

    def answer(self, ids: Sequence[int], answer_start: int) -> str:
        """Return the answer of the dataset.

        Raises:
            DatasetError: The assistant's turn does not begin as it should.
        """
        said = self.text(ids[answer_start:])
        if ids[answer_start] != self._header[0] or not said.startswith(ASSISTANT):
            begin = self._tokenizer.decode(ids[answer_start : answer_start + len(self._header)], False)
            raise self._unfit(f"the assistant's turn begins with {begin!r}")
        return said.removeprefix(ASSISTANT).removesuffix("\n")

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        return self._tokenizer.decode([token for token in ids if token not in self._special])

    def _unfit(self, why: str) -> DatasetError:
        return DatasetError(
            f"the tokenizer of {self._dataset} does not fit its token ids: {why}",
            expected="the tokenizer.json that made them",
            repair="extract the dataset again, or use another",
        )
