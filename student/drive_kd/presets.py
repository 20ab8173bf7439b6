"""Drive-KD's configurations: the released one, the paper's comparisons, and tiny ones.

Released are code and its defaults; which values the paper's runs used is not known. The released run keeps
weights and the optimiser's moments in bfloat16. Here both are float32, and only the network computes in
bfloat16: a step of 5e-5 is below half the spacing of bfloat16 at many weights, and is lost there.

The released run also takes no optimiser step at the end of a batch whose last sample has no term but the
answer's, or did not fit into memory, and lets its gradients run into the next, or drops them. Here every
batch is a step.
"""

from __future__ import annotations

from cache_schema.vocabulary.attention import CAPABILITIES
from student.runs.config import RunConfig, TrainingConfig
from student.runs.presets import changed

_RELEASED_PI = {"perception": [0.8, 0.1, 0.1], "reasoning": [0.1, 0.8, 0.1], "planning": [0.1, 0.1, 0.8]}

DRIVE_KD = RunConfig(
    system="drive-kd",
    training=TrainingConfig(
        epochs=1,
        batch_size=4,
        micro_batch_size=1,
        learning_rate=5e-5,
        weight_decay=0.0,
        partial_batch="fraction",
        clip_norm=None,
        precision="bf16",
        seed=42,
    ),
    student={"pi": _RELEASED_PI, "weighting": "gradnorm", "combination": "agp"},
    losses={"answer_ce": {}, "perception": {}, "reasoning": {}, "planning": {}},
)
"""All three kinds of attention, re-weighted and projected. Of the released script it differs in what is
trained: the language model, as the paper's figure has it; with ``student.trainable=all`` everything."""

SUM = changed(DRIVE_KD, {"student.combination": "sum"})
"""Without projection."""
COSINE = changed(DRIVE_KD, {f"losses.{term}.distance": "cosine" for term in CAPABILITIES})
"""The angle between maps in place of their squared difference."""
CE = changed(
    DRIVE_KD,
    {f"losses.{term}": "off" for term in CAPABILITIES}
    | {"student.weighting": "static", "student.combination": "sum"},
)
"""The answers alone: nothing of the teacher."""


def _single(term: str) -> RunConfig:
    """Return a run with one kind of attention, for samples of its capability; all samples teach answers."""
    others = {f"losses.{other}": "off" for other in CAPABILITIES if other != term}
    identity = {"perception": [1, 0, 0], "reasoning": [0, 1, 0], "planning": [0, 0, 1]}
    return changed(DRIVE_KD, others | {"student.pi": identity})


SINGLE_PERCEPTION = _single("perception")
SINGLE_REASONING = _single("reasoning")
SINGLE_PLANNING = _single("planning")

_ON_A_LAPTOP = {
    "epochs": 10,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "schedule": "cosine",
    "warmup_steps": 50,
    "precision": "fp32",
    "log_every": 10,
}
TINY, TINY_SUM, TINY_COSINE, TINY_CE = (
    changed(config, _ON_A_LAPTOP) for config in (DRIVE_KD, SUM, COSINE, CE)
)
TINY_SINGLE_PERCEPTION, TINY_SINGLE_REASONING, TINY_SINGLE_PLANNING = (
    changed(config, _ON_A_LAPTOP) for config in (SINGLE_PERCEPTION, SINGLE_REASONING, SINGLE_PLANNING)
)
"""For minutes on a CPU, with the tiny student of synthetic questions."""
