"""Folders that Bench2Drive's own scripts were run on: their numbers, and where they fail."""

import json
from pathlib import Path

import numpy as np
import pytest

from cache_schema.errors import RequestError
from student.scoring.records import read_results
from student.scoring.routes import route_list
from student.scoring.score import score
from student.scoring.smoothness import METRICS, passing_chunks, read_motion
from tests.paths import GOLDEN

SCORING = GOLDEN / "closed_loop" / "scoring"
JUNCTIONS = SCORING / "junctions_synthetic.json"
RECORDED = json.loads((SCORING / "authors_outputs.json").read_text())
OFFICIAL = len(route_list().routes)


def raw_records(folder):
    """Every record of a folder, by nothing but json."""
    files = [json.loads(path.read_text()) for path in sorted((SCORING / folder).glob("*.json"))]
    return [record for file in files for record in file["_checkpoint"]["records"]]


def drives_more_than_once(folder):
    ids = [record["route_id"].split("_")[1] for record in raw_records(folder)]
    return len(set(ids)) < len(ids)


MERGED = [name for name, of in RECORDED.items() if of["merge"]["exit"] == 0]
BROKEN = [name for name in RECORDED if name not in MERGED]
ONCE = [name for name in MERGED if not drives_more_than_once(name)]
SEVERAL = [name for name in MERGED if name not in ONCE]
TWICE_RECORDED = [
    name
    for name in SEVERAL
    if len({record["route_id"] for record in raw_records(name)}) < len(raw_records(name))
]
REPEATED = [name for name in SEVERAL if name not in TWICE_RECORDED]


def test_the_recorded_folders_are_of_every_kind():
    assert all((ONCE, BROKEN, TWICE_RECORDED, REPEATED))
    assert set(RECORDED) == {path.parent.name for path in SCORING.glob("*/*.json")}


@pytest.mark.parametrize("folder", ONCE)
def test_driving_score_and_success(folder):
    merged = RECORDED[folder]["merge"]
    found = score(SCORING / folder)
    assert found.driving_score.value == pytest.approx(merged["driving score"], abs=1e-9)
    assert found.success.value == pytest.approx(merged["success rate"], abs=1e-12)
    assert found.drives == merged["eval num"] == merged["records"]
    assert len(found.missing) == OFFICIAL - found.drives
    successes = {f"RouteScenario_{row.id}_rep0" for row in found.routes if row.success}
    assert successes == set(merged["successes"])
    present = sum(record["scores"]["score_composed"] for record in raw_records(folder)) / found.drives
    assert found.driving_score.present == pytest.approx(present, abs=1e-9)


@pytest.mark.parametrize("folder", ONCE)
@pytest.mark.parametrize("version", ["0.0.3", "0.0.4"])
def test_abilities(folder, version):
    recorded = RECORDED[folder][f"ability_{version}"]
    found = score(SCORING / folder, junctions=JUNCTIONS)
    of = found.abilities.versions[version]
    shares = {name: count.share for name, count in found.abilities.successes.items()}
    shares["Traffic_Signs"] = of.traffic_signs.share
    if recorded["exit"]:  # the script divides by the drives of an ability without any
        assert recorded["error"].startswith("ZeroDivisionError")
        assert None in shares.values()
        assert of.mean is None
        return
    shares["mean"] = of.mean
    assert shares == pytest.approx({name: recorded["result"][name] for name in shares}, abs=1e-12)
    assert {route for _, route in recorded["result"]["crashed"]} == set(found.missing)


@pytest.mark.parametrize("folder", [*ONCE, *REPEATED])
def test_efficiency(folder):
    recorded = RECORDED[folder]["efficiency_smoothness"]
    found = score(SCORING / folder).efficiency
    if "Driving Efficiency" in recorded:
        assert found.value == pytest.approx(recorded["Driving Efficiency"], abs=1e-9)
    elif recorded["error"].startswith("ZeroDivisionError"):
        assert found.value is None
        assert found.left_out == tuple(record["route_id"] for record in raw_records(folder))
    else:
        assert recorded["error"].startswith("ValueError")  # by smoothness


def metrics_of(folder):
    return SCORING / f"{folder}_metrics"


WITH_MOTION = [name for name in RECORDED if metrics_of(name).is_dir()]


@pytest.mark.parametrize("folder", WITH_MOTION)
def test_smoothness(folder):
    recorded = RECORDED[folder]["efficiency_smoothness"]
    found = score(SCORING / folder, metrics=metrics_of(folder)).smoothness
    assert found is not None
    assert not found.without_motion
    if recorded["exit"]:
        assert recorded["error"].startswith("ValueError")  # fewer steps than the filter needs
        assert len(found.left_out) == len(raw_records(folder)) - found.drives > 0
    else:
        assert found.value == recorded["Driving Smoothness"]
        assert found.drives == len(raw_records(folder))


