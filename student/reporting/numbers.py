"""The numbers of an evaluation by which runs are compared, whatever was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from student.open_loop.evaluation import OpenLoopEvaluation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from student.system import Evaluation

DESCRIBING = ("kind", "split", "epoch")
"""Fields of an evaluation that say what was measured."""


def numbers_of(evaluation: Evaluation) -> dict[str, float | None]:
    """Return the student's L2 by column and its cosines; of other evaluations, every number by name."""
    if isinstance(evaluation, OpenLoopEvaluation):
        cosines = {f"cosine {name}": found.cosine.value for name, found in evaluation.similarity.items()}
        return {**evaluation.l2_m["student"]["complete"], **cosines}
    return {name: value for name, value in _leaves(evaluation.model_dump()) if name not in DESCRIBING}


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + name, value
