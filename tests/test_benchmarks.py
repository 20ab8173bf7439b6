"""Benchmarks lose no number: each is printed and on the disk before the next is measured."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, internvl3, latency, latent_actions, record
from benchmarks.record import Record
from tests.paths import ROOT


def test_every_number_is_in_the_file_and_printed_before_the_next(tmp_path: Path, capsys):
    results = Record("speed", tmp_path / "new" / "out.json", sizes={"width": 3})

    def held() -> dict:
        return json.loads((tmp_path / "new" / "out.json").read_text())

    assert held()["sizes"] == {"width": 3}
    results.add("rows", "ours", value=1.5, line="ours 1.5")
    assert held()["rows"] == {"ours": [1.5]}
    assert "ours 1.5\n" in capsys.readouterr().out
    results.add("rows", "ours", value=[2, 3])
    results.add("rows", "theirs", value=None)
    results.set("memory", value=7)
    assert held()["rows"] == {"ours": [1.5, [2, 3]], "theirs": [None]}
    assert held()["memory"] == 7
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.json"]


def test_a_number_that_json_does_not_hold_leaves_the_file_whole(tmp_path: Path):
    results = Record("speed", tmp_path / "out.json")
    results.add("rows", value=1)
    with pytest.raises(TypeError, match="JSON"):
        results.add("rows", value=object())
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == [1]


def test_a_machine_without_a_library_gets_its_results(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(record, "LIBRARIES", ("torch", "no-such-library"))
    Record("speed", tmp_path / "out.json").set("rows", value=[1])
    held = json.loads((tmp_path / "out.json").read_text())
    assert held["rows"] == [1]
    assert held["libraries"]["no-such-library"] is None
    assert held["libraries"]["torch"]


def test_a_place_that_cannot_be_written_is_known_before_anything_is_measured(tmp_path: Path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match="taken"):
        Record("speed", tmp_path / "taken" / "out.json")


def test_a_record_needs_no_more_than_torch():
    """So that a machine that is not set up for the project writes results, too."""
    code = (
        "import sys; import benchmarks.record\n"
        "sys.exit(str({'zarr', 'rich', 'typer', 'pydantic', 'distributed', 'PIL'} & {*sys.modules} or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "", done.stderr


def test_a_quick_run_replaces_no_record(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    assert Record("speed").path != Record("speed", quick=True).path


def test_latency_names_what_the_limit_left_out(tmp_path: Path):
    latency.main(["fp32"], 0.01, 1, 1, 0, tiny=True, out=tmp_path / "none.json")
    none = json.loads((tmp_path / "none.json").read_text())
    assert none["left out"] == ["fp32"]
    assert "rows" not in none
    timer = latency.Timer("cpu", 1, 1, 1, 0, Record("latency", tmp_path / "late.json"), ends=0)
    assert timer.row("fp16", "whole frame", "student", lambda: torch.zeros(1), 0) == []
    assert json.loads((tmp_path / "late.json").read_text())["left out"] == ["fp16, whole frame, student"]


@pytest.mark.parametrize(
    ("benchmark", "options", "rows"),
    [
        ("scale", ("--clips", "8", "--repeats", "1"), 7),
        ("scaling", ("--workers", "1", "--clips", "1", "--frames", "2", "--step-s", "0.1"), 1),
    ],
)
def test_a_benchmark_prints_each_row_that_it_writes(tmp_path: Path, benchmark: str, options, rows: int):
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", *options, "--out", out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    held = json.loads(out.read_text())
    measured = held["runs"] if benchmark == "scaling" else held["seconds and MiB"]
    assert len(measured) == rows
    begun = [line for line in done.stdout.splitlines() if re.match(r" *[0-9.]+ s  ", line)]
    assert len(begun) >= rows


def test_a_teacher_of_latent_actions_is_measured_small_on_a_cpu(tmp_path: Path):
    out = tmp_path / "out.json"
    latent_actions.main(slots=[2], precision=["fp32", "bf16"], repeats=1, dry=True, out=out)
    held = json.loads(out.read_text())
    assert [(row["precision"], row["slots"]) for row in held["rows"]] == [("fp32", 2), ("bf16", 2)]
    assert all(row["same bits twice"] and row["frames/s"] > 0 for row in held["rows"])
    assert held["error"]["fp32"] == {"code_logits": 0, "vis_pooled": 0}
    assert 0 < held["error"]["bf16"]["vis_pooled"] < 2**-4


def test_a_teacher_of_attention_and_its_student_are_measured_small_on_a_cpu(tmp_path: Path):
    out = tmp_path / "out.json"
    internvl3.main(repeats=1, dry=True, out=out)
    held = json.loads(out.read_text())
    assert [row["views"] for row in held["teacher"]] == [1, 6]
    assert held["teacher"][1]["tokens"] > held["teacher"][0]["tokens"]
    assert held["student"]["samples/s"] > 0


def test_what_a_gpu_shows_is_shown_small_on_a_cpu(tmp_path: Path, capfd):
    """Every phase runs to its end, and every number is in the file."""
    out = tmp_path / "gpu.json"
    gpu.main(dry=True, out=out)
    held = json.loads(out.read_text())
    assert {"ceilings", "products TFLOP/s", "parity", "tiny dataset", "teacher"} <= held.keys()
    assert {"extraction", "training", "latency"} <= held.keys()
    assert not {"failed", "left out"} & held.keys()
    assert held["tiny dataset"]["two runs have the same digests"] is True
    assert held["teacher"]["fp16 x 8, all"]["same bits twice"] is True
    assert held["parity"]["fp32"]["beyond tolerance"] == 0
    rows = held["latency"]["rows"]
    assert sorted((row["part"], row["driver"]) for row in rows) == [
        ("replaced part", "student"),
        ("replaced part", "student, one by one"),
        ("replaced part", "teacher"),
        ("replaced part", "teacher, reference"),
        ("vision stack", "both"),
        ("whole frame", "student"),
        ("whole frame", "teacher"),
    ]
    printed = capfd.readouterr().out
    assert all(f"fp32, {row['part']}, {row['driver']}: p50 " in printed for row in rows)


def test_what_a_machine_may_lack_is_listed(capsys):
    gpu.main(wheels=True)
    listed = capsys.readouterr().out.split()
    assert {line.partition("==")[0] for line in listed} >= {"zarr", "numcodecs", "pydantic"}
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.a-z]+", line) for line in listed)
