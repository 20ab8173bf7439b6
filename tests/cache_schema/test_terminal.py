import io

from rich.console import Console

from cache_schema.terminal import ProgressBar


def test_plain_lines_tell_progress_where_there_is_no_terminal():
    shown = io.StringIO()
    with ProgressBar("train", "steps", 3, console=Console(file=shown), plain_every_s=0.0) as progress:
        progress.advance(1, "epoch 1/1")
        progress.advance(1, "epoch 1/1")
    first, second = shown.getvalue().splitlines()
    assert first.startswith("train: 1/3 steps, ")
    assert second.startswith("train: 2/3 steps, ")
    assert second.endswith(" s left; epoch 1/1")


def test_plain_lines_are_rare_and_messages_stay():
    shown = io.StringIO()
    with ProgressBar("train", "steps", 3, console=Console(file=shown), plain_every_s=3600.0) as progress:
        progress.advance(1, "epoch 1/1")
        progress.message("epoch 1/1 done [in 2 s]")
    message, last = shown.getvalue().splitlines()
    assert message == "epoch 1/1 done [in 2 s]"
    assert last.startswith("train: 1/3 steps, ")


def test_bytes_are_shown_as_sizes_and_a_total_may_change():
    shown = io.StringIO()
    with ProgressBar("pull", "bytes", console=Console(file=shown)) as progress:
        progress.expect(4_000_000)
        progress.advance(1_500_000)
        progress.expect(3_000_000)
    assert shown.getvalue().startswith("pull: 1.5 MB of 3 MB, ")
