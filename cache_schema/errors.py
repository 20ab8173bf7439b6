"""One small tree of errors. Each says what happened, what was expected and what to do."""

from __future__ import annotations

from dataclasses import dataclass


class TeachonceError(Exception):
    """Something the user can mend.

    Args:
        happened: What went wrong, naming the file, clip, frame or feature.
        expected: What would have been right.
        repair: What to do now.
    """

    def __init__(self, happened: str, *, expected: str, repair: str) -> None:
        super().__init__(happened, expected, repair)
        self.happened = happened
        self.expected = expected
        self.repair = repair

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the trip from a worker process."""
        return _rebuild, (type(self), self.happened, self.expected, self.repair)

    def __str__(self) -> str:
        return f"{self.happened}\n  expected: {self.expected}\n  to do:    {self.repair}"


def _rebuild(kind: type[TeachonceError], happened: str, expected: str, repair: str) -> TeachonceError:
    return kind(happened, expected=expected, repair=repair)


class RequestError(TeachonceError):
    """A name, option or feature was asked for that does not exist."""


class ClipError(TeachonceError):
    """A raw clip cannot be read: a missing image, a broken annotation, a name that does not parse."""


class CheckpointError(TeachonceError):
    """Weights do not fit the model: missing, unexpected or misshapen tensors."""


class DatasetError(TeachonceError):
    """A latent dataset breaks its own promises: not there, damaged, or of an unknown format."""


class StorageError(TeachonceError):
    """A bucket, a server or a repository cannot be reached, or refuses."""


class IdentityError(DatasetError):
    """A latent dataset was made by another teacher, checkpoint or preprocessing."""


class FeatureError(DatasetError):
    """Values or shapes that a feature must not hold: not finite, overflowing, not as promised."""


@dataclass(frozen=True)
class LeftOut:
    """A clip that a run left out, and what to do about it."""

    clip: str
    reason: str
    repair: str

    @classmethod
    def because(cls, clip: str, error: TeachonceError) -> LeftOut:
        """What an error means for a clip."""
        return cls(clip, error.happened, error.repair)
