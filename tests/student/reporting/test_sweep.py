import io
import json

import pytest
from rich.console import Console

from cache_schema.errors import RequestError
from student.reporting.sweep import Outcome, Sweep, sweep
from student.runs.log import read_log
from student.training.train import train


@pytest.fixture
def recipes(config, tmp_path, monkeypatch):
    """Make a module of recipes that can be named."""
    (tmp_path / "sweep_recipes.py").write_text(
        "from student.runs.config import RunConfig\n"
        f"BOTH = RunConfig.model_validate_json('{config.model_dump_json()}')\n"
        "MIMIC = BOTH.model_copy(update={'losses': {'mimic': {}}})\n"
        "WILD = BOTH.model_copy(update={'losses': {'mimic': {'weight': float('inf')}}})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return ["sweep_recipes:BOTH", "sweep_recipes:WILD", "sweep_recipes:MIMIC"]


def test_configurations_are_trained_one_after_another_into_one_table(dataset_path, recipes, tmp_path):
    table = sweep(dataset_path, tmp_path / "runs", recipes, changes={"epochs": 1}, trackers=())
    assert [done.preset for done in table.outcomes] == ["sweep_recipes:BOTH", "sweep_recipes:MIMIC"]
    assert list(table.diverged) == ["sweep_recipes:WILD"]
    assert "mimic is not finite" in table.diverged["sweep_recipes:WILD"]
    for done in table.outcomes:
        run = tmp_path / "runs" / done.run
        assert done.epochs == 1
        assert done.val == read_log(run)[-1]["val"]
        written = json.loads((run / "evaluation.json").read_text())
        cosine = written["similarity"]["planning_token"]["cosine"]["value"]
        expected = {**written["l2_m"]["student"]["complete"], "cosine planning_token": cosine}
        assert done.numbers == expected
    assert set(table.others) == {"teacher", "constant_velocity", "stand_still"}
    assert Sweep.model_validate_json((tmp_path / "runs/sweep.json").read_text()) == table
    shown = io.StringIO()
    Console(file=shown, width=80).print(table)
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert f"{table.outcomes[0].numbers['up_to_3s']:.3f}" in shown.getvalue()


def test_other_evaluations_have_a_row_a_number_with_its_interval():
    outcomes = [
        Outcome(preset=name, run=name, epochs=1, weights=1, val={}, numbers=numbers, intervals=intervals)
        for name, numbers, intervals in (
            ("one", {"accuracy": 0.5, "loss": 0.00025}, {"accuracy": (0.25, 0.75)}),
            ("two", {"accuracy": 0.125}, {}),
        )
    ]
    table = Sweep(dataset="", outcomes=tuple(outcomes), diverged={}, others={})
    shown = io.StringIO()
    Console(file=shown, width=80).print(table)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.getvalue().splitlines()]
    found = cells.index(["accuracy", "0.500", "0.125"])
    assert cells[found + 1 : found + 3] == [["", "0.250..0.750", ""], ["loss", "2.50e-04", "-"]]


def test_run_again_it_only_evaluates_what_is_trained(dataset_path, recipes, config, tmp_path):
    train(dataset_path, tmp_path / "runs/sweep_recipes-BOTH", config, trackers=())
    before = (tmp_path / "runs/sweep_recipes-BOTH/log.jsonl").read_bytes()
    table = sweep(dataset_path, tmp_path / "runs", recipes[:1], trackers=())
    assert table.outcomes[0].epochs == 2
    assert (tmp_path / "runs/sweep_recipes-BOTH/log.jsonl").read_bytes() == before


def test_a_run_whose_log_was_lost_is_still_in_the_table(dataset_path, recipes, tmp_path):
    first = sweep(dataset_path, tmp_path / "runs", recipes[:1], changes={"epochs": 1}, trackers=())
    (tmp_path / "runs" / first.outcomes[0].run / "log.jsonl").unlink()
    again = sweep(dataset_path, tmp_path / "runs", recipes[:1], changes={"epochs": 1}, trackers=())
    assert again.outcomes[0].val == {}
    assert again.outcomes[0].numbers == first.outcomes[0].numbers


@pytest.mark.parametrize(
    ("presets", "changes", "message"),
    [
        ([], {}, "nothing to compare"),
        (["demo", "dmeo"], {}, "did you mean 'demo'"),
        (["demo"], {"epochs": 0}, "greater than 0"),
        (["demo"], {"epoch": 1}, "no field 'epoch'"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_trained(
    presets, changes, message, dataset_path, tmp_path
):
    with pytest.raises(RequestError, match=message):
        sweep(dataset_path, tmp_path / "runs", presets, changes=changes)
    assert not (tmp_path / "runs").exists()


def test_a_dataset_without_held_out_clips_is_refused(write, tmp_path):
    path = write(tmp_path / "train.zarr", clips={"only": ("train", 8)})
    with pytest.raises(RequestError, match="no held-out clips"):
        sweep(path, tmp_path / "runs", ["demo"])
