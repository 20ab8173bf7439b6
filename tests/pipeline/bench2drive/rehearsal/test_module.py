"""The process of the evaluator, started as a supervisor starts it."""

import json
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline.bench2drive.rehearsal.__main__ import main
from pipeline.bench2drive.rehearsal.toys import draw_toy
from pipeline.bench2drive.synthetic import write_demo_data
from tests.paths import ROOT
from tests.pipeline.bench2drive.rehearsal.driving import SCRIPTED, TRUE_PLAN, scripted


def test_one_route_of_a_list(tmp_path):
    command = [sys.executable, "-m", "pipeline.bench2drive.rehearsal", "--scenes", "6"]
    routes, one, results = (tmp_path / name for name in ("routes.xml", "one.xml", "results.json"))
    subprocess.run([*command, "--write-routes", routes], check=True, cwd=ROOT)
    tree = ElementTree.parse(routes).getroot()
    assert [route.attrib["id"] for route in tree] == [str(9001 + index) for index in range(6)]
    assert tree[3].attrib["town"] == "Town12"
    assert tree[3].find("scenarios/scenario").attrib == {"name": "TJunction_1", "type": "TJunction"}
    assert len(tree[3].findall("waypoints/position")) == 61
    for route in list(tree)[:3] + list(tree)[4:]:
        tree.remove(route)
    ElementTree.ElementTree(tree).write(one)
    drive = ["--routes", one, "--black", "--agent", TRUE_PLAN, "--agent-config", "c", "--checkpoint", results]
    subprocess.run([*command, *drive, "--drives", tmp_path / "drives"], check=True, cwd=ROOT)
    written = json.loads(results.read_text())
    (record,) = written["_checkpoint"]["records"]
    assert record["route_id"] == "RouteScenario_9004_rep0"
    assert (written["rehearsal"], written["entry_status"], written["values"][0]) == (
        "toy",
        "Finished",
        "100.0",
    )
    with np.load(tmp_path / "drives" / "9004.npz") as kept:
        assert kept["plans"].shape == (len(kept["poses"]), 6, 2)
        assert np.isfinite(kept["plans"]).all()
        assert kept["controls"].shape == (len(kept["poses"]), 3)
        others = len(draw_toy(3, cameras=False).scene.actors)
        assert kept["others"].shape == (len(kept["poses"]), others, 4, 2)
        assert kept["road"].shape[::2] == (2, 2)
        assert np.linalg.norm(kept["poses"][-1, :2] - kept["route"][-1]) < 1.0


def test_clips_are_replayed(tmp_path):
    write_demo_data(tmp_path / "data", clips=2, frames=3)
    results = tmp_path / "results.json"
    agent = ["--agent", str(SCRIPTED), "--agent-config", scripted(), "--checkpoint", str(results)]
    assert main(["--clips", str(tmp_path / "data"), *agent]) == 0
    written = json.loads(results.read_text())
    assert written["rehearsal"] == "replay"
    assert written["_checkpoint"]["progress"] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--scenes", "1", "--agent", "no.py", "--checkpoint", "results.json"], "no.py cannot be imported"),
        (["--scenes", "1", "--routes", "no.xml"], "no.xml cannot be read"),
        (["--scenes", "1", "--routes", "other.xml"], "there is no route 9002"),
        (["--clips", "."], "there are no clips"),
    ],
)
def test_mistakes_are_explained(arguments, what, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.xml").write_text('<routes><route id="9002" town="Town05"/></routes>')
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert what in said
    assert "expected:" in said
    assert "to do:" in said
