"""The training of latent actions that tests kill, in a module that child processes import."""

from pathlib import Path
from typing import Any

from pipeline.bench2drive.source import Bench2Drive
from pipeline.teachers.latent_action_vlm.making.train_actions import TrainActionsReport, train_actions
from tests.pipeline.teachers.latent_action_vlm.making.conftest import few

EVERYTHING = {"ego_head": "0.5", "warmup_without_codes": "0.34"}


def train(root: Path, run: Path, **options: Any) -> TrainActionsReport:
    return train_actions(run, Bench2Drive(root), few(**EVERYTHING), **options)
