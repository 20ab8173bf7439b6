"""Progress of long work: the one interface that long functions report to."""

from __future__ import annotations


class Progress:
    """Receives reports on some work and shows nothing; ``terminal.ProgressBar`` shows them."""

    def expect(self, total: float) -> None:
        """Set how much there is to do in all."""

    def advance(self, amount: float = 1, status: str = "") -> None:
        """Report that so much more is done; ``status`` describes the current work in a few words."""

    def reach(self, done: float, status: str = "") -> None:
        """Report how much is done in all."""

    def message(self, text: str) -> None:
        """Report an event that deserves a line of its own."""


SILENT = Progress()
"""The default of every function that takes a progress."""
