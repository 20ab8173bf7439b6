"""A teacher of texts: it counts letters, without weights and without memory from line to line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cache_schema.errors import ClipError
from cache_schema.format.features import FeatureSpec
from cache_schema.format.manifest import TeacherIdentity

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

VOWELS = "aeiou"
FEATURES = (
    FeatureSpec(name="letters", shape=(8,), axes=("letter",), dtype="float32", role="input"),
    FeatureSpec(name="length", shape=(), axes=(), dtype="float32", role="target"),
    FeatureSpec(name="vowels", shape=(5,), axes=("vowel",), dtype="float32", role="target"),
)


class ToyTeacher:
    kind = "texts"
    features = FEATURES
    identity = TeacherIdentity(name="toy", weights="none", precision="fp32")

    def prepare(self, sample: str) -> dict[str, Tensor]:
        if "\N{REPLACEMENT CHARACTER}" in sample:
            raise ClipError(f"{sample!r} is not text", expected="text", repair="write it again")
        codes = [ord(letter) / 128 for letter in sample[:8]]
        return {
            "letters": torch.tensor(codes + [0.0] * (8 - len(codes))),
            "length": torch.tensor(float(len(sample))),
            "vowels": torch.tensor([float(sample.count(vowel)) for vowel in VOWELS]),
        }

    def collate(self, inputs: Sequence[dict[str, Tensor] | None]) -> dict[str, Tensor]:
        rows = [self.prepare("") if row is None else row for row in inputs]
        return {spec.name: torch.stack([row[spec.name] for row in rows]) for spec in self.features}

    def begin(self, slots: int) -> None:
        return None

    def step(self, batch: dict[str, Tensor], state: None) -> tuple[dict[str, Tensor], None]:
        return batch, state

    def assets(self) -> dict[str, dict[str, Tensor]]:
        return {"alphabet": {"vowels": torch.tensor([float(ord(vowel)) for vowel in VOWELS])}}


class ToyPreset:
    kind = "texts"
    features = FEATURES

    def load(self, checkpoint: Path | None, **options: object) -> ToyTeacher:
        return ToyTeacher()


TOY = ToyPreset()
