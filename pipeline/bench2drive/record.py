"""A JSON object of an annotation, whose errors name the file and the key."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from cache_schema.errors import ClipError

if TYPE_CHECKING:
    from pathlib import Path


ROTATION_TOLERANCE = 1e-3
"""The simulator writes float32, with an error below 1e-6."""
LAST_ROW_TOLERANCE = 1e-6

_IDENTITY = np.eye(4)


@dataclass(frozen=True)
class Record:
    """One JSON object and its place in the file. Methods raise ClipError for missing or misshapen values."""

    path: Path
    fields: dict[str, Any]
    place: str = ""
    """Dotted keys from the top of the file to this object."""

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read ``.json`` or ``.json.gz``, with the NaN and Infinity tokens that CARLA's collector writes.

        Raises:
            ClipError: The file is missing, cut short, not gzip or not a JSON object.
        """
        try:
            data = path.read_bytes()
            text = gzip.decompress(data) if path.suffix == ".gz" else data
            fields = json.loads(text)
        except FileNotFoundError as error:
            raise _broken(path, "does not exist") from error
        except (OSError, EOFError, zlib.error) as error:
            raise _broken(path, f"cannot be read: {error}") from error
        except (ValueError, RecursionError) as error:
            raise _broken(path, f"is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise _broken(path, f"holds a JSON {type(fields).__name__}, not an object")
        return cls(path, fields)

    def __contains__(self, key: str) -> bool:
        return key in self.fields

    def __getitem__(self, key: str) -> Any:
        try:
            return self.fields[key]
        except KeyError:
            raise _broken(self.path, f"has no {self._name(key)!r}") from None

    def number(self, key: str, *, nan: float | None = None) -> float:
        """Return a finite number. Where ``nan`` is given, NaN counts as that and null as 0."""
        value = self[key]
        if nan is not None and value is None:
            return 0.0
        if isinstance(value, int | float):
            with contextlib.suppress(OverflowError):  # an integer of hundreds of digits
                number = float(value)
                if nan is not None and math.isnan(number):
                    return nan
                if math.isfinite(number):
                    return number
        self._refuse(key, value, "a finite number")

    def integer(self, key: str) -> int:
        """Return a whole number, written as a number or as a string."""
        value = self[key]
        try:
            return int(value)
        except (TypeError, ValueError, OverflowError):
            self._refuse(key, value, "a whole number")

    def array(self, key: str, *shape: int) -> np.ndarray:
        """Return nested lists of finite numbers as a float64 array of a shape."""
        value = self[key]
        try:
            array = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            array = np.empty(0)
        if array.shape != shape or not np.isfinite(array).all():
            self._refuse(key, value, f"finite numbers of shape {shape}")
        return array

    def pose(self, key: str) -> np.ndarray:
        """Return a (4, 4) rotation and translation."""
        matrix = self.array(key, 4, 4)
        rotation = matrix[:3, :3]
        rigid = np.abs(rotation @ rotation.T - _IDENTITY[:3, :3]).max() < ROTATION_TOLERANCE
        if not rigid or np.abs(matrix[3] - _IDENTITY[3]).max() > LAST_ROW_TOLERANCE:
            self._refuse(key, self[key], "a rotation and a translation")
        return matrix

    def text(self, key: str) -> str:
        """Return a string."""
        value = self[key]
        if not isinstance(value, str):
            self._refuse(key, value, "a string")
        return value

    def child(self, key: str) -> Record:
        """Return a nested object."""
        value = self[key]
        if not isinstance(value, dict):
            self._refuse(key, value, "a JSON object")
        return Record(self.path, value, self._name(key))

    def children(self, key: str) -> tuple[Record, ...]:
        """Return a list of nested objects."""
        values = self[key]
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            self._refuse(key, values, "a list of JSON objects")
        return tuple(Record(self.path, value, f"{self._name(key)}[{i}]") for i, value in enumerate(values))

    def _name(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key

    def _refuse(self, key: str, value: object, expected: str) -> NoReturn:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        raise _broken(self.path, f"has {self._name(key)!r} = {shown}, which is not {expected}")


def _broken(path: Path, what: str) -> ClipError:
    return ClipError(
        f"the annotation {path} {what}",
        expected="a JSON file (gzipped or plain) with every key of Bench2Drive's annotations",
        repair="unpack the clip's archive again, or leave the clip out",
    )
