"""The toy teacher with an option: how many letters of a line it gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from cache_schema.errors import RequestError
from cache_schema.format.manifest import TeacherIdentity
from tests.toy.teacher import FEATURES, ToyTeacher

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


@dataclass(frozen=True)
class OptionalPreset:
    kind: ClassVar[str] = "texts"
    signals: int = 8

    @property
    def features(self):
        return (FEATURES[0].model_copy(update={"shape": (self.signals,)}), *FEATURES[1:])

    def configured(self, options: Mapping[str, str]) -> OptionalPreset:
        unknown = sorted(options.keys() - {"signals"})
        if unknown:
            raise RequestError(
                f"this teacher has no option {', '.join(unknown)}",
                expected="one of signals",
                repair="correct the option, or leave it out",
            )
        return replace(self, signals=int(options["signals"]))

    def load(self, checkpoint: Path | None, **options: object) -> ToyTeacher:
        return OptionalTeacher(self)

    def convert(self, checkpoint: Path, folder: Path, **options: object) -> None:
        folder.write_text(f"{self.signals} of {checkpoint.name}")


class OptionalTeacher(ToyTeacher):
    def __init__(self, preset: OptionalPreset) -> None:
        self.features, self.signals = preset.features, preset.signals
        self.identity = TeacherIdentity(
            name="toy", weights="none", precision="fp32", architecture={"signals": preset.signals}
        )

    def prepare(self, sample: str) -> dict[str, Tensor]:
        found = super().prepare(sample)
        return found | {"letters": found["letters"][: self.signals]}


OPTIONAL = OptionalPreset()
