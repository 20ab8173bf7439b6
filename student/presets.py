"""Two recipes: the released one, and a small one for minutes on a laptop."""

from __future__ import annotations

from student.config import TrainConfig

ORION_LITE = TrainConfig()

DEMO = TrainConfig(
    hidden=96,
    layers=2,
    heads=4,
    feedforward=192,
    epochs=30,
    batch_size=32,
    learning_rate=1e-3,
    mask="complete",
    log_every=10,
)
