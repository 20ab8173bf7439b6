"""Frames of clips as a driving vehicle would observe them."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cache_schema.vocabulary.observation import Observation
from pipeline.bench2drive.source import Bench2Drive


def observations(data: Path, clip: str, drive: str | None = None) -> Iterator[Observation]:
    """Every frame of a clip, under its own name or as another drive; numbers as JSON brings them."""
    (found,) = (one for one in Bench2Drive(data).select().clips if one.name == clip)
    opened = found.open()
    for index in range(found.samples):
        sample = opened.sample(index)
        names = ("lidar2cam", "intrinsic", "ego_pose", "ego_pose_inv", "timestamp_s", "command", "can_bus")
        sent = {name: json.loads(json.dumps(np.asarray(getattr(sample, name)).tolist())) for name in names}
        yield Observation(
            clip=drive or clip,
            jpegs={camera: path.read_bytes() for camera, path in sample.images.items()},
            **{name: np.array(value) if isinstance(value, list) else value for name, value in sent.items()},
        )
