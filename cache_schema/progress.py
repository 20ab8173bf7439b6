"""How far something is: what long work tells, whoever wants to know."""

from __future__ import annotations


class Progress:
    """Hears how far some work is, and shows it to nobody. ``terminal.ProgressBar`` shows it."""

    def expect(self, total: float) -> None:
        """There will be so much, all in all."""

    def advance(self, amount: float = 1, status: str = "") -> None:
        """So much more is done; ``status`` says in a few words what is going on."""

    def reach(self, done: float, status: str = "") -> None:
        """So much is done by now."""

    def say(self, text: str) -> None:
        """Something happened that is worth a line of its own."""


SILENT = Progress()
"""The default of every function that takes a progress."""
