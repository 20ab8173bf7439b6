"""Bounds of what a reader accepts from a dataset of an untrusted source.

Whatever is read is bounded before it is read, so that a hostile dataset cannot make a reader ask for memory.
"""

FRAMES = 100_000
"""Frames of a clip: 2.8 hours at 10 Hz."""
FRAME_BYTES = 256 * 2**20
"""One frame of one feature: what a writer and a reader hold in memory."""
VALUES = 2**40
"""Values of one ragged feature in one clip: 2 TB in float16."""
AXES = 8
"""Axes of one frame's value."""
FEATURES = 256
"""Features of a dataset."""
DERIVATIONS = 32
"""Derived features of a dataset."""
SEGMENTS = 256
"""Segments of a derived feature."""
TAGS = 64
"""Tags of a clip."""
ASSETS = 32
"""Assets of a dataset."""
ASSET_BYTES = 4 * 2**30
"""One asset, which readers load whole: a planner of 430 million weights takes 1.7 GB in float32."""
