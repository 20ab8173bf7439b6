"""Windows of frames of synthetic clips: what the teacher sees of each, and what it should find.

The clips are those that ``pipeline.bench2drive.synthetic`` writes, drawn in memory: a window needs few of a
clip's frames, and painting them is most of the time.

Dimension letters: F frames of a clip, W windows, K frames of a window, C cameras, A agents, L lanes,
P points of a lane, T steps of 0.5 s, h and w of a shrunk image.
"""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cache_schema.vocabulary.driving import TRAJECTORY_STEPS
from pipeline.bench2drive.annotations import annotation_of
from pipeline.bench2drive.clips import FRAME_RATE_HZ
from pipeline.bench2drive.geometry import LIDAR_TOP, rigid_inverse, transform, ue_world2lidar
from pipeline.bench2drive.ground_truth.agent_futures import agent_futures
from pipeline.bench2drive.ground_truth.boxes import frame_boxes, seen_boxes
from pipeline.bench2drive.ground_truth.classes import CLASSES
from pipeline.bench2drive.ground_truth.trajectories import FRAMES_PER_STEP, ego_trajectories
from pipeline.bench2drive.record import Record
from pipeline.bench2drive.synthetic.demo_data import as_jpeg
from pipeline.bench2drive.synthetic.drawing import Painter
from pipeline.bench2drive.synthetic.manoeuvres import MANOEUVRES
from pipeline.bench2drive.synthetic.recording import WEATHERS, Recorder
from pipeline.bench2drive.synthetic.scene import draw_scene
from pipeline.teachers.orion.inputs import lidar2img
from pipeline.teachers.orion.training.lanes import lanes_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.bench2drive.annotations import Annotation
    from pipeline.bench2drive.ground_truth.boxes import Boxes
    from pipeline.bench2drive.synthetic.scene import Scene
    from pipeline.teachers.orion.images import ImagePreprocessing

CLIP_FRAMES = 60
PLANNED_FRAMES = CLIP_FRAMES - TRAJECTORY_STEPS * FRAMES_PER_STEP
"""Frames of a clip with a whole trajectory: its first."""
AGENTS = 16
"""Places for the agents of a frame. A synthetic scene has at most fourteen."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class ClipPlan:
    """A clip to draw."""

    seed: int
    index: int
    """Of the clip among those of its seed."""
    starts: tuple[int, ...]
    """First frame of each window."""
    length: int
    """Frames of a window."""
    frames: int = CLIP_FRAMES
    """Frames of the clip."""
    weaves: bool = False
    """Whether the ego weaves, as no expert does: what it should do is drive back into its lane, and on."""


def training_plan(seed: int, index: int, *, windows: int, length: int, weaves: bool = False) -> ClipPlan:
    """Plan a clip's windows: its beginning, where the memory is empty, and others at random."""
    rng = np.random.default_rng((seed, index, windows, length))
    edges = np.linspace(0, PLANNED_FRAMES - length + 1, windows + 1).astype(int)
    later = (int(rng.integers(low, high)) for low, high in itertools.pairwise(edges[1:]))
    return ClipPlan(seed, index, (0, *later), length, weaves=weaves)


def held_out_plan(seed: int, index: int) -> ClipPlan:
    """Plan one window of all frames that have a whole trajectory."""
    return ClipPlan(seed, index, (0,), PLANNED_FRAMES)


def draw(plan: ClipPlan, images: ImagePreprocessing) -> Arrays:
    """Draw a clip, and return its windows: (W, K, *shape) of all that is seen and true of a frame."""
    scenario = list(MANOEUVRES)[plan.index % len(MANOEUVRES)]
    weather = list(WEATHERS)[plan.index % len(WEATHERS)]
    rng = np.random.default_rng((plan.seed, plan.index))
    scene = draw_scene(scenario, plan.frames, rng)
    if plan.weaves:
        scene = scene.weaving(rng)
    recorder = Recorder(scene, weather, rng)
    painter = Painter(scene, weather, rng)
    nowhere = Path(f"{scenario}, seed {plan.seed}, clip {plan.index}")
    annotations = [annotation_of(Record(nowhere, recorder.annotation(frame))) for frame in range(plan.frames)]
    truth = _Truth(annotations)
    windows = [
        [
            _inputs(annotations[frame], frame, painter, images)
            | truth.of(frame)
            | (_way_back(scene, frame) if plan.weaves else {})
            | lanes_at(scene.route, scene.drive.s[frame], scene.ego.pose(frame))
            for frame in range(start, start + plan.length)
        ]
        for start in plan.starts
    ]
    return {
        name: np.stack([np.stack([frame[name] for frame in window]) for window in windows])
        for name in windows[0][0]
    }