CHUNKS = json.loads((SCORING / "smoothness_per_route.json").read_text())


@pytest.mark.parametrize("drive", CHUNKS)
def test_smoothness_of_every_chunk(drive):
    motions = map(read_motion, SCORING.glob(f"*_metrics/{drive}/{METRICS}"))
    (motion,) = (one for one in motions if len(one.acceleration) == CHUNKS[drive]["steps"])
    chunks = passing_chunks(motion)
    assert chunks is not None
    assert list(chunks) == CHUNKS[drive]["chunks_pass"]
    assert np.mean(chunks) == CHUNKS[drive]["route_value"]


@pytest.mark.parametrize("folder", REPEATED)
def test_repetitions_are_averaged_where_the_script_adds_them_up(folder):
    merged = RECORDED[folder]["merge"]
    found = score(SCORING / folder, "dev10")
    assert found.repetitions > 1
    times = found.repetitions * len(found.routes) / OFFICIAL
    assert found.driving_score.value * times == pytest.approx(merged["driving score"], abs=1e-9)
    assert found.success.value * times == pytest.approx(merged["success rate"], abs=1e-12)
    of_each = [
        sum(
            record["scores"]["score_composed"]
            for record in raw_records(folder)
            if record["route_id"].endswith(f"_rep{number}")
        )
        / len(found.routes)
        for number in range(found.repetitions)
    ]
    error = np.std(of_each, ddof=1) / len(of_each) ** 0.5
    assert found.driving_score.standard_error_repetitions == pytest.approx(error)


@pytest.mark.parametrize("folder", REPEATED)
@pytest.mark.parametrize("version", ["0.0.3", "0.0.4"])
def test_abilities_of_the_repetition_that_the_script_takes(folder, version, tmp_path: Path):
    """Of several records it takes the one that ``merge_route_json`` puts first: the last repetition's."""
    first = RECORDED[folder]["merge"]["order_first"][0].rpartition("_")[2]
    records = [record for record in raw_records(folder) if record["route_id"].endswith(first)]
    (tmp_path / "one.json").write_text(json.dumps({"_checkpoint": {"records": records}}))
    found = score(tmp_path, "dev10", junctions=JUNCTIONS).abilities
    shares = {name: count.share for name, count in found.successes.items()}
    of = found.versions[version]
    shares |= {"Traffic_Signs": of.traffic_signs.share, "mean": of.mean}
    result = RECORDED[folder][f"ability_{version}"]["result"]
    assert shares == pytest.approx({name: result[name] for name in shares}, abs=1e-12)


@pytest.mark.parametrize("folder", TWICE_RECORDED)
def test_a_drive_that_is_recorded_twice_is_refused_unless_one_is_chosen(folder):
    records = raw_records(folder)
    ids = [record["route_id"] for record in records]
    with pytest.raises(RequestError, match=r"recorded more than once") as refused:
        read_results(SCORING / folder)
    again = {name for name in ids if ids.count(name) > 1}
    assert all(name in refused.value.happened for name in again)
    # What the script makes of them: all records, over the official number of routes.
    total = sum(record["scores"]["score_composed"] for record in records)
    assert total / OFFICIAL == pytest.approx(RECORDED[folder]["merge"]["driving score"], abs=1e-9)
    kept = {keep: score(SCORING / folder, keep=keep) for keep in ("first", "last")}
    for found in kept.values():
        assert found.drives == len(set(ids))
        assert len(found.dropped) == len(ids) - len(set(ids))
    both = {record["route_id"]: [] for record in records}
    for record in records:
        both[record["route_id"]].append(record["scores"]["score_composed"])
    for keep, place in (("first", 0), ("last", -1)):
        expected = sum(values[place] for values in both.values()) / OFFICIAL
        assert kept[keep].driving_score.value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("folder", BROKEN)
def test_a_damaged_file_is_named(folder):
    assert "JSONDecodeError" in RECORDED[folder]["merge"]["error"]
    with pytest.raises(RequestError) as refused:
        read_results(SCORING / folder)
    damaged = []
    for path in (SCORING / folder).glob("*.json"):
        try:
            json.loads(path.read_text())
        except ValueError:
            damaged.append(path)
    assert any(str(path) in refused.value.happened for path in damaged)


@pytest.mark.parametrize("folder", MERGED)
def test_what_the_scripts_write_into_the_folder_changes_nothing(folder, tmp_path: Path):
    before = read_results(SCORING / folder, keep="first")
    for path in (SCORING / folder).glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = {"_checkpoint": {"records": raw_records(folder)}, "driving score": 1, "eval num": 1}
    (tmp_path / "merged.json").write_text(json.dumps(whole))
    (tmp_path / "merged_ability.json").write_text(json.dumps({"Overtaking": 0.5}))
    after = read_results(tmp_path, keep="first")
    assert after.drives == before.drives
    assert set(after.not_read) == {"merged.json", "merged_ability.json"}
