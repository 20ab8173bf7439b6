"""Which perception drives: that of the teacher a student learned from, all of that teacher, or cameras."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from cache_schema.errors import RequestError
from cache_schema.progress import SILENT
from cache_schema.vocabulary.latent_actions import CAMERA_STRIP
from cache_schema.vocabulary.observation import OBSERVED
from cache_schema.vocabulary.perception import Perception
from pipeline.teachers import TEACHERS, teacher_preset

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cache_schema.dataset.join import JoinedDataset
    from cache_schema.dataset.reader import LatentDataset
    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.manifest import TeacherIdentity
    from cache_schema.progress import Progress


class TeacherVision(Perception, Protocol):
    """The part of a teacher that computes what students read, or all of it."""

    def check_made(self, dataset: LatentDataset) -> None:
        """Check that a dataset was made by this teacher.

        Raises:
            IdentityError: It was made by another one.
        """
        ...


class VisionPreset(Protocol):
    """A preset of a teacher that students can drive with; see ``TeacherPreset``."""

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        """Features that all of it computes."""
        ...

    @property
    def vision_features(self) -> tuple[FeatureSpec, ...]:
        """Features that its vision alone computes."""
        ...

    def load_vision(
        self,
        checkpoint: Path | None,
        *,
        device: str,
        precision: str,
        compile: bool,
        whole: bool,
        progress: Progress,
    ) -> TeacherVision:
        """Build that part, or the ``whole`` teacher; all else as of ``TeacherPreset.load``."""
        ...


def open_perception(
    dataset: LatentDataset | JoinedDataset,
    read: Iterable[str],
    checkpoint: Path | None,
    *,
    teacher: str | None = None,
    device: str = "cpu",
    precision: str | None = None,
    compile: bool | None = None,
    progress: Progress = SILENT,
) -> Perception:
    """Load what computes the features that a student, or its teacher's planner, reads.

    Args:
        dataset: The student's, whose teacher it is.
        read: Features that are read to drive.
        checkpoint: Weights of the teacher; None for one of random weights, or where no teacher is needed.
        teacher: Preset of the teacher, if it is the user's own; its code is imported.
        device: Where it runs.
        precision: Number format of its large parts; None for the one that the dataset was extracted in.
        compile: Whether it is compiled; None for what extraction does by default: on a GPU.
        progress: Counts tensors.

    Raises:
        RequestError: There is no such teacher, it does not compute all of that while something drives, or no
            checkpoint is given and it has no weights of its own.
        CheckpointError: The checkpoint does not fit the teacher.
        IdentityError: It holds another teacher than the dataset's.
    """
    computed = sorted({*read} - OBSERVED.keys())
    if {*computed} <= {CAMERA_STRIP}:
        from pipeline.perception.cameras import CameraStripPerception

        height, width, _ = dataset.feature(CAMERA_STRIP).fixed_shape
        return CameraStripPerception((width, height))
    holders = {dataset.holder(name) for name in computed}
    made = next(iter(holders))
    preset = teacher_preset(teacher or _published(made.manifest.teacher))
    seen = {spec.name for spec in getattr(preset, "vision_features", ())}
    known = {spec.name for spec in preset.features} if seen else seen
    if not {*computed} <= known or len(holders) > 1:
        raise RequestError(
            f"{', '.join(computed)} are read to drive, and {made.manifest.teacher.name} computes "
            f"{', '.join(sorted(known)) or 'nothing'} while something drives",
            expected=f"a student that reads these, or {CAMERA_STRIP}",
            repair="serve a student that drives without a vision-language model",
        )
    import torch

    vision = cast("VisionPreset", preset).load_vision(
        checkpoint,
        device=device,
        precision=precision or made.manifest.teacher.precision.partition(" ")[0],
        compile=torch.device(device).type == "cuda" if compile is None else compile,
        whole=not {*computed} <= seen,
        progress=progress,
    )
    vision.check_made(made)
    return vision


def _published(teacher: TeacherIdentity) -> str:
    """Return the preset of a dataset's teacher, importing nothing that only a dataset names."""
    if teacher.name not in TEACHERS:
        raise RequestError(
            f"the student learned from the teacher {teacher.name!r}, which is not part of this package",
            expected=f"one of {', '.join(TEACHERS)}",
            repair="if the teacher is your own, add --teacher package.module:NAME",
        )
    return teacher.name
