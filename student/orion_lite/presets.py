"""The recipes: the released one, what mends it, the paper's ablations, and small ones for a laptop."""

from __future__ import annotations

from student.runs.config import TrainConfig

ORION_LITE = TrainConfig()
"""The released run: its sizes, its five losses and its hyper-parameters."""

PLANNING = {"regression": {}, "boundary": {}, "collision": {}, "latent": {}}
"""Terms of the loss that the truth and the teacher's surroundings give."""

ORION_LITE_PLUS = TrainConfig(
    objectives={
        "mimic": {},
        "regression": {},
        "boundary": {},
        "collision": {"classes": [0, 1, 2, 3, 7]},
        "latent": {"free_nats": 0.05},
    },
    mask="complete",
    term_warmup_steps={"latent": 3_669},
    schedule="cosine",
    warmup_steps=500,
    decay="matrices",
    ema_decay=0.999,
)
"""The released recipe where it is broken: each field says why it differs."""


def _with(recipe: TrainConfig, **changes: object) -> TrainConfig:
    return TrainConfig.model_validate({**recipe.model_dump(), **changes})


MSE = _with(ORION_LITE, objectives={"mimic": {"distance": "mse"}, **PLANNING})
HUBER = _with(ORION_LITE, objectives={"mimic": {"distance": "huber"}, **PLANNING})
KL = _with(ORION_LITE, objectives={"mimic": {"distance": "kl"}, **PLANNING})
TRAJECTORY = _with(ORION_LITE, objectives=PLANNING)
MIMIC = _with(ORION_LITE, objectives={"mimic": {}})
"""The teacher's planner is left as it is: nothing tells it to change."""
LAYERS_2, LAYERS_4, LAYERS_8, LAYERS_16 = (_with(ORION_LITE, layers=layers) for layers in (2, 4, 8, 16))

DEMO = TrainConfig(
    hidden=96,
    layers=2,
    heads=4,
    feedforward=192,
    dropout=0.0,
    objectives={
        "mimic": {},
        "regression": {"weight": 60.0},
        "boundary": {},
        "collision": {},
        "latent": {"weight": 0.1},
    },
    mask="complete",
    epochs=40,
    batch_size=16,
    learning_rate=2e-3,
    schedule="cosine",
    warmup_steps=50,
    log_every=10,
)
"""For minutes on a laptop: with a few hundred frames, the trajectory has to weigh more than released."""
DEMO_TRAJECTORY = _with(
    DEMO, objectives={name: options for name, options in DEMO.objectives.items() if name != "mimic"}
)
DEMO_MIMIC = _with(DEMO, objectives={"mimic": {}})
