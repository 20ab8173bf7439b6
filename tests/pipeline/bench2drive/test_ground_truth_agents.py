"""What the ground truth keeps of the other actors, by hand and against the published reading."""

import math

import numpy as np

from cache_schema.vocabulary.driving import AGENTS, GROUND_TRUTH_AGENTS
from pipeline.bench2drive.annotations import read_annotation
from pipeline.bench2drive.clip_annotations import read_annotations
from pipeline.bench2drive.clips import find_clips
from pipeline.bench2drive.ground_truth.agent_futures import agent_futures
from pipeline.bench2drive.ground_truth.boxes import frame_boxes, seen_boxes
from pipeline.bench2drive.ground_truth.classes import CLASSES, UNKNOWN


def agents_of(clip):
    return read_annotations(clip).agents


def test_the_golden_vehicle_and_what_is_left_out(clip_of, vehicle, walker, light):
    beside = [99.0, 51.732, 0.75]  # 2 m to the right, in no camera's view
    unseen = vehicle(id="9", center=beside, extent=[0.2, 0.2, 0.2])
    others = [light, vehicle(id="5", num_points=0), vehicle(id="6", type_id="vehicle.unheard.of"), unseen]
    agents = agents_of(clip_of([*others, vehicle(), walker()]))
    assert {name: values.dtype for name, values in agents.items()} == {
        spec.name: np.dtype(spec.dtype) for spec in GROUND_TRUTH_AGENTS
    }
    assert agents["truth_agent_count"].tolist() == [2]
    # The walker is nearer, so it comes first.
    assert agents["truth_agent_classes"][0].tolist() == [7, 0] + [-1] * (AGENTS - 2)
    walking, driving, padding = agents["truth_agent_boxes"][0, :3]
    np.testing.assert_allclose(walking, (-6.732051, 8.050254, 0.38, 0.38, 0.0), atol=1e-5)
    np.testing.assert_allclose(driving, (-3.071797, 21.710508, 4.8, 2.0, 1.308997), atol=1e-5)
    assert not padding.any()


def test_a_future_of_one_step(clip_of, vehicle):
    later = vehicle(location=[120, 60, 0], center=[120, 60, 0.75], rotation=[0, 0, 45])
    later["world2vehicle"] = np.array(later["world2vehicle"])
    pose = np.linalg.inv(later["world2vehicle"])
    pose[1, 3] = 60
    later["world2vehicle"] = np.linalg.inv(pose).tolist()
    agents = agents_of(clip_of(*[[vehicle()]] * 5, [later]))
    # 2 m along UE y, which is 60 degrees left of the ego's heading (30 degrees): sin and cos of 60.
    np.testing.assert_allclose(
        agents["truth_agent_offsets"][0, 0, 0],
        (2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6), 0),
        atol=1e-5,
    )
    assert agents["truth_agent_offsets_mask"][0, 0].tolist() == [True] + [False] * 5
    assert not agents["truth_agent_offsets_mask"][1, 0].any()


def test_the_nearest_are_kept_and_all_are_counted(clip_of, vehicle):
    def at(number, ahead):
        x, y = 100 + ahead * math.cos(math.radians(30)), 50 + ahead * math.sin(math.radians(30))
        return vehicle(id=str(number), location=[x, y, 0], center=[x, y, 0.75])

    crowd = [at(number, 5 + 0.5 * number) for number in reversed(range(AGENTS + 5))]
    agents = agents_of(clip_of(crowd))
    assert agents["truth_agent_count"].tolist() == [AGENTS + 5]
    ahead = agents["truth_agent_boxes"][0, :, 1]
    np.testing.assert_allclose(ahead, 5.39 + 0.5 * np.arange(AGENTS), atol=1e-4)
    assert (agents["truth_agent_classes"] == 0).all()


def test_a_clip_without_actors(clip_of):
    agents = agents_of(clip_of([], []))
    assert (agents["truth_agent_classes"] == -1).all()
    assert all(not agents[spec.name].any() for spec in GROUND_TRUTH_AGENTS if "classes" not in spec.name)


def test_synthetic_clips_equal_the_published_reading(demo_root):
    """The same as boxes of all classes, filtered only afterwards."""
    clip = find_clips(demo_root).clips[0]
    frames = [read_annotation(clip.annotation_path(frame)) for frame in clip.frames]
    labels = (UNKNOWN, *range(len(CLASSES)))
    boxes = [seen_boxes(frame_boxes(annotation, labels), annotation) for annotation in frames]
    annotations = read_annotations(clip)
    for frame in clip.frames:
        counted = boxes[frame].for_planning()
        counted = counted.take(np.isin(counted.label, (0, 1, 2, 3, 7)))
        counted = counted.take(np.argsort(np.linalg.norm(counted.centre[:, :2], axis=1), kind="stable"))
        futures = agent_futures(counted, boxes, frame, annotations.ego_pose_inv[frame])
        rows = slice(len(counted))
        stored = {name: values[frame] for name, values in annotations.agents.items()}
        assert stored["truth_agent_count"] == len(counted) > 2
        np.testing.assert_allclose(stored["truth_agent_boxes"][rows, :2], counted.centre[:, :2], atol=1e-4)
        np.testing.assert_allclose(stored["truth_agent_boxes"][rows, 2:4], counted.size[:, [1, 0]], atol=1e-6)
        turned = stored["truth_agent_boxes"][rows, 4] - counted.yaw
        np.testing.assert_allclose(np.cos(turned), 1, atol=1e-9)
        offsets = stored["truth_agent_offsets"][rows]
        np.testing.assert_allclose(offsets[..., :2], futures.offsets, atol=1e-4)
        np.testing.assert_array_equal(stored["truth_agent_offsets_mask"][rows], futures.mask)
        np.testing.assert_allclose(offsets[..., 2], futures.yaw_offsets, atol=1e-5)
        np.testing.assert_array_equal(stored["truth_agent_classes"][rows], counted.label)