def _inputs(annotation: Annotation, frame: int, painter: Painter, images: ImagePreprocessing) -> Arrays:
    """Return what the teacher sees of a frame, as ``prepare`` makes it of files."""
    ego_pose = np.linalg.inv(annotation.world2lidar)
    return {
        "images": np.stack([images.shrink(_read_back(image)) for _, image in painter.paint(frame)]),
        "lidar2img": lidar2img(annotation.lidar2cam, annotation.intrinsic, images),
        "ego_pose": ego_pose,
        "ego_pose_inv": rigid_inverse(ego_pose),
        "timestamp_s": np.array(frame / FRAME_RATE_HZ),
        "command": np.array(annotation.command),
        "can_bus": annotation.can_bus,
    }


def _read_back(image: Image.Image) -> Image.Image:
    """Return an image as it is read back from its file."""
    return Image.open(io.BytesIO(as_jpeg(image))).convert("RGB")


class _Truth:
    """What is true of the frames of a clip, beyond its lanes."""

    def __init__(self, annotations: Sequence[Annotation]) -> None:
        everything = range(len(CLASSES))
        self.boxes = [seen_boxes(frame_boxes(a, everything), a) for a in annotations]
        self.world2lidar = np.stack([annotation.world2lidar for annotation in annotations])
        self.trajectory, self.mask = ego_trajectories(np.linalg.inv(self.world2lidar))

    def of(self, frame: int) -> Arrays:
        """Return a frame's truth; the places of missing agents have the label -1."""
        boxes = self.boxes[frame].for_planning()
        futures = agent_futures(boxes, self.boxes, frame, self.world2lidar[frame])
        return {
            "trajectory": self.trajectory[frame],
            "trajectory_mask": self.mask[frame],
            "labels": _padded(boxes.label, -1),
            "boxes": _padded(_box_numbers(boxes, futures.offsets[:, 0]), 0),
            "futures": _padded(futures.offsets.astype(np.float32), 0),
            "futures_mask": _padded(futures.mask, fill=False),
        }


def _way_back(scene: Scene, frame: int) -> Arrays:
    """Return the trajectory of a driver who is in the lane beside the ego, at its speed.

    The first step has all of the way back into the lane.
    """
    drive = scene.drive
    places = scene.driven_on(frame, s=drive.s[frame], speed=drive.speed[frame])
    height = np.full((len(places), 1), LIDAR_TOP.location[2])
    positions = transform(ue_world2lidar(scene.ego.pose(frame)), np.concatenate([places, height], axis=1))[
        :, :2
    ]
    offsets = np.diff(positions, axis=0, prepend=np.zeros((1, 2)))
    return {"trajectory": offsets.astype(np.float32), "trajectory_mask": np.ones(len(offsets), bool)}


def _box_numbers(boxes: Boxes, first_step: np.ndarray) -> np.ndarray:
    """Return (A, 10): x, y, log width, log length, z, log height, yaw as sine and cosine, velocity."""
    width, length, height = np.log(boxes.size).T
    x, y, z = boxes.centre.T
    velocity = first_step * FRAME_RATE_HZ / FRAMES_PER_STEP
    numbers = [x, y, width, length, z, height, np.sin(boxes.yaw), np.cos(boxes.yaw), *velocity.T]
    return np.stack(numbers, axis=1).astype(np.float32)


def _padded(values: np.ndarray, fill: float) -> np.ndarray:
    padded = np.full((AGENTS, *values.shape[1:]), fill, values.dtype)
    padded[: len(values)] = values
    return padded
