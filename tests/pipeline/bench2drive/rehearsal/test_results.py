"""Results files: as the leaderboard wrote them on a real run, from its own records."""

import json
import re

import pytest

from pipeline.bench2drive.rehearsal.results import INFRACTIONS, Checkpoint, record_of
from pipeline.bench2drive.rehearsal.toys import draw_toy
from pipeline.bench2drive.rehearsal.world import Event
from tests.paths import GOLDEN

REAL = sorted((GOLDEN / "closed_loop" / "scoring" / "real_tfv6_mit").glob("*.json"))
RECORDED = {path.stem: json.loads(path.read_text()) for path in REAL}
RECORDS = {name: results["_checkpoint"]["records"] for name, results in RECORDED.items()}
OUTSIDE = re.compile(r"\(([0-9.]+)% of the completed route\)")
ROUNDED = 1e-4
"""Of a share that a message states in percent with two digits."""


@pytest.mark.parametrize("name", RECORDED)
def test_the_file_around_a_record(name, tmp_path):
    recorded = RECORDED[name]
    checkpoint = Checkpoint(tmp_path / "results.json", 1, "toy")
    checkpoint.sensors = recorded["sensors"]
    for record in RECORDS[name]:
        checkpoint.add(record)
    checkpoint.write(finished=bool(RECORDS[name]))
    written = json.loads((tmp_path / "results.json").read_text())
    assert written.pop("rehearsal") == "toy"
    assert list(written) == list(recorded)
    assert written == recorded
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("name", [name for name, records in RECORDS.items() if records])
def test_a_record_from_its_events(name):
    (recorded,) = RECORDS[name]
    world = draw_toy_once()
    world.events = [
        Event(kind, message, float(OUTSIDE.search(message)[1]) if kind == "outside_route_lanes" else 0.0)
        for kind, messages in recorded["infractions"].items()
        for message in messages
    ]
    world._progress.percent = recorded["scores"]["score_route"]
    status = recorded["status"]
    told = status.removeprefix("Failed - ") if status.endswith(("crashed", "TickRuntime")) else ""
    record = record_of(world, save_name="a name", repetition=0, failure=told, seconds=1.5)
    assert list(record) == list(recorded)
    assert record["infractions"] == recorded["infractions"]
    assert list(record["infractions"]) == list(recorded["infractions"])
    assert record["num_infractions"] == recorded["num_infractions"]
    assert record["status"] == status
    for score, value in recorded["scores"].items():
        assert record["scores"][score] == pytest.approx(value, rel=ROUNDED, abs=1e-6)
    assert record["meta"].keys() == recorded["meta"].keys()


def draw_toy_once(_drawn=[]):  # noqa: B006
    if not _drawn:
        _drawn.append(draw_toy(0, cameras=False))
    return _drawn[0]


def test_every_kind_of_infraction_is_known():
    kinds = {kind for records in RECORDS.values() for record in records for kind in record["infractions"]}
    assert kinds == {*INFRACTIONS}


def test_a_route_s_record():
    world = draw_toy(3, cameras=False)
    record = record_of(world, save_name="a name", repetition=2, failure="", seconds=2.3456)
    assert record["route_id"] == "RouteScenario_9004_rep2"
    assert record["scenario_name"] == "TJunction_1"
    assert record["weather_id"] == "14"
    assert record["town_name"] == "Town12"
    assert record["status"] == "Failed"
    assert record["meta"] == {
        "route_length": pytest.approx(60, abs=0.1),
        "duration_game": 0.0,
        "duration_system": 2.346,
    }


def test_perfect_is_without_any_event():
    world = draw_toy(0, cameras=False)
    world._progress.percent = 100.0
    assert record_of(world, save_name="", repetition=0, failure="", seconds=0)["status"] == "Perfect"


def test_the_spread_of_several_routes(tmp_path):
    """Of 100 and 40: a mean of 70, and sqrt(2 x 30^2 / 1) about it."""
    names = [name for name, records in RECORDS.items() if records and records[0]["status"] == "Completed"]
    checkpoint = Checkpoint(tmp_path / "results.json", 2, "toy")
    for score, name in zip((100.0, 40.0), names, strict=False):
        (record,) = RECORDS[name]
        checkpoint.add(record | {"scores": record["scores"] | {"score_composed": score}})
    checkpoint.write(finished=True)
    summary = json.loads((tmp_path / "results.json").read_text())["_checkpoint"]["global_record"]
    assert summary["scores_mean"]["score_composed"] == 70.0
    assert summary["scores_std_dev"]["score_composed"] == 42.426
    assert summary["meta"]["exceptions"] == []
