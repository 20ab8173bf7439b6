"""The data of a tick, of which images are made when they are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np


class Sensed(Mapping[str, tuple[int, Any]]):
    """Sensor -> (frame, data). No agent looks at images that it plans nothing from.

    Args:
        frame: Number of the tick.
        values: Sensor -> data.
        paint: Makes the images of cameras.
        cameras: Their names.
    """

    def __init__(
        self,
        frame: int,
        values: Mapping[str, Any],
        paint: Callable[[], Mapping[str, np.ndarray]],
        cameras: tuple[str, ...],
    ) -> None:
        self._frame = frame
        self._values = values
        self._paint = paint
        self._cameras = cameras

    @cached_property
    def _images(self) -> Mapping[str, np.ndarray]:
        return self._paint()

    def __getitem__(self, name: str) -> tuple[int, Any]:
        return self._frame, (self._images if name in self._cameras else self._values)[name]

    def __contains__(self, name: object) -> bool:
        return name in self._cameras or name in self._values

    def __iter__(self) -> Iterator[str]:
        yield from self._cameras
        yield from self._values

    def __len__(self) -> int:
        return len(self._cameras) + len(self._values)
