import json

import pytest

from student.runs.log import RunLog, read_log

LINES = [{"kind": "step", "epoch": epoch, "step": epoch} for epoch in (1, 2, 3)]


@pytest.mark.parametrize(
    "broken",
    [
        b'{"kind": "st',
        b'{"kind": "st{"kind": "step"}',
        b"\0\0\0",
        b"\xff\xfe",
        b"3}",
        b"3",
        b'{"step": 3}',
        b'{"kind": "step", "epoch": 1, "step": "x"}',
    ],
)
def test_broken_lines_are_left_out_wherever_they_are(broken, tmp_path):
    first, *others = (json.dumps(line).encode() for line in LINES)
    (tmp_path / "log.jsonl").write_bytes(b"\n".join([first, broken, *others, broken]))
    assert read_log(tmp_path) == LINES


def test_lines_that_will_be_written_again_go(tmp_path):
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, LINES)) + '\n{"kind": "ep')
    with RunLog(tmp_path, done=2) as run:
        run.write({"kind": "epoch", "epoch": 3, "step": 3})
    assert read_log(tmp_path) == [*LINES[:2], {"kind": "epoch", "epoch": 3, "step": 3}]


def test_a_run_without_a_log_has_no_lines(tmp_path):
    assert read_log(tmp_path) == []
