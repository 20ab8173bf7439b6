import json

import pytest

from student.scoring.resume import resumes_at
from student.scoring.score import score
from tests.paths import GOLDEN
from tests.student.scoring.drives import checkpoint, record, routes_file

CASES = json.loads((GOLDEN / "closed_loop" / "scoring" / "resume.json").read_text())


def planned_ids(case):
    """The routes that the recording's evaluation was to drive: numbered from 100."""
    return [f"RouteScenario_{100 + number}_rep0" for number in range(case["total"])]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_where_the_leaderboard_goes_on(case):
    driven = list(zip(case["route_ids"], case["statuses"], strict=True))
    found = resumes_at(case["entry_status"], tuple(case["progress"]), driven, planned_ids(case))
    assert found == (case["next_index"] if case["resumes"] else None)


def test_a_score_tells_which_good_routes_resuming_would_drive_again(tmp_path):
    statuses = ["Completed", "Failed - Simulation crashed", "Failed - TickRuntime", "Perfect"]
    routes = [(str(number), "Town01", "Accident") for number in range(6)]
    records = [
        record(name, kind, town, status=status)
        for (name, town, kind), status in zip(routes, statuses, strict=False)
    ]
    file = checkpoint(tmp_path / "worker.json", *records, entry_status="Started")
    content = json.loads(file.read_text())
    content["_checkpoint"]["progress"] = [4, 6]
    file.write_text(json.dumps(content))
    found = score(tmp_path, str(routes_file(tmp_path / "routes.xml", *routes)))
    (stopped,) = found.stopped
    assert (stopped.file, stopped.done, stopped.routes) == ("worker.json", 4, 6)
    assert (stopped.resumes_at, stopped.again) == (1, 2)
    assert any("from number 2, and drive 2 good ones again" in note for note in found.notes())
    assert found.broken_off == ("RouteScenario_1_rep0",)
    assert found.missing == ("4", "5")
