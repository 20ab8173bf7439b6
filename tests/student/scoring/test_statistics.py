import json
import math

import numpy as np
import pytest

from student.scoring.comparison import Paired, compare
from student.scoring.score import score
from student.scoring.statistics import mcnemar, over_routes, over_scenarios, wilson
from tests.paths import GOLDEN
from tests.student.scoring.drives import checkpoint, record, routes_file

SCORING = GOLDEN / "closed_loop" / "scoring"
RECORDED = json.loads((SCORING / "statistics.json").read_text())


@pytest.mark.parametrize("folder", RECORDED["single"])
def test_intervals_of_one_evaluation(folder):
    recorded = RECORDED["single"][folder]
    found = score(SCORING / folder)
    driving = found.driving_score
    assert driving.value == pytest.approx(recorded["ds_220"], abs=1e-9)
    assert driving.standard_deviation == pytest.approx(recorded["sd_over_routes"])
    assert driving.standard_error == pytest.approx(recorded["se"])
    assert driving.interval_routes == pytest.approx(recorded["ds_ci_routes"], abs=1e-9)
    assert driving.interval_scenarios == pytest.approx(recorded["ds_ci_scenario_clusters"], abs=1e-9)
    assert found.success.value == pytest.approx(recorded["sr_220"])
    assert found.success.interval_routes == pytest.approx(recorded["sr_wilson"])


@pytest.mark.parametrize("pair", RECORDED["pair"])
def test_intervals_of_a_difference(pair):
    first, second = (score(SCORING / folder) for folder in pair.split(" - "))
    found = compare(first, second)
    assert found.common is not None
    for paired, name in ((found.official, "all_220_missing_zero"), (found.common, "common_only")):
        recorded = RECORDED["pair"][pair][name]
        for key, value in named_as_recorded(paired).items():
            assert value == pytest.approx(recorded[key], rel=1e-9), key
    for interval in ("ci_paired_routes", "ci_paired_scenario_clusters"):
        low, high = RECORDED["pair"][pair]["all_220_missing_zero"][interval]
        if low <= 0 <= high:
            assert "not distinguishable in one run" in found.verdict
    assert compare(second, first).official.difference == pytest.approx(-found.official.difference)


def named_as_recorded(paired: Paired):
    """Every number under its recorded name."""
    return {
        "n": paired.routes,
        "mean_a": paired.first,
        "mean_b": paired.second,
        "difference": paired.difference,
        "sd_difference": paired.standard_deviation,
        "se_difference": paired.standard_error,
        "ci_paired_routes": paired.interval_routes,
        "ci_paired_scenario_clusters": paired.interval_scenarios,
        "routes_differing": paired.routes_differing,
        "success_only_a": paired.success_only_first,
        "success_only_b": paired.success_only_second,
        "success_both": paired.success_both,
        "mcnemar_exact_p": paired.mcnemar_p,
        "sr_difference": paired.success_difference,
    }


@pytest.mark.parametrize("counts", RECORDED["mcnemar"])
def test_mcnemar(counts):
    p = mcnemar(*map(int, counts.split(",")))
    assert p == pytest.approx(RECORDED["mcnemar"][counts], rel=1e-12)


def test_mcnemar_of_more_pairs_than_a_float_counts():
    assert mcnemar(5000, 5000) == 1.0
    assert 0 < mcnemar(2300, 2500) < 0.01


@pytest.mark.parametrize("share", RECORDED["wilson"])
def test_wilson(share):
    well, of = map(int, share.split("/"))
    assert wilson(well / of, of) == pytest.approx(RECORDED["wilson"][share], abs=1e-12)


def test_an_interval_over_types_draws_whole_types():
    """Two types whose routes are alike: a resample holds one of them, or both."""
    values, scenarios = np.array([0.0, 0, 0, 100, 100, 100]), list("aaabbb")
    assert over_scenarios(values, scenarios) == (0.0, 100.0)
    low, high = over_routes(values) or (math.nan, math.nan)
    assert 0 < low < 50 < high < 100


def test_one_route_has_no_interval():
    assert over_routes(np.array([3.0])) is None
    assert over_scenarios(np.array([3.0, 4.0]), ["a", "a"]) is None


def test_what_one_scenario_type_alone_makes_better_is_not_distinguishable(tmp_path):
    """Ten routes of one type gain, ten of another do not: drawn whole, the other type may be all there is."""
    routes = [(str(number), "Town01", "Accident" if number < 10 else "InvadingTurn") for number in range(20)]
    listed = str(routes_file(tmp_path / "routes.xml", *routes))
    scores = {"worse": (50.0, 50.0), "better": (60.0, 50.0), "best": (60.0, 60.0)}
    found = {}
    for name, (accident, other) in scores.items():
        records = [
            record(*(route, kind, town), score=accident if kind == "Accident" else other)
            for route, town, kind in routes
        ]
        found[name] = score(checkpoint(tmp_path / f"{name}.json", *records), listed)
    one_type = compare(found["better"], found["worse"])
    assert one_type.official.interval_routes is not None
    assert one_type.official.interval_routes[0] > 0
    assert one_type.official.interval_scenarios == (0.0, 10.0)
    assert "not distinguishable in one run" in one_type.verdict
    assert compare(found["best"], found["worse"]).verdict.startswith("The first has the higher driving score")
    assert compare(found["worse"], found["best"]).verdict.startswith("The second has the higher")


def test_one_scenario_type_is_compared_over_routes_and_one_route_not_at_all(tmp_path):
    for count, verdict in ((6, "The first has the higher"), (1, "one route has no interval")):
        routes = [(str(number), "Town01", "Accident") for number in range(count)]
        listed = str(routes_file(tmp_path / "routes.xml", *routes))
        first, second = (
            score(
                checkpoint(
                    tmp_path / "one.json",
                    *(record(route, kind, town, score=value) for route, town, kind in routes),
                ),
                listed,
            )
            for value in (90.0, 80.0)
        )
        found = compare(first, second)
        assert found.official.interval_scenarios is None
        assert verdict in found.verdict
