import io

from rich.console import Console

from student.training.progress import StepProgress


def test_plain_lines_tell_progress_where_there_is_no_terminal():
    shown = io.StringIO()
    with StepProgress(3, console=Console(file=shown), plain_every_s=0.0) as progress:
        progress.advance("epoch 1/1")
        progress.advance("epoch 1/1")
    first, second = shown.getvalue().splitlines()
    assert first.startswith("train: 1/3 steps, ")
    assert second.startswith("train: 2/3 steps, ")
    assert second.endswith(" s left; epoch 1/1")


def test_plain_lines_are_seldom_and_what_is_said_stays():
    shown = io.StringIO()
    with StepProgress(3, console=Console(file=shown), plain_every_s=3600.0) as progress:
        progress.advance("epoch 1/1")
        progress.say("epoch 1/1 done [in 2 s]")
    assert shown.getvalue() == "epoch 1/1 done [in 2 s]\n"
