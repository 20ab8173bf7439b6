"""Lists of routes, folders that are not what they should be, and what is told of an evaluation."""

import json
from collections import Counter

import pytest
from typer.testing import CliRunner

from cache_schema.errors import RequestError
from cli import app
from student.scoring.abilities import ABILITIES, abilities, read_junctions
from student.scoring.comparison import compare
from student.scoring.records import Drive, read_results
from student.scoring.routes import route_list
from student.scoring.score import score
from tests.paths import GOLDEN
from tests.student.scoring.drives import checkpoint, record, routes_file

SCORING = GOLDEN / "closed_loop" / "scoring"
PUBLISHED = json.loads((SCORING / "published_files_numbers.json").read_text())
FACTS = json.loads((SCORING / "route_facts.json").read_text())


@pytest.fixture
def four_routes(tmp_path):
    """The file of a list with routes 1 to 4."""
    kinds = ["Accident", "Accident", "InvadingTurn", "T_Junction"]
    routes = [(str(number), "Town01", kind) for number, kind in enumerate(kinds, 1)]
    return str(routes_file(tmp_path / "four.xml", *routes))


def test_the_lists_of_routes_are_bench2drives():
    for ours, theirs in (
        ("bench2drive220", "bench2drive220"),
        ("bench2drive-0.0.4", "bench2drive_0.0.4_val"),
    ):
        assert [list(route) for route in route_list(ours).routes] == FACTS[theirs]
    assert [route.id for route in route_list("dev10").routes] == FACTS["dev10"]
    kinds = Counter(route.scenario for route in route_list().routes)
    assert set(kinds.values()) == {5}
    assert len(kinds) == 44
    counts = {name: sum(kinds[kind] for kind in of) for name, of in ABILITIES.items()}
    assert list(counts.values()) == [45, 80, 60, 10, 95]
    assert set().union(*ABILITIES.values()) <= set(kinds)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<routes>", "no element found"),
        ("<routes/>", "no element <route>"),
        ('<routes><route id="1" town="Town01"/></routes>', "lacks its id"),
        (
            "<routes>"
            + '<route id="1" town="T"><scenarios><scenario type="A"/></scenarios></route>' * 2
            + "</routes>",
            "stands in it twice",
        ),
    ],
)
def test_a_file_that_lists_no_routes_is_refused(tmp_path, content, message):
    (tmp_path / "routes.xml").write_text(content)
    with pytest.raises(RequestError, match=message):
        route_list(str(tmp_path / "routes.xml"))


def test_missing_routes_count_0_and_are_listed(tmp_path, four_routes):
    checkpoint(
        tmp_path / "1.json",
        record("1", "Accident", "Town01", score=80.0, collisions_vehicle=["x"]),
        record("3", "InvadingTurn", "Town01", score=100.0, status="Perfect"),
    )
    found = score(tmp_path, four_routes)
    assert (found.driving_score.value, found.driving_score.present) == (45.0, 90.0)
    assert (found.success.value, found.success.present) == (0.25, 0.5)
    assert found.missing == ("2", "4")
    assert [(one.scenario, one.routes, one.driving_score) for one in found.scenarios] == [
        ("Accident", 2, 40.0),
        ("InvadingTurn", 1, 100.0),
        ("T_Junction", 1, 0.0),
    ]


def test_repetitions_are_averaged_for_each_route_and_absent_ones_count_0(tmp_path, four_routes):
    drives = [("1", 0, 100.0), ("1", 1, 50.0), ("2", 0, 100.0), ("3", 1, 20.0)]
    kinds = {"1": "Accident", "2": "Accident", "3": "InvadingTurn"}
    records = [
        record(name, kinds[name], "Town01", repetition=number, score=value) for name, number, value in drives
    ]
    checkpoint(tmp_path / "all.json", *records)
    found = score(tmp_path, four_routes)
    assert found.repetitions == 2
    assert [row.driving_score for row in found.routes] == [75.0, 50.0, 10.0, 0.0]
    assert found.driving_score.value == 33.75
    assert found.driving_score.present == 67.5
    # Repetitions score 50 and 17.5: their mean has a standard error of half their difference.
    assert found.driving_score.standard_error_repetitions == pytest.approx(16.25)
    assert "2, repetition 1" in found.missing
    again = compare(found, found)
    assert again.official.mcnemar_p is None
    assert "not distinguishable in 2 runs" in again.verdict


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"town_name": "Town02"}, "in Town02 by its record, and Accident in Town01"),
        ({"scenario_name": "T_Junction_1"}, "T_Junction in Town01 by its record"),
        ({"route_id": "1"}, "String should match"),
        ({"save_name": "../x"}, "String should match"),
        ({"scores": {"score_route": 100, "score_composed": float("nan")}}, "finite"),
        ({"scores": {"score_route": 100, "score_composed": 101}}, "less than or equal to 100"),
        ({"status": None}, "valid string"),
    ],
)
def test_records_that_cannot_be_right_are_refused(tmp_path, four_routes, changed, message):
    checkpoint(tmp_path / "1.json", record("1", "Accident", "Town01") | changed)
    with pytest.raises(RequestError, match=message):
        score(tmp_path, four_routes)


