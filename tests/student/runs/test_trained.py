"""Nothing that only a run's files name is ever imported."""

import sys

import pytest

from cache_schema.errors import CheckpointError
from student.runs.evaluate import evaluate
from student.training.train import train
from tests.student.recipes import small


@pytest.fixture
def run(dataset_path, tmp_path, monkeypatch):
    """Return a run with a loss of the user's own, whose module is gone."""
    (tmp_path / "own_losses.py").write_text(
        "from student.orion_lite.losses.mimic import Mimic\nclass Own(Mimic):\n    factor: float = 2.0\n"
    )
    with monkeypatch.context() as patched:
        patched.syspath_prepend(tmp_path)
        config = small(epochs=1, **{"losses.own_losses:Own": "on"})
        train(dataset_path, tmp_path / "run", config, trackers=())
    del sys.modules["own_losses"]
    (tmp_path / "own_losses.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "run"


def test_a_run_with_a_loss_of_ones_own_is_evaluated_without_it(run, dataset_path):
    assert evaluate(run, dataset_path).epoch == 1
    assert "own_losses" not in sys.modules


def test_a_run_with_a_loss_that_the_user_does_not_name_is_refused_without_it(run, dataset_path):
    with pytest.raises(CheckpointError, match=r"losses\.own_losses:Own\.factor: 2\.0 there, None now"):
        train(dataset_path, run, small(epochs=2), trackers=())
    assert "own_losses" not in sys.modules
