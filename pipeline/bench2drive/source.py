"""Bench2Drive, and data in its layout, as a source of clips.

Dimension letters: C = 6 cameras.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import ValidationError

from cache_schema.errors import ClipError, LeftOut, RequestError
from cache_schema.format.manifest import DataIdentity
from cache_schema.vocabulary.driving import GROUND_TRUTH
from cache_schema.vocabulary.latent_actions import CAMERA_STRIP, camera_strip
from pipeline.bench2drive.clip_annotations import read_annotations
from pipeline.bench2drive.clips import FRAME_RATE_HZ, TAGS, find_clips, folders_around
from pipeline.bench2drive.geometry import CAMERAS
from pipeline.bench2drive.jpeg import read_jpeg
from pipeline.bench2drive.splits import split_of, unlisted, validation_clips
from pipeline.bench2drive.strip import cut, resized, strip_size
from pipeline.source import Selection, absolute

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from PIL import Image

    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.ledger import Split
    from cache_schema.vocabulary.observation import Observation
    from pipeline.bench2drive.clip_annotations import ClipAnnotations
    from pipeline.bench2drive.clips import RawClip
    from pipeline.bench2drive.jpeg import Jpeg
    from pipeline.source import SplitChoice

BENCH2DRIVE = DataIdentity(name="Bench2Drive", licence="CC BY-NC-ND 4.0", frame_rate_hz=FRAME_RATE_HZ)

DATA_FILE = "data.json"
"""A data root that is not Bench2Drive itself identifies itself here: the JSON of a DataIdentity."""


@dataclass(frozen=True, eq=False)
class DrivingSample:
    """What a teacher may see of one frame. There is no field for ground truth.

    Matrices are float64; their coordinate frames are defined in ``geometry``.
    """

    clip: str
    """Name of the clip, or of a drive."""
    images: Mapping[str, Jpeg]
    """JPEG of every camera, by its name, in the order of every (C, ...) array."""
    lidar2cam: np.ndarray
    """(C, 4, 4) LiDAR to optical cameras."""
    intrinsic: np.ndarray
    """(C, 3, 3) of the raw 1600x900 images."""
    ego_pose: np.ndarray
    """(4, 4) LiDAR to RH world."""
    ego_pose_inv: np.ndarray
    """(4, 4) RH world to LiDAR."""
    timestamp_s: float
    """Seconds since the first frame of the clip."""
    command: int
    """Index into ``cache_schema.vocabulary.driving.COMMANDS``."""
    can_bus: np.ndarray
    """(18), see ``annotations.Annotation``."""
    _decoded: dict[str, Image.Image] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, observation: Observation) -> DrivingSample:
        """Return what a driving vehicle observes as a sample.

        Raises:
            RequestError: Its cameras are not Bench2Drive's.
        """
        if [*observation.jpegs] != [*CAMERAS]:
            raise RequestError(
                f"an observation of {observation.clip!r} has the cameras {', '.join(observation.jpegs)}",
                expected=f"{', '.join(CAMERAS)}, in this order",
                repair="send the images of Bench2Drive's cameras",
            )
        return cls(
            clip=observation.clip,
            images=observation.jpegs,
            lidar2cam=observation.lidar2cam,
            intrinsic=observation.intrinsic,
            ego_pose=observation.ego_pose,
            ego_pose_inv=observation.ego_pose_inv,
            timestamp_s=observation.timestamp_s,
            command=observation.command,
            can_bus=observation.can_bus,
        )

    def image(self, camera: str) -> Image.Image:
        """Return the image of a camera, 1600x900 RGB, decoded once whoever asks for it.

        Raises:
            ClipError: It is missing, not a whole JPEG, or of another size.
        """
        if camera not in self._decoded:
            self._decoded[camera] = read_jpeg(self.images[camera])
        return self._decoded[camera]


@dataclass(frozen=True, eq=False)
class OpenBench2DriveClip:
    """A clip whose annotations have been read; implements ``OpenClip``."""

    raw: RawClip
    annotations: ClipAnnotations
    strip: tuple[int, int] | None = None
    """Width and height of the strip of camera images that is an input; None for no such input."""

    def ground_truth(self) -> dict[str, np.ndarray]:
        """Return (frames, *shape) of every feature of ``cache_schema.vocabulary.driving.GROUND_TRUTH``."""
        return self.annotations.ground_truth()

    def sample(self, index: int) -> DrivingSample:
        """Return one frame. Its images are not opened."""
        arrays, frame = self.annotations, self.raw.frames[index]
        return DrivingSample(
            clip=self.raw.name,
            images={camera: self.raw.image_path(camera, frame) for camera in CAMERAS},
            lidar2cam=arrays.lidar2cam[index],
            intrinsic=arrays.intrinsic[index],
            ego_pose=arrays.ego_pose[index],
            ego_pose_inv=arrays.ego_pose_inv[index],
            timestamp_s=float(arrays.timestamp_s[index]),
            command=int(arrays.command[index]),
            can_bus=arrays.can_bus[index],
        )

    def inputs(self, sample: DrivingSample) -> dict[str, np.ndarray]:
        """Return the strip of a frame's camera images, if it is asked for; see ``OpenClipWithInputs``."""
        if self.strip is None:
            return {}
        return {CAMERA_STRIP: resized(cut(sample.image), self.strip)}


