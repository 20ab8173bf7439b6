"""The teacher seam: what every teacher must do to be run over a source.

The types in between are a teacher's own. A *sample* is what the source of its ``kind`` gives; it holds no
ground truth. *Inputs* are one prepared sample. A *batch* is one row of inputs a slot. *State* is what the
teacher carries from step to step: the memories of a streaming teacher, nothing for others.

Who owns which memory. A sample, and what ``prepare`` returns of it, may lie in buffers that the same thread
uses again for its next sample: the worker copies the inputs at once, as far as they are arrays and tensors in
dicts, lists, tuples and dataclasses; unless the teacher says that they are fresh (``has_fresh_inputs``).
Several threads prepare at a time, so none may write where another one does. The worker passes the inputs to
one ``collate`` and drops them. A batch is passed to one ``step`` and dropped. A GPU may still read either
while the next batch is collated: pinned memory that torch allocates waits for that by itself, but a teacher
that reuses pinned buffers of its own needs two sets in turn. The tensors that ``step`` returns may be buffers
that its next step overwrites, the batch itself, or views of one tensor: the worker copies them first, in
order of the current stream of their device, so what was computed on another stream must be waited for by that
one. The state is the teacher's own; the worker only hands it back. Assets are written before ``assets`` is
called again.

Dimension letters: B slots (clips that advance together).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from cache_schema.errors import RequestError
from cache_schema.plugins import require
from cache_schema.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.manifest import TeacherIdentity
    from cache_schema.progress import Progress
    from pipeline.source import Source


class Teacher(Protocol):
    """A frozen model that computes features of samples."""

    @property
    def kind(self) -> str:
        """Kind of source whose samples it reads, such as ``driving``."""
        ...

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        """Features of every sample, promised before the first."""
        ...

    @property
    def identity(self) -> TeacherIdentity:
        """Goes into the manifest, and must agree when a dataset is resumed."""
        ...

    def prepare(self, sample: Any) -> Any:
        """Turn a sample into inputs, on the CPU: decode, resize, tokenise. Called by several threads at once.

        Raises:
            ClipError: A file of the sample is missing or broken; its clip is left out.
        """
        ...

    def collate(self, inputs: Sequence[Any]) -> Any:
        """Stack the inputs of B slots to a batch: if there is a GPU in pinned memory, or on its way there.

        Args:
            inputs: (B) what ``prepare`` returned; None for an idle slot. As many in every batch, because
                kernels round differently for another batch size.
        """
        ...

    def begin(self, slots: int) -> Any:
        """Return the state before the first step of ``slots`` slots.

        Called by the thread that calls ``collate`` and ``step`` afterwards. Its current device is the first
        GPU: a teacher on another one whose kernels go by that sets it.
        """
        ...

    def step(self, batch: Any, state: Any) -> tuple[Mapping[str, Tensor | Sequence[Tensor]], Any]:
        """Compute the features of one sample a slot.

        Slots hold samples of unrelated clips. The samples of a clip come in order and in one slot, so that
        the state may hold what they share: the memory of a video, or the encoding of an image that several
        questions are about. A slot's clip may change from one step to the next; a teacher with memory reads
        the clip's name from its samples.

        Returns:
            For every feature a tensor (B, *shape), or for a ragged feature a list of B tensors; and the new
            state. Rows of idle slots are ignored. A value too large for the feature's dtype may come as
            infinity: the dataset refuses it.
        """
        ...

    def assets(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return small weights that readers of the dataset need: file stem -> tensor name -> tensor."""
        ...


class TeacherPreset(Protocol):
    """A teacher's sizes and promises, known without its weights."""

    @property
    def kind(self) -> str:
        """Kind of source whose samples the teacher reads."""
        ...

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        """Features that the teacher computes of every sample."""
        ...

    def load(
        self,
        checkpoint: Path | None,
        *,
        device: str,
        precision: str = "fp32",
        quantize: str | None = None,
        compile: bool = False,
        progress: Progress = SILENT,
    ) -> Teacher:
        """Build the teacher.

        Args:
            checkpoint: Its weights. None: the preset's own, or random ones, as its identity records.
            device: Where it runs.
            precision: Number format that its large parts compute in, such as fp16.
            quantize: How its language model is quantised, such as nf4; None for not.
            compile: Compile what is worth it; results may change by rounding.
            progress: Counts tensors.

        Raises:
            RequestError: This teacher does not come in that precision or quantisation.
        """
        ...

    def configured(self, options: Mapping[str, str]) -> TeacherPreset:
        """Return the preset with some fields changed. Only for presets that have options.

        What changes values belongs to the features or to the teacher's identity, too.

        Args:
            options: Field -> value, as the user wrote it.

        Raises:
            RequestError: There is no such field, in a message that lists them; or the value does not fit.
        """
        ...

    def convert(self, checkpoint: Path, folder: Path, *, progress: Progress = SILENT) -> None:
        """Write the checkpoint to a new folder in a form that starts faster and is safe to open."""
        ...


def check_teacher(teacher: Teacher) -> None:
    """Check that a teacher has all of what a run asks of it, before anything is computed.

    Raises:
        RequestError: It lacks some of it.
    """
    require(
        teacher,
        "the teacher",
        *("kind", "features", "identity", "prepare", "collate", "begin", "step", "assets"),
    )


def has_fresh_inputs(teacher: Teacher) -> bool:
    """Whether all that ``prepare`` returns is new memory, which shares none with the sample or anything else.

    A teacher says so by an attribute ``fresh_inputs``, and is spared a copy.
    """
    return getattr(teacher, "fresh_inputs", False)


def is_compiled(teacher: Teacher) -> bool:
    """Whether the teacher's layers are compiled, which rounds otherwise; it says so by ``compiled``."""
    return getattr(teacher, "compiled", False)


def check_kind(teacher: Teacher | TeacherPreset, source: Source) -> None:
    """Check that a teacher can read the samples of a source.

    Raises:
        RequestError: They are of another kind, or a plug-in does not say of which.
    """
    require(teacher, "the teacher", "kind")
    require(source, "the source", "kind")
    if teacher.kind != source.kind:
        raise RequestError(
            f"the teacher reads {teacher.kind!r} samples, and the source has {source.kind!r} samples",
            expected="a source and a teacher of the same kind",
            repair="choose another --source or another --teacher",
        )
