"""What the model is asked: camera images, the ego's state and the command. Its answer is nothing but codes.

The words are this project's own: what LatentVLA asks is not published (spec LatentVLA 3).
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from cache_schema.errors import ClipError
from cache_schema.vocabulary.driving import ACCELERATION, COMMANDS, SPEED, YAW_RATE

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

IMAGE = "<|image_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
TURN, END = "<|im_start|>", "<|im_end|>"
SYSTEM = "You drive a car."
QUESTION = "Answer with the latent actions of the next seconds."
ASCII = 128
"""Characters of ASCII."""
WIDEST = 999.9
"""Largest number, either way, that the text of the ego's state has room for."""


class PromptTokenizer(Protocol):
    """Turns text, with Qwen's special tokens written out, to token ids. Called by several threads at once."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, and of nothing that it does not spell."""
        ...

    def name_of(self, token: int) -> str | None:
        """Return what a token is called; None where the id is free."""
        ...


@dataclass(frozen=True)
class ByteTokenizer:
    """ASCII as it is, and some special tokens: for a model that knows no language."""

    special: Mapping[str, int]
    """Token -> its id."""

    def encode(self, text: str) -> list[int]:
        """See ``PromptTokenizer``."""
        parts = re.split("(" + "|".join(map(re.escape, self.special)) + ")", text)
        tokens = [[self.special[part]] if part in self.special else part.encode("ascii") for part in parts]
        return list(itertools.chain.from_iterable(tokens))

    def name_of(self, token: int) -> str | None:
        """See ``PromptTokenizer``."""
        if token < ASCII:
            return chr(token)
        return next((name for name, number in self.special.items() if number == token), None)


@dataclass(frozen=True)
class EgoState:
    """What a prompt tells of the ego."""

    command: int
    """Index into ``COMMANDS``."""
    speed: float = 0.0
    """m/s."""
    acceleration: float = 0.0
    """m/s2, forward."""
    yaw_rate: float = 0.0
    """rad/s, counter-clockwise."""

    @classmethod
    def of(cls, command: int, can_bus: np.ndarray) -> EgoState:
        """Read it from a frame's command and CAN bus (18)."""
        return cls(command, *(float(can_bus[place]) for place in (SPEED, ACCELERATION[0], YAW_RATE)))

    @property
    def numbers(self) -> dict[str, float]:
        """Speed (m/s), acceleration (m/s2) and yaw rate (degrees/s), by their names."""
        return {
            "speed": self.speed,
            "acceleration": self.acceleration,
            "yaw rate": math.degrees(self.yaw_rate),
        }

    @property
    def text(self) -> str:
        """The state in words, every number with one decimal."""
        told = [f"{name} {round(value, 1) + 0.0:.1f}" for name, value in self.numbers.items()]  # never -0.0
        return ", ".join((*told, f"command {COMMANDS[self.command].replace('_', ' ')}"))


@dataclass(frozen=True)
class Prompt:
    """How a frame is put to the model."""

    tokenizer: PromptTokenizer
    cameras: tuple[str, ...]
    """Names of the cameras, in the order in which they are shown."""
    image_tokens: int
    """Tokens of an image."""
    ego: bool = True
    """Whether the prompt tells the ego's state. It makes codes easy to guess without looking."""

    def text(self, state: EgoState) -> str:
        """Return the prompt of a frame, up to where the answer begins."""
        image = f"{VISION_START}{IMAGE * self.image_tokens}{VISION_END}"
        shown = [
            f"{camera.removeprefix('CAM_').replace('_', '-').lower()}: {image}" for camera in self.cameras
        ]
        asked = "\n".join((*shown, *([state.text] if self.ego else []), QUESTION))
        return f"{TURN}system\n{SYSTEM}{END}\n{TURN}user\n{asked}{END}\n{TURN}assistant\n"

    def ids(self, state: EgoState) -> tuple[int, ...]:
        """Return the prompt's tokens, at most ``length``.

        Raises:
            ClipError: A number of the ego's state is too large.
        """
        if self.ego:
            for name, value in state.numbers.items():
                if not abs(value) <= WIDEST:
                    raise ClipError(
                        f"the ego's {name} is {value:g}",
                        expected=f"at most {WIDEST} m/s, m/s2 and degrees/s",
                        repair="correct the clip's annotation, leave it out, or ask without the ego's state",
                    )
        return tuple(self.tokenizer.encode(self.text(state)))

    @cached_property
    def length(self) -> int:
        """Tokens of the longest prompt."""
        widest = -WIDEST, -WIDEST, -math.radians(WIDEST)
        return max(len(self.ids(EgoState(command, *widest))) for command in range(len(COMMANDS)))
