"""Configurations of Orion-Lite at tiny size, for the dataset of conftest.py."""

from student.orion_lite.presets import ORION_LITE
from student.runs.config import RunConfig
from student.runs.presets import changed

SIZES = {"hidden": 16, "layers": 1, "heads": 2, "feedforward": 16}


def small(**changes) -> RunConfig:
    """Return the released configuration at tiny size, with fields changed by their names, dots as ``__``."""
    tiny = {
        **SIZES,
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "mask": "complete",
        "log_every": 2,
    }
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return changed(ORION_LITE, tiny | changes)


def with_losses(config: RunConfig, losses: dict[str, dict]) -> RunConfig:
    """Return a configuration with other losses."""
    return RunConfig.model_validate({**config.model_dump(), "losses": losses})
