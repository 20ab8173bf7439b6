"""Latent actions: a sequence of discrete codes by which a vision-language model says what the ego will do.

The model emits one code after the other. What is stored of it was computed with the codes that it chose
itself, greedily, as the beginning that each next code follows. Of the ego's state, a student reads command
and CAN bus, which every driving dataset has.

Dimension letters: N code of a frame, K value that a code can take, D width of the model's hidden states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_schema.format.features import DType, FeatureSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

CODES = "codes"
CODE_LOGITS = "code_logits"
CODE_MASS = "code_mass"
ACT_HIDDEN = "act_hidden"
VIS_POOLED = "vis_pooled"
CODE_LABELS = "code_labels"
CAMERA_STRIP = "camera_strip"

NO_LABEL = -1
"""Label of a code whose transition is not in the clip."""
LATENT_ACTION_CODES = 16
"""Values of a latent action of LatentVLA: K."""
LATENT_ACTION_TRANSITIONS, CODES_A_TRANSITION = 3, 4
"""Steps of 1 s that LatentVLA's codes tell, and codes of each; together N = 12 of a frame."""


def latent_action_features(
    positions: int,
    codes: int,
    width: int,
    cells: Mapping[str, int],
    dtype: DType = "float16",
) -> tuple[FeatureSpec, ...]:
    """Return what a model of latent actions tells of every frame.

    Args:
        positions: Codes of a frame, N.
        codes: Values that a code can take, K.
        width: Of hidden states, D.
        cells: Camera -> cells that its image tokens are averaged over, in the order in which the model sees
            the cameras.
        dtype: float16, or float32 to tell rounding from everything else.
    """
    return (
        FeatureSpec(
            name=CODES,
            shape=(positions,),
            axes=("position",),
            dtype="int16",
            role="target",
            description="Latent actions, the likeliest code after those before it.",
        ),
        FeatureSpec(
            name=CODE_LOGITS,
            shape=(positions, codes),
            axes=("position", "code"),
            dtype=dtype,
            role="target",
            description="Logits of all codes, given the codes before.",
        ),
        FeatureSpec(
            name=CODE_MASS,
            shape=(positions,),
            axes=("position",),
            dtype=dtype,
            role="target",
            description="Probability that the next token is a code at all, among the whole vocabulary.",
        ),
        FeatureSpec(
            name=ACT_HIDDEN,
            shape=(positions, width),
            axes=("position", "channel"),
            dtype=dtype,
            role="target",
            description="Hidden states after the final norm from which the codes are told.",
        ),
        FeatureSpec(
            name=VIS_POOLED,
            shape=(sum(cells.values()), width),
            axes=("cell", "channel"),
            dtype=dtype,
            role="target",
            segments=tuple(cells.items()),
            description="Hidden states after the final norm at image tokens, mean of every cell, row by row.",
        ),
    )


def code_labels(positions: int) -> FeatureSpec:
    """Return the feature of the codes that a latent action model tells from the frames that follow."""
    return FeatureSpec(
        name=CODE_LABELS,
        shape=(positions,),
        axes=("position",),
        dtype="int8",
        role="target",
        description="Latent actions of what really followed; -1 where the clip ends before.",
    )


def camera_strip(width: int, height: int) -> FeatureSpec:
    """Return the feature of the front cameras' images, cut and joined to one strip of so many pixels."""
    return FeatureSpec(
        name=CAMERA_STRIP,
        shape=(height, width, 3),
        axes=("row", "column", "rgb"),
        dtype="uint8",
        role="input",
        description="Front left, front and front right camera side by side, 75 degrees to either side.",
    )
