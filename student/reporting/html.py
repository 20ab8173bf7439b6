"""Parts of an HTML page: all text is escaped, and nothing is fetched."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Two palettes under the same names; figures draw their text in the page's text colour.
STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --paper: #ffffff; --quiet: #656d76; --line: #d0d7de }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --quiet: #9198a1; --line: #3d444d }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper) }
body { max-width: 72rem; margin: 2rem auto 4rem; padding: 0 1.25rem }
h1 { font-size: 1.6rem; margin-bottom: .25rem }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); padding-bottom: .25rem }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .25rem }
p { margin: .5rem 0; max-width: 60rem }
.quiet, caption, figcaption, td small, th small { color: var(--quiet) }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums }
caption, figcaption { text-align: left; font-size: .87rem; padding: .25rem 0 }
th, td { padding: .25rem .75rem; text-align: right; white-space: nowrap; vertical-align: top }
th { border-bottom: 1px solid var(--line); font-weight: 600; vertical-align: bottom }
th.text, td.text { text-align: left; white-space: normal }
td { border-bottom: 1px solid color-mix(in srgb, var(--line) 45%, transparent) }
td small { display: block; font-size: .78rem; line-height: 1.2 }
summary { cursor: pointer; color: var(--quiet); font-size: .87rem }
figure { margin: .75rem 0 }
svg { display: block; max-width: 100%; height: auto }
"""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a browser may load for the page: nothing from outside it."""


PAGE_START = b"<!doctype html>\n"
"""What a page begins with."""


class Cell(NamedTuple):
    """One entry of a table."""

    value: str
    below: str = ""
    """In small print."""


def paragraph(text: str, *, quiet: bool = False) -> str:
    """Return a paragraph."""
    kind = ' class="quiet"' if quiet else ""
    return f"<p{kind}>{html.escape(text)}</p>"


def section(title: str, parts: Iterable[str], *, depth: int = 2) -> str:
    """Return parts under a heading; nothing where there are none."""
    inside = "".join(parts)
    return f"<section><h{depth}>{html.escape(title)}</h{depth}>{inside}</section>" if inside else ""


def table(
    head: Sequence[str], rows: Iterable[Sequence[Cell | str]], *, caption: str = "", texts: int = 1
) -> str:
    """Return a table. Its first ``texts`` columns are text, the others are numbers."""
    kinds = [' class="text"' if column < texts else "" for column in range(len(head))]
    names = "".join(f"<th{kind}>{html.escape(name)}</th>" for kind, name in zip(kinds, head, strict=True))
    body = "".join(f"<tr>{_row(kinds, row)}</tr>" for row in rows)
    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="wide"><table>{above}<thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def details(summary: str, parts: Iterable[str]) -> str:
    """Return parts that are hidden until they are unfolded."""
    return f"<details><summary>{html.escape(summary)}</summary>{''.join(parts)}</details>"


def figure(svg: str, caption: str) -> str:
    """Return a picture with a caption below it; ``svg`` is our own, and is not escaped."""
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"


def page(title: str, parts: Iterable[str]) -> str:
    """Return the whole page."""
    name = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{STYLE}</style></head>\n<body><h1>{name}</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _row(kinds: Sequence[str], row: Sequence[Cell | str]) -> str:
    cells = [Cell(entry) if isinstance(entry, str) else entry for entry in row]
    return "".join(
        f"<td{kind}>{html.escape(cell.value)}"
        + (f"<small>{html.escape(cell.below)}</small>" if cell.below else "")
        + "</td>"
        for kind, cell in zip(kinds, cells, strict=True)
    )