@dataclass(frozen=True)
class Bench2DriveClip:
    """A clip that can be opened; implements ``Clip``."""

    raw: RawClip
    split: Split
    index: int
    samples: int
    strip: tuple[int, int] | None = None
    """As of the opened clip."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.raw.name

    @property
    def tags(self) -> dict[str, str]:
        """Scenario, town, route and weather."""
        return self.raw.parts.tags

    def fingerprint(self) -> str:
        """Return a digest of the names and sizes of annotations and images."""
        return self.raw.fingerprint()

    def open(self) -> OpenBench2DriveClip:
        """Read the annotations.

        Raises:
            ClipError: An annotation is broken.
        """
        return OpenBench2DriveClip(self.raw, read_annotations(self.raw), self.strip)


class Bench2Drive:
    """A data root in Bench2Drive's layout; implements ``Source``.

    Args:
        root: Folder of the unpacked clips, or around ``v1/``.
        strip: Width and height of the strip of camera images that every frame has as an input; None for none.

    Raises:
        RequestError: The root's ``data.json`` cannot be read, or states another frame rate.
    """

    kind = "driving"
    ground_truth = GROUND_TRUTH
    tags = TAGS

    def __init__(self, root: Path, *, strip: tuple[int, int] | None = None) -> None:
        self.root = absolute(root)
        self.strip = strip
        self.identity = _identity_of(self.root)

    @property
    def inputs(self) -> tuple[FeatureSpec, ...]:
        """The strip, if it is asked for; see ``SourceWithInputs``."""
        return () if self.strip is None else (camera_strip(*self.strip),)

    def with_inputs(self, names: Sequence[str]) -> Bench2Drive:
        """Return the same data with a strip of camera images; see ``pipeline.bench2drive.strip.STRIPS``.

        Raises:
            RequestError: There is no such input, or several are asked for at once.
        """
        return Bench2Drive(self.root, strip=strip_size(names))

    def select(self, split: SplitChoice = "all") -> Selection:
        """Return the clips of a split, sorted by name.

        Raises:
            ClipError: There is no clip at all, or the root's split file cannot be read.
            RequestError: There is none of this split.
        """
        discovery = find_clips(self.root)
        failed = [LeftOut.because(name, error) for name, error in discovery.rejected.items()]
        validation = validation_clips(self.root)
        clips = []
        for index, raw in enumerate(discovery.clips):
            side = split_of(raw.name, validation)
            if split not in ("all", side):
                continue
            try:
                clips.append(Bench2DriveClip(raw, side, index, len(raw.frames), self.strip))
            except ClipError as error:
                failed.append(LeftOut.because(raw.name, error))
        if not clips and not failed:
            raise RequestError(
                f"none of the {len(discovery.clips)} clips in {self.root} is of the split {split!r}",
                expected="at least one clip",
                repair="choose another split, or another data root",
            )
        note = unlisted(self.root, (clip.name for clip in discovery.clips))
        return Selection(self, tuple(clips), tuple(failed), () if note is None else (note,))


def _identity_of(root: Path) -> DataIdentity:
    files = (folder / DATA_FILE for folder in folders_around(root))
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return BENCH2DRIVE
    try:
        identity = DataIdentity.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise RequestError(
            f"{file} cannot be read: {error}",
            expected="the JSON of a DataIdentity: name, licence and frame_rate_hz",
            repair="correct the file, or remove it if this is Bench2Drive itself",
        ) from error
    if identity.frame_rate_hz != FRAME_RATE_HZ:
        raise RequestError(
            f"{file} says that the data has {identity.frame_rate_hz:g} Hz",
            expected=f"{FRAME_RATE_HZ:g} Hz: in data of this layout, time is counted in frames of 0.1 s",
            repair=f"resample the data to {FRAME_RATE_HZ:g} Hz, or read it by a source of your own",
        )
    return identity
