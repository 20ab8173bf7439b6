"""The InternVL3s that teach, and the students that learn: as released, and small enough for a laptop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from cache_schema.errors import RequestError
from cache_schema.progress import SILENT
from pipeline.teachers.internvl3.model.sizes import InternVLSizes, LanguageSizes, VisionSizes
from pipeline.teachers.internvl3.options import AttentionOptions, Options
from pipeline.teachers.options import changed
from pipeline.teachers.precision import check_supported
from pipeline.teachers.weights import not_converted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cache_schema.format.features import FeatureSpec
    from cache_schema.progress import Progress
    from pipeline.teachers.internvl3.model.checkpoint import Checkpoint, RandomWeights
    from pipeline.teachers.internvl3.teacher import AttentionTeacher
    from pipeline.teachers.internvl3.vision import StudentVision

TOKENIZER = Path(__file__).with_name("tokenizer.json")
"""Tokenizer of models with random weights.

Byte pairs of Qwen2's kind. ``tokenizers.trainers.BpeTrainer`` merged them on 768 sentences about driving that
were put together from lists of cameras, objects, movements and actions. 600 entries; the special tokens,
``<|endoftext|>`` and those that frame a prompt, have the last ids.
"""


@dataclass(frozen=True)
class _Preset:
    """What the presets of teachers and of students have in common."""

    kind: ClassVar[str] = "questions"
    name: str
    """Part of the teacher's identity."""
    sizes: InternVLSizes
    random_seed: int | None = field(default=None, kw_only=True)
    """Seed of the weights where no checkpoint is given; None: a checkpoint must be given."""
    random_device: str = field(default="cpu", kw_only=True)
    """Where these weights are drawn. Another kind of device draws other weights, as the identity records."""

    def configured(self, options: Mapping[str, str]) -> Self:
        """Return the preset with some of its options chosen.

        Raises:
            RequestError: There is no such option, or it cannot have that value.
        """
        chosen: Options = self.options  # ty: ignore[missing-attribute]  # every preset has its own
        return replace(self, options=changed(chosen, options, self.name))

    def convert(self, checkpoint: Path, folder: Path, *, progress: Progress = SILENT) -> None:
        """Refuse: there is nothing to convert.

        Raises:
            RequestError: Always.
        """
        raise not_converted(self.name, checkpoint)

    def _weights(
        self, checkpoint: Path | None, precision: str, quantize: str | None
    ) -> Checkpoint | RandomWeights:
        """Return the weights that a teacher is loaded with.

        Raises:
            CheckpointError: The checkpoint does not fit the sizes.
            RequestError: No checkpoint is given, and this preset has no random weights; or it does not come
                in this precision or quantisation.
        """
        from pipeline.teachers.internvl3.model.checkpoint import RandomWeights, open_checkpoint
        from pipeline.teachers.internvl3.tokenizer import QuestionTokenizer

        check_supported(self.name, precision, quantize)
        if checkpoint is not None:
            return open_checkpoint(checkpoint, self.sizes)
        if self.random_seed is None:
            raise RequestError(
                f"the teacher {self.name} needs its weights",
                expected=f"--checkpoint with the folder of a repository such as OpenGVLab/{self._repository}",
                repair="download that repository, or use a teacher whose name ends in tiny for a try",
            )
        tokenizer = QuestionTokenizer(TOKENIZER.read_bytes(), TOKENIZER)
        return RandomWeights(self.sizes, self.random_seed, self.random_device, tokenizer)

    @property
    def _repository(self) -> str:
        size = self.name.removeprefix("internvl3-").partition("-")[0].upper()
        return f"InternVL3-{size}"


