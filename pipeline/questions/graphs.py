"""Questions in DriveLM's form, which Bench2Drive-VL shares (spec: Drive-KD, section 9.4).

A frame is ``{"QA": {kind: [{"Q": question, "A": answer, ...}]}, "image_paths": {camera: path}}``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cache_schema.errors import ClipError
from pipeline.questions.capabilities import capability_of
from pipeline.questions.documents import is_number, is_said

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.questions.entries import Entry, Reading


def pairs_of(frame: object, common: Entry, reading: Reading, file: Path) -> Iterator[Entry]:
    """Yield every question of a frame that has an answer, and count the others.

    Args:
        frame: The JSON of the frame.
        common: What the entries share; ``where`` names the frame.
        reading: Counts what is left out.
        file: Where the frame stands, for messages.

    Raises:
        ClipError: The frame is not of DriveLM's form.
        RequestError: A kind of question is unknown.
    """
    kinds = frame.get("QA") if isinstance(frame, dict) else None
    if not isinstance(kinds, dict) or not all(isinstance(pairs, list) for pairs in kinds.values()):
        raise ClipError(
            f"{common.where} in {file} holds no questions",
            expected='{"QA": {kind: [{"Q": question, "A": answer}, ...], ...}, ...}',
            repair="fetch the file again, or correct it",
        )
    place = -1
    for kind, pairs in kinds.items():
        for number, pair in enumerate(pairs):
            place += 1
            where = f"{kind} {number} of {common.where}"
            question, answer = (pair.get(key) if isinstance(pair, dict) else None for key in "QA")
            if not is_said(question):
                reading.count("pairs whose question is no text are left out", where)
            elif not is_said(answer):
                reading.count("pairs without an answer in text are left out", where)
            else:
                yield replace(
                    common,
                    where=where,
                    question_id=pair["qid"] if is_number(pair.get("qid")) else place,
                    capability=capability_of(kind, f"{where} in {file}"),
                    question=question,
                    answer=answer,
                )
