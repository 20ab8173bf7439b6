"""Questions that offer answers A, B, ..., and which of them a text chooses.

DriveBench's toolkit takes the first of A, B, C and D that occurs as a word, in either case: the article "a"
makes nearly every explained answer an A. Here a choice must have one of three forms, and others are unparsed.
"""

from __future__ import annotations

import re
from string import ascii_uppercase

OPTION = r"(?<![\w.])\(?{letter}[.):]\s*\S"
"""How a question offers an answer: ``A. Going ahead.``, ``A)``, ``(A)`` or ``A:``."""
FINAL = re.compile(r"Final:\s*\{?\s*([A-Z])(?=\s*(?:[.):,}]|$))", re.MULTILINE)
"""``Final: {A``, ``Final: A``; a letter that a word follows may be one."""
LEADING = re.compile(r"\s*\(?([A-Z])(?:[.):]|\s*$)")
"""``A. Going ahead.``, ``A)``, ``(A)``, ``A:``, or nothing but the letter."""


def offered(question: str) -> str:
    """Return the letters that a question offers, from A on without a gap; none where fewer than two."""
    place, letters = 0, ""
    for letter in ascii_uppercase:
        found = re.compile(OPTION.format(letter=letter)).search(question, place)
        if found is None:
            break
        place, letters = found.end(), letters + letter
    return letters if len(letters) > 1 else ""


def chosen(text: str, letters: str) -> str | None:
    """Return which of the offered letters a text chooses, or None where that cannot be told.

    The last ``Final:`` counts, else a letter that the text begins with.
    """
    finals = FINAL.findall(text)
    leading = LEADING.match(text)
    choice = finals[-1] if finals else leading and leading[1]
    return choice if choice and choice in letters else None