@dataclass(frozen=True)
class InternVL3Preset(_Preset):
    """An InternVL3 whose attention teaches, before its weights are read; implements ``TeacherPreset``."""

    options: AttentionOptions = field(default_factory=AttentionOptions)

    def __post_init__(self) -> None:
        if self.options.max_tokens > self.sizes.language.positions:
            raise RequestError(
                f"max_tokens is {self.options.max_tokens}",
                expected=f"at most {self.sizes.language.positions}, which {self.name} was trained for",
                repair="choose fewer",
            )
        _ = self.features  # there must be layers that are read

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        """Features that the teacher computes of every question."""
        return self.options.attention_features(self.sizes.language.layers)

    def load(
        self,
        checkpoint: Path | None,
        *,
        device: str,
        precision: str = "fp32",
        quantize: str | None = None,
        compile: bool = False,
        progress: Progress = SILENT,
    ) -> AttentionTeacher:
        """Build the teacher; see ``TeacherPreset``. It is never compiled: only eager attention has maps."""
        from pipeline.teachers.internvl3.teacher import AttentionTeacher

        weights = self._weights(checkpoint, precision, quantize)
        return AttentionTeacher(
            self.name, self.options, weights, device=device, precision=precision, progress=progress
        )


@dataclass(frozen=True)
class StudentPreset(_Preset):
    """A student whose images are prepared, before its weights are read; implements ``TeacherPreset``."""

    options: Options = field(default_factory=Options)
    embeds: bool = True
    """Whether the student's frozen tower sees them, or they are stored as pixels."""

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        """Features of every question."""
        return self.options.image_features(self.sizes, embeds=self.embeds)

    def load(
        self,
        checkpoint: Path | None,
        *,
        device: str,
        precision: str = "fp32",
        quantize: str | None = None,
        compile: bool = False,
        progress: Progress = SILENT,
    ) -> StudentVision:
        """Read the student; see ``TeacherPreset``. It is never compiled."""
        from pipeline.teachers.internvl3.vision import StudentVision

        weights = self._weights(checkpoint, precision, quantize)
        return StudentVision(
            self.name,
            self.options,
            weights,
            embeds=self.embeds,
            device=device,
            precision=precision,
            progress=progress,
        )


_INTERNVIT_6B = VisionSizes(
    width=3200, layers=45, heads=25, mlp_width=12800, norm="rms_norm", attention_bias=False, qk_norm=True
)
_1B = InternVLSizes(LanguageSizes(width=896, layers=24, heads=14, kv_heads=2, mlp_width=4864))
_8B = InternVLSizes(LanguageSizes(width=3584, layers=28, heads=28, kv_heads=4, mlp_width=18944))
_14B = InternVLSizes(LanguageSizes(width=5120, layers=48, heads=40, kv_heads=8, mlp_width=13824))
_38B = InternVLSizes(
    LanguageSizes(width=5120, layers=64, heads=40, kv_heads=8, mlp_width=27648), _INTERNVIT_6B
)

INTERNVL3_8B = InternVL3Preset("internvl3-8b", _8B)
"""The teacher of Drive-KD's main result."""
INTERNVL3_14B = InternVL3Preset("internvl3-14b", _14B)
INTERNVL3_38B = InternVL3Preset("internvl3-38b", _38B)
INTERNVL3_1B_VISION = StudentPreset("internvl3-1b-vision", _1B)
INTERNVL3_1B_PIXELS = StudentPreset("internvl3-1b-pixels", _1B, embeds=False)

_TINY_VOCABULARY = 600
_TINY_VISION = VisionSizes(width=64, layers=2, heads=4, mlp_width=128, image_size=56, patch_size=7)


def _tiny(width: int, layers: int, heads: int) -> InternVLSizes:
    language = LanguageSizes(
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=heads // 2,
        mlp_width=2 * width,
        vocabulary=_TINY_VOCABULARY,
    )
    return InternVLSizes(language, _TINY_VISION, image_token=_TINY_VOCABULARY - 1)


_TINY_STUDENT = _tiny(width=64, layers=3, heads=4)

INTERNVL3_TINY = InternVL3Preset(
    "internvl3-tiny",
    _tiny(width=128, layers=5, heads=8),
    random_seed=0,
    options=AttentionOptions(student_layers=_TINY_STUDENT.language.layers),
)
"""The same code with small numbers and random weights."""
INTERNVL3_TINY_VISION = StudentPreset("internvl3-tiny-vision", _TINY_STUDENT, random_seed=0)
INTERNVL3_TINY_PIXELS = StudentPreset("internvl3-tiny-pixels", _TINY_STUDENT, random_seed=0, embeds=False)
