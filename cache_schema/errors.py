"""Errors that a user can correct: each has what happened, what was expected, and what to do."""

from __future__ import annotations

from dataclasses import dataclass


class TeachonceError(Exception):
    """An error that the user can correct. Bugs raise other exceptions.

    Args:
        happened: What went wrong, with the file, clip, frame or feature.
        expected: What would have been right.
        repair: What to do now.
    """

    def __init__(self, happened: str, *, expected: str, repair: str) -> None:
        super().__init__(happened, expected, repair)
        self.happened = happened
        self.expected = expected
        self.repair = repair

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling, as an error of a worker process."""
        return _rebuild, (type(self), self.happened, self.expected, self.repair)

    def __str__(self) -> str:
        return f"{self.happened}\n  expected: {self.expected}\n  to do:    {self.repair}"


def _rebuild(kind: type[TeachonceError], happened: str, expected: str, repair: str) -> TeachonceError:
    return kind(happened, expected=expected, repair=repair)


class RequestError(TeachonceError):
    """A name, option or feature that was asked for does not exist."""


class ClipError(TeachonceError):
    """A raw clip cannot be read: a missing image, a broken annotation, a name that does not parse."""


class CheckpointError(TeachonceError):
    """Weights do not fit the model: missing, unexpected or misshapen tensors."""


class DatasetError(TeachonceError):
    """A latent dataset is missing, damaged, or of an unknown format."""


class UnknownFormatError(DatasetError):
    """A latent dataset has a format version that this program does not know."""


class StorageError(TeachonceError):
    """A bucket, a server or a repository cannot be reached, or refuses."""


class IdentityError(DatasetError):
    """Two latent datasets differ in teacher, checkpoint, preprocessing or data."""


class FeatureError(DatasetError):
    """Values or shapes do not fit a feature: not finite, overflowing, or not as promised."""


@dataclass(frozen=True)
class LeftOut:
    """A clip that a run left out, and what to do about it."""

    clip: str
    reason: str
    repair: str

    @classmethod
    def because(cls, clip: str, error: TeachonceError) -> LeftOut:
        """Return a clip that was left out because of an error."""
        return cls(clip, error.happened, error.repair)
