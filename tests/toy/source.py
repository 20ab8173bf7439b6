"""A source of texts: every .txt file of a folder is a clip, every line a sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cache_schema.errors import ClipError
from cache_schema.format.features import FeatureSpec
from cache_schema.format.manifest import DataIdentity
from pipeline.source import Selection

if TYPE_CHECKING:
    from pathlib import Path

LINE_NUMBER = FeatureSpec(name="line_number", shape=(), axes=(), dtype="int32", role="truth")


@dataclass(frozen=True)
class Text:
    path: Path
    index: int

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()

    @property
    def samples(self) -> int:
        return len(self.lines)

    @property
    def split(self):
        return "val" if self.index % 4 == 3 else "train"

    @property
    def tags(self) -> dict[str, str]:
        return {}

    def open(self) -> Text:
        return self

    def ground_truth(self) -> dict[str, np.ndarray]:
        return {"line_number": np.arange(self.samples, dtype=np.int32)}

    def sample(self, index: int) -> str:
        return self.lines[index]


class Texts:
    kind = "texts"
    identity = DataIdentity(name="texts", licence="CC0-1.0", frame_rate_hz=1.0)
    ground_truth = (LINE_NUMBER,)
    tags = ()

    def __init__(self, root: Path) -> None:
        self.root = root

    def select(self, split="all") -> Selection:
        texts = [Text(path, index) for index, path in enumerate(sorted(self.root.glob("*.txt")))]
        if not texts:
            raise ClipError(f"no .txt file in {self.root}", expected="one a clip", repair="write some")
        return Selection(self, tuple(text for text in texts if split in ("all", text.split)))
