"""Frames of clips as a driving vehicle would observe them."""

from collections.abc import Iterator
from pathlib import Path

from cache_schema.vocabulary.observation import Observation
from pipeline.bench2drive.source import Bench2Drive


def observations(data: Path, clip: str, drive: str | None = None) -> Iterator[Observation]:
    """Every frame of a clip, under its own name or as another drive."""
    (found,) = (one for one in Bench2Drive(data).select().clips if one.name == clip)
    opened = found.open()
    for index in range(found.samples):
        sample = opened.sample(index)
        yield Observation(
            clip=drive or clip,
            jpegs={camera: path.read_bytes() for camera, path in sample.images.items()},
            lidar2cam=sample.lidar2cam,
            intrinsic=sample.intrinsic,
            ego_pose=sample.ego_pose,
            ego_pose_inv=sample.ego_pose_inv,
            timestamp_s=sample.timestamp_s,
            command=sample.command,
            can_bus=sample.can_bus,
        )
