"""The device that a teacher runs on."""

from __future__ import annotations

import torch


def make_current(device: str | torch.device) -> None:
    """Make a GPU that is chosen by number the current one of this thread, which begins with the first."""
    chosen = torch.device(device)
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen)
