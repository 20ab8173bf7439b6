import io
import json

from rich.console import Console

from student import log
from student.log import RunLog, read_log


def test_lines_of_interrupted_epochs_and_half_lines_go(tmp_path):
    lines = [{"kind": "step", "epoch": epoch, "step": epoch} for epoch in (1, 2, 3)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "ep')
    assert read_log(tmp_path) == lines
    with RunLog(tmp_path, done=2, steps=1, console=Console(file=io.StringIO())) as run:
        run.write({"kind": "epoch", "epoch": 3})
    assert read_log(tmp_path) == [*lines[:2], {"kind": "epoch", "epoch": 3}]


def test_plain_lines_tell_progress_where_there_is_no_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "PLAIN_EVERY_S", 0.0)
    shown = io.StringIO()
    with RunLog(tmp_path, done=0, steps=3, console=Console(file=shown)) as run:
        run.advance("epoch 1/1")
        run.advance("epoch 1/1")
    first, second = shown.getvalue().splitlines()
    assert first.startswith("train: 1/3 steps, ")
    assert second.startswith("train: 2/3 steps, ")
    assert second.endswith(" s left; epoch 1/1")
