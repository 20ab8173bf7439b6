"""What stays on the terminal of an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def epoch_line(
    epoch: int, epochs: int, train: Mapping[str, float], val: Mapping[str, float] | None, seconds: float
) -> str:
    """Return the line that stays of an epoch: its means, and those of the held-out frames."""

    def shown(terms: Mapping[str, float]) -> str:
        return " ".join(f"{name} {value:.4g}" for name, value in terms.items())

    held_out = "" if val is None else f" | val {shown(val)}"
    return f"epoch {epoch}/{epochs} in {seconds:.1f} s: train {shown(train)}{held_out}"
