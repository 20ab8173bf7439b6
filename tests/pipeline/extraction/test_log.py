"""Logs of extractions, also those that an earlier version wrote."""

import json

import pytest

from cache_schema.errors import DatasetError
from pipeline.extraction.log import RunLog, summarise

CLIP = {
    "kind": "clip",
    "clip": "a",
    "frames": 10,
    "wall_s": 4.0,
    "teacher_s": 2.5,
    "disk_s": 0.5,
    "retries": 1,
}
OLD = CLIP | {"worker": "w:1", "images_s": 1.0, "frames_a_second": 2.5}
NEW = CLIP | {"worker": "w:2", "inputs_s": 1.0, "frames_per_second": 5.0, "clip": "b"}


def test_logs_of_two_versions_are_summed(tmp_path):
    path = tmp_path / "x.zarr.log.jsonl"
    lines = [
        {"kind": "begin"},
        OLD,
        {"kind": "begin"},
        NEW,
        {"kind": "failure", "clip": "c", "reason": "torn"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "cl')
    summary = summarise(path)
    assert (summary.runs, summary.clips, summary.frames, summary.retries) == (2, 2, 20, 2)
    assert (summary.inputs_s, summary.teacher_s, summary.disk_s) == pytest.approx((2.0, 5.0, 1.0))
    assert summary.slowest == (("a", 2.5), ("b", 5.0))
    assert summary.failures == {"c": "torn"}


def test_a_disk_that_refuses_the_log_is_a_clear_error(tmp_path):
    path = tmp_path / "x.zarr.log.jsonl"
    path.symlink_to("/dev/full")  # refuses every write as a full disk or a quota does
    with (
        pytest.raises(DatasetError, match=r"refuses: .*No space left(.|\n)*committed clips are safe"),
        RunLog(path) as log,
    ):
        log.begin(workers=1, slots=1, clips=1)
