"""Clips that are long enough for labels, and latent actions that were learned from them in a few steps."""

import shutil
from pathlib import Path

import pytest

from pipeline.bench2drive.source import Bench2Drive
from pipeline.bench2drive.synthetic import write_demo_data
from pipeline.teachers.latent_action_vlm.making.actions_config import ActionsConfig, preset_of
from pipeline.teachers.latent_action_vlm.making.learned_actions import LearnedActions
from pipeline.teachers.latent_action_vlm.making.train_actions import train_actions

FRAMES = 33
"""Of each of three clips, the last one for validation: three frames have labels."""
FEW = {"steps_1": "6", "steps_2": "6", "batch_size": "8", "checkpoint_every": "2", "restart_every": "3"}


def few(**changes: str) -> ActionsConfig:
    return preset_of("tiny", FEW | changes)


@pytest.fixture(scope="session")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("driven") / "data"
    write_demo_data(root, clips=3, frames=FRAMES)
    return root


@pytest.fixture(scope="session")
def brief(driven: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginnings of the same clips: four transitions of each."""
    root = tmp_path_factory.mktemp("brief") / "data"
    shutil.copytree(driven, root)
    for clip in (root / "v1").iterdir():
        for file in sorted((clip / "anno").iterdir())[14:]:
            file.unlink()
    return root


@pytest.fixture(scope="session")
def actions_file(driven: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_actions(tmp_path_factory.mktemp("actions") / "run", Bench2Drive(driven), few()).file


@pytest.fixture(scope="session")
def actions(actions_file: Path) -> LearnedActions:
    return LearnedActions(actions_file)
