"""A synthetic dataset of latent actions whose images decide the codes.

A strip shows one square on noise, in one of eight colours, plain or striped: the first code, one of sixteen,
has these four bits. Every further code is the one before, its bits rotated and some of them inverted; at the
first code of a further transition a new bit takes the place of the oldest, and the strip's upper edge shows
that of the second transition, its lower edge that of the third: bright or dark. So what stands before a code
tells it, but for these three: they must be seen.

There is no vision-language model. The logits are those of an **ideal teacher**, which knows that a label is
the code 90 times in 100 and else any of the sixteen; its states are its codes, embedded, and a little noise.
Labels are drawn so. The way that is driven follows from the first code of each transition.

Dimension letters: F frame of a clip, R and S row and column of a strip, N code of a frame, K value of a code,
W what a strip can show, D width of states.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cache_schema.dataset.writer import DatasetWriter
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import CodeIdentity, DataIdentity, Manifest, TeacherIdentity
from cache_schema.vocabulary.driving import (
    COMMANDS,
    GROUND_TRUTH,
    GROUND_TRUTH_AGENTS,
    SPEED,
    TRAJECTORY_STEPS,
    VEHICLES,
)
from cache_schema.vocabulary.latent_actions import (
    CAMERA_STRIP,
    CODES_A_TRANSITION,
    LATENT_ACTION_CODES,
    LATENT_ACTION_TRANSITIONS,
    camera_strip,
    code_labels,
    latent_action_features,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cache_schema.format.ledger import Split

LABEL_NOISE = 0.1
POSITIONS = LATENT_ACTION_TRANSITIONS * CODES_A_TRANSITION
BITS = 4
INVERTED = 0b0101
BACKGROUND, BRIGHTER = 60, 120
"""The background's noise is darker than the first; a bright edge is so much brighter."""
DIM, BRIGHT = 100, 240
"""The two values of each of a square's colours."""
STATE_NOISE = 0.1
SIDEWAYS_M, FORWARD_M = 0.4, 0.6
"""What the upper and the lower two bits of a code add to 0.5 s of the way, for each 1 more."""


class SetSizes(NamedTuple):
    """Sizes of a dataset."""

    strip: tuple[int, int]
    """Width and height of a strip, pixels."""
    cells: int
    """Cells of the states at images, a multiple of the transitions."""
    width: int
    """Of states, D."""


def codes_of(shape: np.ndarray, bright: np.ndarray) -> np.ndarray:
    """Return the codes (F, N) of squares (F), in 0..15, and edges (F, 2), in 0..1."""
    codes = [shape]
    for position in range(1, POSITIONS):
        transition, within = divmod(position, CODES_A_TRANSITION)
        last = codes[-1]
        newest = last >> (BITS - 1) if within else bright[:, transition - 1]
        codes.append(((last << 1) % LATENT_ACTION_CODES | newest) ^ INVERTED)
    return np.stack(codes, axis=1)


