"""The size of a JPEG from its header, before anything of it is decoded."""

from __future__ import annotations

BASELINE, FRAMES = 0xC0, frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of the frame's header: of baseline JPEGs, and of all kinds. C4, C8 and CC are no frames."""


def baseline_size(jpeg: bytes) -> tuple[int, int]:
    """Return width and height of a baseline JPEG.

    Raises:
        ValueError: The bytes are no baseline JPEG of three channels.
    """
    if jpeg[:2] != b"\xff\xd8":
        raise ValueError("no JPEG")
    place = 2
    while jpeg[place : place + 1] == b"\xff" and place + 10 <= len(jpeg):
        marker = jpeg[place + 1]
        if marker in FRAMES:
            if marker != BASELINE or jpeg[place + 4] != 8 or jpeg[place + 9] != 3:
                raise ValueError("no baseline JPEG of three channels")
            height, width = (int.from_bytes(jpeg[at : at + 2], "big") for at in (place + 5, place + 7))
            return width, height
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    raise ValueError("a JPEG without a frame")
