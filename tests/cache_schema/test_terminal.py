import io
import json

import pytest
from rich.console import Console, Group
from rich.text import Text

from cache_schema.terminal import ProgressBar, SafeConsole, table, visible

HOSTILE = (
    "\x1b[2J\x1b]0;title\x07 \x9b31m \x7f \r \b \u202egnp.exe\u2066 \u200f \udc80 [red]loud[/red] :car: "
    "[link=file:///x]x[/link]"
)


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


def assert_harmless(shown: str) -> None:
    assert not [character for character in shown if not (character.isprintable() or character == "\n")]
    assert "[red]loud[/red]" in shown
    assert ":car:" in shown
    assert "\\u001b[2J" in shown


@pytest.mark.parametrize("kind", ["text", "error", "table", "group", "rich text", "title"])
def test_text_of_other_sources_moves_no_cursor(kind: str):
    shown = io.StringIO()
    console = SafeConsole(file=shown, width=300)
    rows = table("clip", "why")
    rows.add_row(HOSTILE, HOSTILE)
    what = {
        "text": HOSTILE,
        "error": f"{HOSTILE}\n  expected: {HOSTILE}",
        "table": rows,
        "group": Group(HOSTILE, Group(HOSTILE)),
        "rich text": Text(HOSTILE),
        "title": table("first", title=HOSTILE),
    }[kind]
    console.print(what, soft_wrap=kind != "table")
    assert_harmless(shown.getvalue())


def test_rows_with_hostile_text_stay_aligned():
    shown = io.StringIO()
    rows = table("clip", "why")
    rows.add_row(HOSTILE, "x")
    rows.add_row("a", "x")
    SafeConsole(file=shown, width=300).print(rows)
    assert len({len(line) for line in shown.getvalue().splitlines()}) == 1


def test_progress_shows_names_as_they_are():
    for terminal in (False, True):
        shown = io.StringIO()
        console = SafeConsole(file=shown, width=300, force_terminal=terminal, color_system=None)
        with ProgressBar("pull", "bytes", 3, console=console, plain_every_s=0.0) as progress:
            progress.advance(1, HOSTILE)
            progress.message(HOSTILE)
        if terminal:
            assert "\x1b[2J" not in shown.getvalue()
            assert "\x07" not in shown.getvalue()
            assert "\u202e" not in shown.getvalue()
            assert "[red]loud[/red]" in shown.getvalue()
        else:
            assert_harmless(shown.getvalue())


def test_json_stays_json():
    text = json.dumps({HOSTILE: [HOSTILE]}, ensure_ascii=False, indent=2)
    assert json.loads(visible(text)) == {HOSTILE: [HOSTILE]}
    assert all(character.isprintable() or character == "\n" for character in visible(text))