def test_results_of_other_routes_are_refused_and_extra_ones_listed(tmp_path, four_routes):
    checkpoint(tmp_path / "1.json", record("9", "Accident", "Town01"))
    with pytest.raises(RequestError, match="none of the 1 drives is on a route of"):
        score(tmp_path, four_routes)
    checkpoint(tmp_path / "2.json", record("1", "Accident", "Town01"))
    found = score(tmp_path, four_routes)
    assert (found.outside, found.drives) == (("9",), 1)


def test_an_evaluation_without_any_record_scores_0(tmp_path, four_routes):
    checkpoint(tmp_path / "1.json")
    found = score(tmp_path, four_routes)
    assert (found.driving_score.value, found.driving_score.present, len(found.missing)) == (0.0, None, 4)


@pytest.mark.parametrize("content", ["[]", "{}", '{"_checkpoint": 1}', '{"Overtaking": 0.5}'])
def test_a_folder_without_results_is_refused(tmp_path, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(RequestError, match="holds no results"):
        read_results(tmp_path)
    with pytest.raises(RequestError, match="does not exist"):
        read_results(tmp_path / "missing")


def test_a_rehearsal_is_named_and_never_compared_with_the_simulator(tmp_path, four_routes):
    toy, real, mixed = (tmp_path / name for name in ("toy", "real", "mixed"))
    for folder in (toy, real, mixed):
        folder.mkdir()
    for folder in (toy, mixed):
        checkpoint(folder / "1.json", record("1", "Accident", "Town01"), rehearsal="toy")
    for folder in (real, mixed):
        checkpoint(folder / "2.json", record("2", "Accident", "Town01"))
    scored = score(toy, four_routes)
    assert next(scored.notes()).startswith("A rehearsal (toy), and no score of Bench2Drive")
    with pytest.raises(RequestError, match="one of two evaluations is a rehearsal"):
        compare(scored, score(real, four_routes))
    with pytest.raises(RequestError, match="are of a rehearsal, others are not"):
        score(mixed, four_routes)


def test_conditions_are_told_and_what_is_not_recorded(tmp_path, four_routes):
    checkpoint(tmp_path / "1.json", record("1", "Accident", "Town01"))
    (tmp_path / "drive.json").write_text(
        json.dumps({"mode": "corrected", "identity": {"student": "abc"}, "cameras": []})
    )
    events = [("began", "1"), ("ended", "1"), ("began", "1"), ("run", None), ("began", "2")]
    lines = [json.dumps({"event": event, "route": route}) for event, route in events]
    (tmp_path / "attempts.jsonl").write_text("\n".join([*lines, '{"event": "beg']))
    found = score(tmp_path, four_routes)
    assert (found.conditions.attempts, found.conditions.repeated) == (3, {"1": 2})
    assert found.not_read == ()
    (told,) = (note for note in found.notes() if note.startswith("Driven with"))
    for part in ("runs 1", "attempts 3", "mode corrected", "gpu not recorded", "abc", "1, 2 times"):
        assert part in told


def test_motion_lies_where_a_drive_puts_it(tmp_path, four_routes):
    one = record("1", "Accident", "Town01")
    checkpoint(tmp_path / "1.json", one, record("2", "Accident", "Town01"))
    folder = tmp_path / "metrics" / one["save_name"]
    folder.mkdir(parents=True)
    still = {key: [0, 0, 0] for key in ("acceleration", "angular_velocity", "forward_vector", "right_vector")}
    (folder / "metric_info.json").write_text(json.dumps({str(step): still for step in range(20)}))
    found = score(tmp_path, four_routes).smoothness
    assert found is not None
    assert (found.value, found.drives, found.without_motion) == (1.0, 1, ("RouteScenario_2_rep0",))
    with pytest.raises(RequestError, match="holds the motion of none of the 2 drives"):
        score(tmp_path, four_routes, metrics=tmp_path / "elsewhere")


def drive(route, scenario, **told):
    return Drive.model_validate(record(route, scenario, "Town01", **told))


@pytest.mark.parametrize(
    ("told", "passed"),
    [
        ({"completion": 50.0}, False),  # past it, not at it
        ({"completion": 50.01}, True),
        ({"completion": 90.0, "red_light": ["x"]}, False),
        ({"completion": 90.0, "stop_infraction": ["x"]}, False),
        ({"completion": 90.0, "collisions_vehicle": ["x"]}, True),
    ],
)
def test_a_drive_passes_its_junction(told, passed):
    failed = drive("1", "T_Junction", status="Failed - TickRuntime", **told)
    found = abilities([failed], {"1": "T_Junction"}, {"1": 0.5})
    assert found.versions["0.0.3"].traffic_signs.well == int(passed)
    assert found.versions["0.0.4"].traffic_signs.well == int(passed)


def test_a_table_of_junctions_holds_fractions_for_every_route(tmp_path):
    table = tmp_path / "junctions.json"
    table.write_text('{"1": 0.5, "2": {"fraction": 0.25, "points": 8}}')
    assert read_junctions(table) == {"1": 0.5, "2": 0.25}
    with pytest.raises(RequestError, match="lacks 1 routes, such as 3"):
        abilities([drive("3", "T_Junction")], {"3": "T_Junction"}, read_junctions(table))
    table.write_text('{"1": "far"}')
    with pytest.raises(RequestError, match="cannot be read"):
        read_junctions(table)


ONE_ABILITY = {
    "Overtaking": "Accident",
    "Merging": "ParkingExit",
    "Emergency_Brake": "HardBreakRoute",
    "Give_Way": "InvadingTurn",
    "Traffic_Signs": "T_Junction",
}
"""A scenario type that asks for this ability alone."""


@pytest.mark.parametrize("name", [name for name, of in PUBLISHED.items() if "published" in of])
def test_published_abilities(name):
    """The counts of a published evaluation give its published numbers, by the rule of version 0.0.3."""
    of = PUBLISHED[name]
    passed, signs = of["traffic_signs_passed_implied"]
    drives, scenario_of, junctions = [], {}, {}
    for ability, (well, count) in of["ability_direct"].items():
        for number in range(count):
            route = f"{ability.replace('_', '')}{number}"
            scenario_of[route], junctions[route] = ONE_ABILITY[ability], 0.5
            status = "Completed" if number < well else "Failed - TickRuntime"
            past = ability != "Traffic_Signs" or number < passed
            drives.append(drive(route, scenario_of[route], status=status, completion=90.0 if past else 10.0))
    assert signs == of["ability_direct"]["Traffic_Signs"][1]
    found = abilities(drives, scenario_of, junctions).versions["0.0.3"]
    published = of["published"]
    mean = published["mean"] / 100 if published["mean"] > 1 else published["mean"]
    assert found.traffic_signs.share == pytest.approx(published["Traffic_Signs"], abs=5e-5)
    assert found.mean == pytest.approx(mean, abs=5e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_driving_scores(name, tmp_path):
    """Records with the sum and the successes of a published evaluation give its score and its success."""
    of = PUBLISHED[name]
    driven = [route for route in route_list().routes if route.id not in of["missing_routes"]]
    records = [
        record(
            *(route.id, route.scenario, route.town),
            score=of["sum_composed"] / of["records"],
            status="Completed" if number < of["successes"] else "Failed - TickRuntime",
        )
        for number, route in enumerate(driven)
    ]
    assert len(records) == of["records"]
    found = score(checkpoint(tmp_path / "published.json", *records))
    assert found.driving_score.value == pytest.approx(of["driving_score_220"], abs=1e-9)
    assert found.driving_score.present == pytest.approx(of["driving_score_present"], abs=1e-9)
    assert found.success.value == pytest.approx(of["success_rate_220"])
    assert found.success.present == pytest.approx(of["success_rate_present"])
    assert set(found.missing) == set(of["missing_routes"])


def run(*arguments):
    return CliRunner().invoke(app, ["score", *map(str, arguments)], env={"COLUMNS": "160"})


def test_the_command_compares_and_writes_a_page_that_needs_nothing_else(tmp_path):
    real, other = SCORING / "real_tfv6_mit", SCORING / "complete_4_workers"
    page = tmp_path / "page.html"
    done = run(real, "--against", other, "--junctions", SCORING / "junctions_synthetic.json", "--out", page)
    assert done.exit_code == 0, done.output
    assert "The first has the higher driving score in one run" in done.output
    shown = page.read_text()
    assert "VanillaSignalizedTurnEncounterRedLight (5)" in shown
    assert not any(outside in shown for outside in ("http://", "https://", "<script"))
    twice = run(real, "--out", page)
    assert twice.exit_code == 0  # a page of ours is replaced
    page.write_text("mine")
    assert run(real, "--out", page).exit_code == 2
    assert page.read_text() == "mine"


def test_the_command_for_programs():
    done = run(SCORING / "real_tfv6_mit", "--json")
    assert (
        json.loads(done.stdout)["driving_score"]["value"]
        == score(SCORING / "real_tfv6_mit").driving_score.value
    )
    same = run(SCORING / "real_tfv6_mit", "--against", SCORING / "real_tfv6_mit", "--json")
    found = json.loads(same.stdout)
    assert found["official"]["difference"] == 0
    assert "not distinguishable in one run" in found["verdict"]


def test_the_command_names_a_damaged_file_and_exits_with_2():
    done = run(SCORING / "truncated_file")
    assert done.exit_code == 2
    assert "no whole JSON" in done.stderr
    assert "to do:" in done.stderr
