"""Whole drives, with an evaluator that really runs, crashes, hangs and leaves its simulator behind."""

import json
import os

import pytest

from cache_schema.errors import DatasetError, RequestError
from cache_schema.progress import Progress
from cache_schema.storage.locks import hold
from student.supervision.conditions import keep_conditions
from student.supervision.drive import Limits, drive
from student.supervision.evaluator import own_command
from tests.student.supervision.driving import (
    NOTHING_LEFT,
    TEMPLATE,
    attempts,
    evaluator,
    left_over,
    running,
    status,
    write_routes,
)

QUICK = Limits(attempts=3, stuck_after_s=60, backoff_s=0.01)


def test_every_way_to_fail_ends_as_it_should_and_leaves_nothing_running(tmp_path):
    expected = {
        "1": ("finish", ["finished"]),
        "2": ("blocked,finish", ["finished"]),
        "3": ("agent,finish", ["finished"]),
        "4": ("crash,finish", ["crashed", "finished"]),
        "5": ("die,killed,finish", ["absent", "absent", "finished"]),
        "6": ("cut,finish", ["absent", "finished"]),
        "7": ("gone,finish", ["gone", "finished"]),
        "8": ("crash,simulator", ["crashed"] * 3),
        "9": ("die", ["absent"] * 3),
    }
    routes = write_routes(tmp_path / "r.xml", {name: how for name, (how, _) in expected.items()})
    results = tmp_path / "results"
    driven = drive(routes, results, evaluator(tmp_path), workers=3, limits=QUICK)
    assert running(tmp_path) == []
    assert left_over(results) == NOTHING_LEFT
    assert attempts(results) == {name: ends for name, (_, ends) in expected.items()}
    assert {name: status(results, name) for name in "12345678"} == {
        **dict.fromkeys("14567", "Completed"),
        "2": "Failed - Agent got blocked",
        "3": "Failed - Agent crashed",
        "8": "Failed - Agent crashed",
    }
    assert not (results / "9.json").exists()
    assert driven.unfinished == {"8": "crashed", "9": "absent"}
    assert driven.ends == {"finished": 7, "crashed": 4, "absent": 6, "gone": 1}
    assert driven.attempts == {name: len(ends) for name, (_, ends) in expected.items()}
    # What the agent saved of the attempt whose record counts.
    saved = {path.name: (path / "metric_info.json").read_text() for path in results.glob("metrics/*")}
    assert {name: saved[f"RouteScenario_{name}_rep0"].split("\n")[0] for name in "1458"} == {
        "1": "attempt 1",
        "4": "attempt 2",
        "5": "attempt 3",
        "8": "attempt 3",
    }


def test_the_same_command_drives_nothing_again_and_more_attempts_go_on(tmp_path):
    routes = write_routes(tmp_path / "r.xml", {"1": "finish", "2": "blocked", "3": "crash,die,crash,finish"})
    results, program = tmp_path / "results", evaluator(tmp_path)
    drive(routes, results, program, limits=QUICK)
    before = {name: (results / name).read_bytes() for name in ("1.json", "2.json", "3.json")}
    assert drive(routes, results, program, limits=QUICK).unfinished == {"3": "crashed"}
    assert attempts(results)["3"] == ["crashed", "absent", "crashed"]
    assert {name: (results / name).read_bytes() for name in before} == before
    more = Limits(attempts=4, stuck_after_s=60, backoff_s=0.01)
    assert drive(routes, results, program, limits=more).unfinished == {}
    assert attempts(results) == {
        "1": ["finished"],
        "2": ["finished"],
        "3": ["crashed", "absent", "crashed", "finished"],
    }


def test_without_its_log_a_folder_goes_on_and_counts_anew(tmp_path):
    routes = write_routes(tmp_path / "r.xml", {"1": "crash", "2": "finish"})
    results, program = tmp_path / "results", evaluator(tmp_path)
    drive(routes, results, program, limits=QUICK)
    (results / "attempts.jsonl").unlink()
    drive(routes, results, program, limits=QUICK)
    assert attempts(results) == {"1": ["crashed"] * 3}
    assert sorted(path.name for path in (results / "work/1").iterdir()) == ["1", "2", "3", "4", "5", "6"]


