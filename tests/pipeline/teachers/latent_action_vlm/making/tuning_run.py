"""The tuning that tests kill, in a module that child processes import."""

from pathlib import Path
from typing import Any

from pipeline.bench2drive.source import Bench2Drive
from pipeline.teachers.latent_action_vlm.making.tune_vlm import (
    TuneReport,
    tune_vlm,
    tuning_config,
    tuning_preset,
)

FEW = {"steps": "5", "batch_size": "4", "checkpoint_every": "2", "learning_rate": "1e-2", "rank": "4"}


def train(dataset: Path, root: Path, run: Path, checkpoint: Path | None = None, **options: Any) -> TuneReport:
    config, preset = tuning_config(FEW), tuning_preset("latentvla-tiny", {})
    return tune_vlm(run, dataset, Bench2Drive(root), preset, checkpoint, config, **options)
