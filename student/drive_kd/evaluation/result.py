"""What an evaluation on questions found: the content of ``evaluation.json``, and how it is shown.

``evaluation.safetensors`` beside it holds every question (N questions, V bytes):

    clip, frame_index, question_id, capability   (N)   clip is an index into ``clips``
    loss.<term>                    (N)  teacher-forced, without any weight; NaN where a term does not exist
    answer_tokens                  (N)  tokens that the cross-entropy is the mean of
    choice                         (N)  1 right, 0 wrong, -1 unparsed, which is wrong; -2 no multiple choice
    rouge_l, cider_d               (N)  of the reply
    objects_f1                     (N)  NaN where the answer names no object
    cut                            (N)  replies that came to no end
    replies, reply_ends            (V), (N)  UTF-8 of all replies, and where each ends

All of it are proxies. None is a score of DriveBench, which asks a judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict
from rich import box
from rich.console import Group as Renderables
from rich.table import Table

from student.open_loop.bootstrap import CONFIDENCE, RESAMPLES, Estimate, Interval
from student.open_loop.evaluation import shown_of_any_size
from student.system import Evaluation

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL = "all"
"""Group of all questions; the others are capabilities."""
ACCURACY = "accuracy"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MultipleChoice(_Record):
    """Questions that offer answers A, B, ..., and whose answer is one of them."""

    questions: int
    accuracy: Estimate
    unparsed: Estimate
    """Share of replies whose choice cannot be told; they count as wrong."""
    majority: Estimate
    """Accuracy of one letter for all of these questions: the most frequent one."""


class ObjectMatch(_Record):
    """Questions whose answer names objects by camera and place."""

    questions: int
    f1: Estimate


class QuestionGroup(_Record):
    """Questions of one capability, or all."""

    clips: int
    questions: int
    losses: dict[str, Estimate]
    """Term -> mean over questions, teacher-forced and without any weight."""
    perplexity: Estimate | None
    """exp of the mean cross-entropy of an answer's token; None where that is no term of the loss."""
    overlap: dict[str, Estimate]
    """Metric, with its normalisation of texts -> replies against answers."""
    multiple_choice: MultipleChoice | None
    """None where there is no such question."""
    objects: ObjectMatch | None
    """None where there is no such question."""
    cut: int
    """Replies that came to no end within ``longest_reply`` tokens."""


class QuestionEvaluation(Evaluation):
    """Held-out questions: teacher-forced losses, and replies compared with answers."""

    kind: Literal["questions"] = "questions"
    clips: tuple[str, ...]
    groups: dict[str, QuestionGroup]
    """``all`` first, then each capability that there are questions of."""
    longest_reply: int
    """Tokens after which a reply is cut."""

    def numbers(self) -> dict[str, float | None]:
        """Return all measures of all questions, and the accuracy of every capability."""
        return {name: estimate.value for name, estimate in self._compared()}

    def intervals(self) -> dict[str, Interval]:
        """See ``Evaluation``."""
        return {name: estimate.interval for name, estimate in self._compared() if estimate.interval}

    def _compared(self) -> Iterator[tuple[str, Estimate]]:
        for group, found in self.groups.items():
            for name, estimate in _measures(found):
                if group == ALL:
                    yield name, estimate
                elif name == ACCURACY:
                    yield f"{name}, {group}", estimate

    def __rich__(self) -> Renderables:
        """Show it as a table that fits 80 columns."""
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
        first, *others = self.groups.values()
        for number, heading in enumerate(("measure", ALL, f"{CONFIDENCE:.0%}", *[*self.groups][1:])):
            table.add_column(heading, no_wrap=True, justify="right" if number else "left")
        for name, (every, *each) in self._counts():
            table.add_row(name, str(every), "", *map(str, each))
        table.add_section()
        of_others = [dict(_measures(found)) for found in others]
        for name, estimate in _measures(first):
            spread = "" if estimate.interval is None else "..".join(map(shown_of_any_size, estimate.interval))
            each = [shown_of_any_size(found[name].value) if name in found else "-" for found in of_others]
            table.add_row(name, shown_of_any_size(estimate.value), spread, *each)
        return Renderables(
            f"Questions, split {self.split}: proxies, not DriveBench scores",
            table,
            "",
            "teacher-forced: losses and perplexity; all else: greedy replies",
            "unparsed choices are wrong; majority: always the most frequent right letter",
            f"replies are cut after {self.longest_reply} tokens",
            f"intervals: {CONFIDENCE:.0%}, {RESAMPLES} bootstrap resamples of whole clips",
        )

    def _counts(self) -> Iterator[tuple[str, list[int]]]:
        groups = self.groups.values()
        yield "clips", [group.clips for group in groups]
        yield "questions", [group.questions for group in groups]
        for name, kind in (("multiple choice", "multiple_choice"), ("with objects", "objects")):
            found = [getattr(group, kind) for group in groups]
            yield f"  {name}", [of_one.questions if of_one else 0 for of_one in found]
        yield "replies cut", [group.cut for group in groups]


def _measures(group: QuestionGroup) -> Iterator[tuple[str, Estimate]]:
    """Yield every measure of a group that exists."""
    if (choice := group.multiple_choice) is not None:
        yield ACCURACY, choice.accuracy
        yield "majority", choice.majority
        yield "unparsed", choice.unparsed
    yield from group.overlap.items()
    if group.objects is not None:
        yield "objects F1", group.objects.f1
    if group.perplexity is not None:
        yield "perplexity", group.perplexity
    for name, estimate in group.losses.items():
        yield f"loss {name}", estimate