def test_what_was_driven_elsewhere_counts_and_a_damaged_file_does_not(tmp_path):
    routes = write_routes(tmp_path / "r.xml", dict.fromkeys("1234", "finish"))
    whole, results = tmp_path / "whole", tmp_path / "results"
    drive(routes, whole, evaluator(tmp_path), limits=QUICK)
    results.mkdir()
    (results / "1.json").write_bytes((whole / "1.json").read_bytes())
    (results / "2.json").write_bytes((whole / "2.json").read_bytes()[:-3])
    (results / "3.json").write_text((whole / "3.json").read_text().replace("Completed", "Started"))
    (results / "4.json").write_bytes((whole / "3.json").read_bytes())  # of another route
    drive(routes, results, evaluator(tmp_path), limits=QUICK)
    assert attempts(results) == {name: ["finished"] for name in "234"}
    assert status(results, "4") == "Completed"


def test_without_progress_an_attempt_is_ended_but_its_record_stays(tmp_path):
    routes = write_routes(tmp_path / "r.xml", {"1": "hang", "2": "hang after", "3": "slow"})
    results = tmp_path / "results"
    limits = Limits(attempts=1, stuck_after_s=3)
    driven = drive(routes, results, evaluator(tmp_path), workers=3, limits=limits)
    assert running(tmp_path) == []
    assert attempts(results) == {"1": ["stuck"], "2": ["finished"], "3": ["finished"]}
    assert driven.unfinished == {"1": "stuck"}


def test_ports_and_gpus_are_dealt_out_and_the_agent_is_told_its_server(tmp_path):
    """An evaluator whose port is taken ends without a record, here."""
    routes = write_routes(tmp_path / "r.xml", {str(name): "finish" for name in range(6)})
    results = tmp_path / "results"
    drive(routes, results, evaluator(tmp_path), workers=3, gpus=[4, 7], limits=QUICK)
    assert all(ends == ["finished"] for ends in attempts(results).values())
    began = [line for lines in attempts(results, "began").values() for line in lines]
    assert {line["gpu"] for line in began} == {4, 7}
    assert "agent tcp://127.0.0.1:1" in (results / "work/0/1/evaluator.log").read_text()


def test_an_agent_that_fails_again_and_again_stops_all(tmp_path):
    routes = write_routes(tmp_path / "r.xml", {"0": "finish", **{str(name): "agent" for name in range(1, 9)}})
    results = tmp_path / "results"
    with pytest.raises(RequestError, match="on 3 routes in a row, 1, 2, 3: ValueError: no image") as caught:
        drive(routes, results, evaluator(tmp_path), limits=QUICK)
    assert f"rm {results / '1.json'} {results / '2.json'} {results / '3.json'}" in caught.value.repair
    assert sorted(attempts(results)) == ["0", "1", "2", "3"]
    assert running(tmp_path) == []
    (results / "2.json").unlink()
    with pytest.raises(RequestError, match="on 3 routes in a row, 2, 4, 5"):
        drive(routes, results, evaluator(tmp_path), limits=QUICK)


def test_an_evaluator_that_never_works_stops_all_before_every_route_used_up_its_attempts(tmp_path):
    failing = dict.fromkeys("0123", "die,die,finish")
    routes = write_routes(tmp_path / "r.xml", failing)
    results = tmp_path / "results"
    with pytest.raises(RequestError, match="no route was driven to its end, and 0, 1, 2 failed: port"):
        drive(routes, results, evaluator(tmp_path), limits=QUICK)
    assert attempts(results) == {"0": ["absent"], "1": ["absent"], "2": ["absent"]}
    # Once one was, failures are the routes' own.
    write_routes(routes, {"9": "finish", **failing})
    assert drive(routes, results, evaluator(tmp_path), limits=QUICK).unfinished == {}