def strips_of(
    rng: np.random.Generator, shape: np.ndarray, bright: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Draw strips (F, R, S, 3) that show squares (F) and edges (F, 2)."""
    width, height = size
    edge, side = height // 4, height // 2
    strips = rng.integers(0, BACKGROUND, size=(len(shape), height, width, 3), dtype=np.uint8)
    for strip, number, (upper, lower) in zip(strips, shape, bright, strict=True):
        strip[:edge] += np.uint8(BRIGHTER * upper)
        strip[height - edge :] += np.uint8(BRIGHTER * lower)
        column = rng.integers(width - side + 1)
        *colour, striped = number >> np.arange(BITS) & 1
        square = strip[edge : edge + side, column : column + side]
        square[:] = np.where(colour, BRIGHT, DIM)
        if striped:
            square[1::2] = 0
    return strips


def ideal_logits(codes: np.ndarray) -> np.ndarray:
    """Return the log-probabilities (F, N, K) of labels, given the codes (F, N)."""
    other = LABEL_NOISE / LATENT_ACTION_CODES
    return np.log(other + (1 - LABEL_NOISE) * np.eye(LATENT_ACTION_CODES)[codes])


def unseeing_kl() -> float:
    """Return KL(teacher || student), nats a frame, of a student that knows every rule and sees nothing.

    Behind the teacher's codes it tells the mean of what they leave possible.
    """
    shows = np.array([*itertools.product(range(LATENT_ACTION_CODES), range(2), range(2))])  # (W, 3)
    codes = codes_of(shows[:, 0], shows[:, 1:])
    logits = ideal_logits(codes)
    total = 0.0
    for position in range(POSITIONS):
        _, group = np.unique(codes[:, :position], axis=0, return_inverse=True)
        for number in np.unique(group):
            of_group = logits[group == number, position]
            told = np.log(np.exp(of_group).mean(axis=0))
            total += float((np.exp(of_group) * (of_group - told)).sum())
    return total / len(shows)


def write_set(path: Path, sizes: SetSizes, *, clips: Mapping[Split, int], frames: int) -> None:
    """Write a dataset.

    Args:
        path: Of the new dataset.
        sizes: Of its features.
        clips: Split -> its number of clips.
        frames: Of each clip.
    """
    specs = latent_action_features(POSITIONS, LATENT_ACTION_CODES, sizes.width, {"images": sizes.cells})
    manifest = Manifest(
        features=(*specs, code_labels(POSITIONS), camera_strip(*sizes.strip), *GROUND_TRUTH),
        teacher=TeacherIdentity(name="ideal-latent-actions", weights="none", precision="fp32"),
        data=DataIdentity(name="synthetic-squares", licence="CC0-1.0", frame_rate_hz=10.0),
        code=CodeIdentity(teachonce="0", libraries={}),
    )
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(LATENT_ACTION_CODES, sizes.width))  # (K, D)
    with DatasetWriter(path, manifest) as writer:
        for split, count in clips.items():
            for number in range(count):
                clip = writer.clip(ClipInfo(name=f"{split}-{number}", frames=frames, split=split))
                clip.append(_clip(rng, sizes, frames, embedding))
                clip.commit(wall_s=1.0)


def _clip(
    rng: np.random.Generator, sizes: SetSizes, frames: int, embedding: np.ndarray
) -> dict[str, np.ndarray]:
    shape, bright = rng.integers(LATENT_ACTION_CODES, size=frames), rng.integers(2, size=(frames, 2))
    codes = codes_of(shape, bright)
    noisy = rng.random(codes.shape) < LABEL_NOISE
    first = codes[:, ::CODES_A_TRANSITION]
    seen = embedding[first].repeat(sizes.cells // LATENT_ACTION_TRANSITIONS, axis=1)
    speed = rng.uniform(4, 8, size=frames)
    can_bus = np.zeros((frames, 18))
    can_bus[:, SPEED] = speed
    upper, lower = (bits - 1.5 for bits in divmod(first, 4))
    steps = np.stack([SIDEWAYS_M * upper, speed[:, None] / 2 + FORWARD_M * lower], axis=2)
    return {
        "codes": codes,
        "code_logits": ideal_logits(codes),
        "code_mass": np.ones(codes.shape),
        "act_hidden": embedding[codes] + STATE_NOISE * rng.normal(size=(*codes.shape, sizes.width)),
        "vis_pooled": seen + STATE_NOISE * rng.normal(size=seen.shape),
        "code_labels": np.where(noisy, rng.integers(LATENT_ACTION_CODES, size=codes.shape), codes),
        CAMERA_STRIP: strips_of(rng, shape, bright, sizes.strip),
        "ego_trajectory": steps.repeat(TRAJECTORY_STEPS // LATENT_ACTION_TRANSITIONS, axis=1),
        "ego_trajectory_mask": np.ones((frames, TRAJECTORY_STEPS), dtype=bool),
        "command": rng.integers(len(COMMANDS), size=frames),
        "timestamp": np.arange(frames) / 10,
        "frame_index": np.arange(frames),
        "ego_pose": np.broadcast_to(np.eye(4), (frames, 4, 4)),
        "can_bus": can_bus,
        **_one_car(frames, 3 * speed),
    }


def _one_car(frames: int, ahead_m: np.ndarray) -> dict[str, np.ndarray]:
    """Return the ground truth of one car of 4 m by 2 m straight ahead of the ego."""
    truth = {spec.name: np.zeros((frames, *spec.shape), spec.dtype) for spec in GROUND_TRUTH_AGENTS}
    truth["truth_agent_classes"][:] = -1
    truth["truth_agent_classes"][:, 0] = VEHICLES[0]
    boxes = truth["truth_agent_boxes"][:, 0]
    boxes[:, 1], boxes[:, 2:] = ahead_m, (4.0, 2.0, np.pi / 2)
    truth["truth_agent_count"][:] = 1
    return truth
