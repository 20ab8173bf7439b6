"""Orion-Lite's configurations: the released one, a corrected one, the paper's ablations, and small ones."""

from __future__ import annotations

from student.runs.config import RunConfig, TrainingConfig
from student.runs.presets import changed

ORION_LITE = RunConfig(
    system="orion-lite",
    training=TrainingConfig(epochs=20, batch_size=64, learning_rate=5e-5, weight_decay=1e-4, clip_norm=1.0),
    losses={"mimic": {}, "regression": {}, "boundary": {}, "collision": {}, "latent": {}},
)
"""The released run: its sizes, its five losses and its hyper-parameters."""

ORION_LITE_PLUS = RunConfig(
    system="orion-lite",
    training=TrainingConfig(
        # At a constant rate the released run's validation error varies by 10 % to its very end.
        schedule="cosine",
        # AdamW's first steps are as large as any, on moments of a handful of gradients, and the planner is
        # already trained.
        warmup_steps=500,
        # Decay pulls a norm's gain and a bias towards 0 for no benefit.
        decay="matrices",
        # Averages out the last steps, whose noise a constant or small rate leaves in the weights.
        ema_decay=0.999,
    ),
    # The released run leaves out the ground truth of 4 % of all frames.
    student={"mask": "complete"},
    losses={
        "mimic": {},
        "regression": {},
        "boundary": {},
        # Pedestrians in place of traffic signs.
        "collision": {"classes": [0, 1, 2, 3, 7]},
        # The released run's divergence explodes in the first epoch (up to 1e6), and clipping then leaves
        # nothing of the other terms' gradients; afterwards it falls to 0.
        "latent": {"free_nats": 0.05, "warmup_steps": 3_669},
    },
)
"""The released configuration with its faults corrected."""

_NO_MIMIC = {"losses.mimic": "off"}
_ONLY_MIMIC = {f"losses.{name}": "off" for name in ("regression", "boundary", "collision", "latent")}

MSE = changed(ORION_LITE, {"losses.mimic.distance": "mse"})
HUBER = changed(ORION_LITE, {"losses.mimic.distance": "huber"})
KL = changed(ORION_LITE, {"losses.mimic.distance": "kl"})
TRAJECTORY = changed(ORION_LITE, _NO_MIMIC)
MIMIC = changed(ORION_LITE, _ONLY_MIMIC)
"""The teacher's planner is left as it is: no term of the loss reaches it."""
LAYERS_2, LAYERS_4, LAYERS_8, LAYERS_16 = (
    changed(ORION_LITE, {"student.layers": layers}) for layers in (2, 4, 8, 16)
)

DEMO = RunConfig(
    system="orion-lite",
    training=TrainingConfig(
        epochs=40, batch_size=16, learning_rate=2e-3, schedule="cosine", warmup_steps=50, log_every=10
    ),
    student={"hidden": 96, "layers": 2, "heads": 4, "feedforward": 192, "dropout": 0.0, "mask": "complete"},
    # With a few hundred frames, the trajectory has to weigh more than released.
    losses={
        "mimic": {},
        "regression": {"weight": 60.0},
        "boundary": {},
        "collision": {},
        "latent": {"weight": 0.1},
    },
)
"""For minutes on a laptop."""
DEMO_TRAJECTORY = changed(DEMO, _NO_MIMIC)
DEMO_MIMIC = changed(DEMO, _ONLY_MIMIC)
