import json

import pytest
import torch

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import RequestError
from student.runs.presets import changed
from student.runs.provenance import Provenance, TrainedOn
from student.runs.tracking import choose_trackers, flat
from student.training.train import train


def test_a_run_records_what_made_it_and_every_time_it_was_started(dataset_path, config, tmp_path):
    train(dataset_path, tmp_path, changed(config, {"epochs": 1}), trackers=())
    train(dataset_path, tmp_path, config, resident="ram", trackers=(), recipe="demo, epochs 2")
    recorded = Provenance.model_validate_json((tmp_path / "run.json").read_bytes())
    assert recorded.trained_on == TrainedOn.of(LatentDataset.open(dataset_path))
    assert recorded.config == config.completed(config.make_system())
    assert recorded.recipe == "demo, epochs 2"
    assert [(start.step, start.resident, start.processes) for start in recorded.starts] == [
        (0, "none", 1),
        (4, "ram", 1),
    ]
    assert recorded.starts[0].libraries["torch"] == torch.__version__


def test_the_fingerprint_changes_with_a_clip_and_with_the_manifest(write, dataset_path, tmp_path):
    known = TrainedOn.of(LatentDataset.open(dataset_path)).digest
    assert TrainedOn.of(LatentDataset.open(write(tmp_path / "same.zarr"))).digest == known
    fewer = write(tmp_path / "fewer.zarr", clips={"clip-a": ("train", 16)})
    other = write(tmp_path / "other.zarr", weights="random:1")
    digests = {TrainedOn.of(LatentDataset.open(path)).digest for path in (fewer, other)}
    assert len(digests | {known}) == 3


def test_where_samples_stay_changes_nothing_of_the_result(dataset_path, config, tmp_path):
    for resident in ("none", "ram", "device"):
        train(dataset_path, tmp_path / resident, config, resident=resident, trackers=())
    logs = {(tmp_path / resident / "log.jsonl").read_bytes() for resident in ("none", "ram", "device")}
    assert len(logs) == 1


def test_trackers_that_are_not_there_are_refused_with_their_names():
    with pytest.raises(RequestError, match="'mlflow' is unknown"):
        choose_trackers(["mlflow"])
    assert choose_trackers([]) == ()


def test_tensorboard_shows_what_the_log_holds(dataset_path, config, tmp_path):
    event_file = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    train(dataset_path, tmp_path, config)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    shown = {}
    for file in (tmp_path / "tensorboard").rglob("events.*"):
        for event in event_file.EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                shown[event.step, value.tag] = value.tensor.float_val[0]
    assert shown[8, "epoch/val/total"] == pytest.approx(lines[-1]["val"]["total"])
    assert {tag for _, tag in shown} == {name for line in lines for name in flat(line)}
