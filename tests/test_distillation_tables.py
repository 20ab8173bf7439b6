"""The benchmark of distillation: its arithmetic against numbers by hand, and all of it on two clips."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.distillation_tables import (
    BOTH,
    MIMIC,
    TRAJECTORY,
    Row,
    as_markdown,
    compare,
    document,
    over_seeds,
    sentence,
    verdict,
)
from benchmarks.record import RESULTS
from cache_schema.dataset.reader import LatentDataset
from tests.paths import ROOT

CLIP_OF = np.array([0, 1, 1, 1])
"""One frame of a clip, three of another."""


def test_a_row_is_the_mean_over_seeds_and_frames_with_the_clips_it_might_have_been():
    errors = np.array([[1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 6.0]])
    row = compare("student", errors, CLIP_OF, clips=6)
    assert row.seeds == [2.5, 4.5]
    assert row.l2_m == pytest.approx(3.5)
    # Of two clips, one resample in four is twice the one, and one in four twice the other.
    assert row.interval == pytest.approx((2.0, 4.0))
    assert row[5:] == (None, None, None, None)


def test_a_difference_is_paired_so_that_clips_that_are_hard_for_both_do_not_hide_it():
    own = np.array([[1.0, 9.0, 9.0, 9.0], [1.0, 11.0, 11.0, 11.0], [4.0, 10.0, 10.0, 10.0]])
    other = np.array([[3.0, 12.0, 12.0, 12.0], [3.0, 10.0, 11.0, 12.0], [3.0, 11.0, 11.0, 11.0]])
    row = compare("both", own, CLIP_OF, clips=6, against=("trajectory", other))
    assert row.interval == pytest.approx((2.0, 10.0))
    # Clip by clip: 2 instead of 3, and 10 instead of 34/3, 11 and 11 and 35/3 being its frames.
    assert row.difference_m == pytest.approx(((2 - 3) + (30 - 34)) / 4)
    assert row.over_clips == pytest.approx((-4 / 3, -1.0))
    # 7, 8.5 and 8.5 less 9.75, 9 and 9; the quantile of two degrees of freedom is 4.3027.
    assert row.over_seeds == pytest.approx((-1.25 - 4.3027 * 0.75, -1.25 + 4.3027 * 0.75), rel=1e-4)


def test_an_interval_over_seeds_is_students():
    # Mean -3, standard deviation the root of 2.5, quantile of four degrees of freedom 2.7764.
    assert over_seeds(np.array([-1.0, -2, -3, -4, -5])) == pytest.approx((-4.9632, -1.0368), abs=1e-4)
    assert over_seeds(np.array([-1.0])) is None


def test_one_clip_has_no_interval():
    errors = np.array([[1.0, 3.0]])
    row = compare("student", errors, np.array([5, 5]), clips=1, against=("other", errors + 1))
    assert (row.l2_m, row.interval, row.difference_m, row.over_clips) == (2, None, -1, None)


@pytest.mark.parametrize(
    ("over_clips", "over_seeds", "expected"),
    [
        ((-2.0, -1.0), (-3.0, -0.5), "helps"),
        ((1.0, 2.0), (0.5, 3.0), "hurts"),
        ((-1.0, 1.0), (-2.0, -1.0), "shows no difference"),
        ((-2.0, -1.0), (-3.0, 0.5), "shows no difference"),
        ((1.0, 2.0), (-0.5, 3.0), "shows no difference"),
        ((-2.0, -1.0), (1.0, 2.0), "shows no difference"),
        ((-1.0, 0.0), (-2.0, -1.0), "shows no difference"),
        ((0.0, 1.0), (1.0, 2.0), "shows no difference"),
        (None, (-2.0, -1.0), "is measured too little to tell"),
        ((-2.0, -1.0), None, "is measured too little to tell"),
    ],
)
def test_a_difference_is_one_where_both_intervals_exclude_zero(over_clips, over_seeds, expected: str):
    row = Row(BOTH, 6, [1.0], 1.0, None, TRAJECTORY, -1.0, over_clips, over_seeds)
    assert verdict(row) == expected


ROWS = [
    Row("teacher", None, [0.5], 0.5, (0.4, 0.6)),
    Row(TRAJECTORY, 6, [1.9, 2.1], 2.0, (1.5, 2.5)),
    Row(BOTH, 6, [1.4, 1.6], 1.5, (1.0, 2.0), TRAJECTORY, -0.5, (-0.75, -0.25), (-0.6, -0.4)),
    Row(MIMIC, 6, [3.0, 3.0], 3.0, (2.0, 4.0), TRAJECTORY, 1.0, (0.5, 1.5), (0.25, 1.75)),
    Row(BOTH, 96, [1.0, 1.2], 1.1, (0.5, 1.5), TRAJECTORY, 0.1, (-0.1, 0.25), (0.05, 0.15)),
]


def test_a_sentence_says_at_which_size_it_helps_and_by_how_much():
    assert sentence(ROWS, BOTH) == (
        "Imitating the teacher besides learning the trajectory helps with 6 clips to learn from (1.500 m "
        "instead of 2.000 m: -0.500 m or -25%, 95 % -0.750 to -0.250 over clips, 95 % -0.600 to -0.400 over "
        "seeds) and shows no difference with 96 clips to learn from (1.100 m instead of 1.000 m: +0.100 m or "
        "+10%, 95 % -0.100 to +0.250 over clips, 95 % +0.050 to +0.150 over seeds)."
    )
    assert sentence(ROWS, MIMIC) == (
        "Imitating the teacher in place of learning the trajectory hurts with 6 clips to learn from (3.000 m "
        "instead of 2.000 m: +1.000 m or +50%, 95 % +0.500 to +1.500 over clips, 95 % +0.250 to +1.750 over "
        "seeds)."
    )


def test_a_table_in_markdown_has_every_row():
    heading, _, *lines = as_markdown("Title", ROWS[:3]).splitlines()[2:]
    assert heading.count("|") == 11
    assert lines == [
        "| teacher |  |  | 0.500 | 0.400 to 0.600 |  |  |  |  |  |",
        "| trajectory | 6 | 2 | 2.000 | 1.500 to 2.500 | 1.900 to 2.100 |  |  |  |  |",
        "| both | 6 | 2 | 1.500 | 1.000 to 2.000 | 1.400 to 1.600 | trajectory | -0.500 | -0.750 to -0.250 "
        "| -0.600 to -0.400 |",
    ]


@pytest.mark.parametrize("file", sorted(RESULTS.glob("distillation-*.json")), ids=lambda file: file.name)
def test_the_documented_tables_are_those_of_the_record(file: Path):
    assert file.with_suffix(".md").read_text() == document(json.loads(file.read_text()))


@pytest.mark.soak
def test_all_of_it_runs_small(tmp_path: Path):
    out, folder = tmp_path / "out.json", tmp_path / "kept"
    sizes = ("--size", "1", "--size", "2", "--frames", "42")
    lengths = (
        "--steps",
        "3",
        "--seeds",
        "2",
        "--planner-steps",
        "2",
        "--planner-seeds",
        "1",
        "--workers",
        "1",
    )
    command = [sys.executable, "-m", "benchmarks.distillation", *sizes, *lengths]
    done = subprocess.run(
        [*command, "--folder", folder, "--out", out], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    held = json.loads(out.read_text())
    rows = [row for table in held["tables"].values() for row in table]
    assert [(row["name"], row["clips"]) for row in rows] == [
        ("teacher", None),
        ("constant velocity", None),
        ("stand still", None),
        *((name, size) for name in ("trajectory", "mimic", "both") for size in (1, 2)),
        ("nf4 teacher", None),
        ("both, int8 queries", 2),
        ("both, nf4 teacher", 2),
        ("latent-transfuser", 2),
        ("latentvla-distilled", 2),
        *((f"{name}, twice the steps", size) for name in ("trajectory", "mimic", "both") for size in (1, 2)),
    ]
    assert out.with_suffix(".md").read_text() == document(held)
    assert sum(map(len, held["students"].values())) == sum(len(row["seeds"]) for row in rows if row["clips"])

    # What a row tells of a student, and of the teacher, is what its evaluation found.
    evaluated = json.loads((folder / "runs" / "both-2-1" / "evaluation.json").read_text())["l2_m"]
    found = {name: masks["complete"]["up_to_3s"] for name, masks in evaluated.items()}
    both = next(row for row in rows if row["name"] == "both" and row["clips"] == 2)
    assert both["seeds"][1] == pytest.approx(found["student"])
    assert rows[0]["l2_m"] == pytest.approx(found["teacher"])
    assert rows[1]["l2_m"] == pytest.approx(found["constant_velocity"])

    # Sets are nested and hold no held-out clip; only the queries are stored in other bits.
    one, two, out_of_sight = (LatentDataset.open(folder / f"fp16-{part}.zarr") for part in (1, 2, "held-out"))
    assert len(one.clips) == 1
    assert len(two.clips) == 2
    assert set(one.clips) < set(two.clips)
    assert not set(two.clips) & set(out_of_sight.clips)
    small = LatentDataset.open(folder / "int8-queries-2.zarr")
    assert small.clips == two.clips
    assert {spec.name for spec in small.manifest.features if spec.encoding == "int8-per-channel"} == {
        "scene_queries"
    }
    assert LatentDataset.open(folder / "nf4-teacher-2.zarr").manifest.teacher.quantization == "nf4"