def test_the_log_says_what_failed(tmp_path):
    routes = write_routes(tmp_path / "r.xml", {"1": "agent", "2": "gone,finish", "3": "crash"})
    results = tmp_path / "results"
    told: list[str] = []

    class Told(Progress):
        def message(self, text: str) -> None:
            told.append(text)

    drive(routes, results, evaluator(tmp_path), limits=Limits(attempts=2, backoff_s=0.01), progress=Told())
    assert sorted(told) == [
        "route 1, attempt 1: Failed - Agent crashed; no further attempt; ValueError: no image",
        "route 2, attempt 1: Failed - Agent crashed; again later; "
        "teachonce_agent.ServerGone: teachonce gone: the server was started again",
        "route 3, attempt 1: Failed - Simulation crashed; again later; server is gone",
        "route 3, attempt 2: Failed - Simulation crashed; no further attempt; server is gone",
    ]


def test_an_error_of_one_worker_ends_what_the_others_drive(tmp_path):
    routes = write_routes(
        tmp_path / "r.xml", {"0": "drive on", "1": "agent", "2": "agent", "3": "agent", "4": "finish"}
    )
    results = tmp_path / "results"
    with pytest.raises(RequestError, match="in a row"):
        drive(routes, results, evaluator(tmp_path), workers=2, limits=QUICK)
    assert attempts(results)["0"] == ["interrupted"]
    assert running(tmp_path) == []


def test_results_of_other_conditions_are_refused(tmp_path):
    routes = write_routes(tmp_path / "r.xml", {"1": "finish"})
    results, program = tmp_path / "results", evaluator(tmp_path)
    drive(routes, results, program, conditions={"policy": {"student": "a"}}, limits=QUICK)
    drive(
        routes, results, program, conditions={"policy": {"student": "a"}, "simulator": "0.9.15"}, limits=QUICK
    )
    drive(routes, results, program, limits=QUICK)
    with pytest.raises(RequestError, match="policy differ") as caught:
        drive(routes, results, program, conditions={"policy": {"student": "b"}}, limits=QUICK)
    assert 'policy {"student": "a"}; it is {"student": "b"}' in caught.value.expected
    with pytest.raises(RequestError, match="simulator differ"):
        drive(routes, results, program, conditions={"simulator": "0.9.16"}, limits=QUICK)


def test_an_evaluation_may_go_on_on_another_machine_and_all_gpus_are_kept(tmp_path):
    for gpu in ("H100", "A100; H100", "L40"):
        keep_conditions(tmp_path, {"gpu": gpu, "mode": "parity"})
    keep_conditions(tmp_path, {"mode": "parity"})
    assert json.loads((tmp_path / "drive.json").read_text()) == {"gpu": "A100; H100; L40", "mode": "parity"}


def test_two_drives_of_one_folder_are_kept_apart(tmp_path):
    routes = write_routes(tmp_path / "r.xml", {"1": "finish"})
    (tmp_path / "results").mkdir()
    with hold(tmp_path / "results"), pytest.raises(DatasetError, match="another run"):
        drive(routes, tmp_path / "results", evaluator(tmp_path), limits=QUICK)


def test_a_program_that_cannot_be_started_is_the_users_error(tmp_path):
    routes = write_routes(tmp_path / "r.xml", {"1": "finish"})
    program = own_command("no-such-program {routes} {checkpoint}", agent=tmp_path, agent_config="")
    with pytest.raises(RequestError, match="no-such-program cannot be started in"):
        drive(routes, tmp_path / "results", program, limits=QUICK)


def test_a_command_has_the_places_that_an_attempt_needs(tmp_path):
    for template, message in [
        ("run {routes}", r"lacks \{checkpoint\}"),
        ("run {routes} {checkpoint} {rout}", r"names \{rout\}"),
        ("run 'unfinished", "is no command"),
    ]:
        with pytest.raises(RequestError, match=message):
            own_command(template, agent=tmp_path, agent_config="")
    assert own_command(TEMPLATE, agent=tmp_path, agent_config="").filled(
        routes="R", checkpoint="C", live="L", port=1, traffic_manager_port=2, gpu=3
    )[2:] == [
        "--routes=R",
        "--checkpoint=C",
        f"--agent={tmp_path}",
        "--agent-config=",
        "--port=1",
        "--gpu-rank=3",
    ]
    assert os.path.isabs(own_command(TEMPLATE, agent=tmp_path, agent_config="").folder)
