"""LatentVLA-R's configurations: the planner alone, fused, distilled; ablations; and small ones."""

from __future__ import annotations

from student.runs.config import RunConfig, TrainingConfig
from student.runs.presets import changed

LATENT_TRANSFUSER = RunConfig(
    system="latentvla",
    # NAVSIM's: Adam without decay or clipping.
    training=TrainingConfig(epochs=100, batch_size=64, learning_rate=1e-4, weight_decay=0.0, clip_norm=None),
    student={"embeddings": "none"},
    losses={"trajectory": {}, "agents": {}},
)
"""The planner alone, as NAVSIM trains it; ablation (e)."""

_FUSED = {"student.embeddings": "teacher"}
_DISTILLED = {"student.embeddings": "student", "losses.code-kl": "on", "losses.embedding": "on"}
_ZERO, _NOISE = ({"student.embeddings": name} for name in ("zero", "noise"))
_KL_ONLY = {"losses.embedding": "off"}
_LABELS = {"losses.code-kl": "off", "losses.code-labels": "on", "student.prefix": "code_labels"}
_PARALLEL = {"student.decision.decoding": "parallel"}

FUSED = changed(LATENT_TRANSFUSER, _FUSED)
"""With the embeddings of a vision-language model, which is needed to drive: the "teacher planner"."""
DISTILLED = changed(LATENT_TRANSFUSER, _DISTILLED)
"""A decision transformer in the model's place. ``training.start_from`` takes a fused planner's weights."""

FUSED_ZERO, FUSED_NOISE = changed(FUSED, _ZERO), changed(FUSED, _NOISE)
"""Ablation (a): as many weights, and nothing in the model's states."""
DISTILLED_KL_ONLY = changed(DISTILLED, _KL_ONLY)
"""Ablation (b), to the letter of what is published: embeddings are learned from the planner's loss alone, and
the dataset needs no states. To start from a fused planner, set both factors of ``embedding`` to 0 instead."""
DISTILLED_LABELS = changed(DISTILLED, _LABELS)
"""Ablation (c): the labels' codes in place of the model's distribution."""
DISTILLED_PARALLEL = changed(DISTILLED, _PARALLEL)
"""Ablation (d): all codes at once."""

TRANSFUSER_TINY = RunConfig(
    system="latentvla",
    training=TrainingConfig(
        epochs=20, batch_size=16, learning_rate=2e-3, schedule="cosine", warmup_steps=10, log_every=10
    ),
    student={
        "embeddings": "none",
        "planner": {
            "widths": (8, 16, 24, 32),
            "blocks": (1, 1, 1, 1),
            "bev_pixels": 64,
            "fusion_blocks": 1,
            "fusion_heads": 2,
            "dropout": 0.0,
            "width": 32,
            "layers": 1,
            "heads": 4,
            "inner": 64,
            "boxes": 8,
            "bev_channels": 8,
        },
        "decision": {"layers": 2, "width": 48, "heads": 4, "inner": 96, "dropout": 0.0},
        "visual_embeddings": 4,
        "action_embeddings": 2,
        "embedding_heads": 4,
    },
    losses={"trajectory": {}, "agents": {}},
)
"""For a minute on a laptop."""
FUSED_TINY = changed(TRANSFUSER_TINY, _FUSED)
DISTILLED_TINY = changed(TRANSFUSER_TINY, _DISTILLED)
FUSED_ZERO_TINY, FUSED_NOISE_TINY = changed(FUSED_TINY, _ZERO), changed(FUSED_TINY, _NOISE)
DISTILLED_KL_ONLY_TINY = changed(DISTILLED_TINY, _KL_ONLY)
DISTILLED_LABELS_TINY = changed(DISTILLED_TINY, _LABELS)
DISTILLED_PARALLEL_TINY = changed(DISTILLED_TINY, _PARALLEL)
