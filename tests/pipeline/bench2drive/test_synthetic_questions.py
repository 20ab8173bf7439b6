"""Questions about synthetic clips: their answers against the annotations, the images, and each other."""

import functools
import gzip
import json
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cache_schema.errors import RequestError
from cli import app
from pipeline.bench2drive.annotations import read_annotation
from pipeline.bench2drive.clips import find_clips
from pipeline.bench2drive.geometry import CAMERAS
from pipeline.bench2drive.synthetic import write_demo_data, write_demo_questions
from pipeline.bench2drive.synthetic.moments import Moment
from pipeline.bench2drive.synthetic.question_kinds import KINDS
from pipeline.bench2drive.synthetic.scene import PAINTS
from pipeline.source import open_source

FRAMES = 27
COLOURS = {
    "parked car": PAINTS,
    "driving car": PAINTS,
    "bicycle": [(150, 40, 170)],
    "pedestrian": [(240, 120, 30)],
}
"""What the scene paints its actors with."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked") / "data"
    write_demo_data(folder, clips=6, frames=FRAMES)
    return folder


@pytest.fixture(scope="module")
def entries(root, tmp_path_factory):
    file = tmp_path_factory.mktemp("questions") / "q.json"
    write_demo_questions(root, file, every=2)
    return json.loads(file.read_text())["data"]


@pytest.fixture(scope="module")
def records(root):
    return {
        clip.name: [
            json.loads(gzip.decompress(clip.annotation_path(frame).read_bytes())) for frame in clip.frames
        ]
        for clip in find_clips(root).clips
    }


def of_kind(entries, name):
    number = [kind.name for kind in KINDS].index(name) + 1
    found = [entry for entry in entries if entry["question_id"] == number]
    assert found, name
    return found


def answer_of(entry):
    return re.match(r"Final: \{([A-D])\. ", entry["messages"][1]["content"])[1]


def tag_of(entry):
    found = re.search(r"<c1,(\w+),([\d.]+),([\d.]+)>", entry["messages"][1]["content"])
    return found and (found[1], float(found[2]), float(found[3]))


def users_of(record):
    return [box for box in record["bounding_boxes"] if box["class"] in ("vehicle", "walker")]


def kind_of(box):
    if box["class"] == "walker":
        return "pedestrian"
    if "Parked" in box["type_id"]:
        return "parked car"
    return "bicycle" if "crossbike" in box["type_id"] else "driving car"


@functools.cache
def annotation_of(root, scene, frame):
    return read_annotation(clip_of(root, scene).annotation_path(frame))


@functools.cache
def clip_of(root, scene):
    return next(clip for clip in find_clips(root).clips if clip.name == scene)


def shown(root, entry, box):
    """Where the annotations' reader sees the middle of a box: camera -> fractions of the image."""
    annotation = annotation_of(root, entry["scene"], entry["frame"])
    x, y, z = box["center"]
    point = annotation.world2lidar @ (x, -y, z, 1)
    places = {}
    for camera, lidar2cam, intrinsic in zip(CAMERAS, annotation.lidar2cam, annotation.intrinsic, strict=True):
        u, v, depth = intrinsic @ (lidar2cam @ point)[:3]
        if depth > 0.2 and 0 <= u / depth < 1600 and 0 <= v / depth < 900:
            places[camera] = (u / depth / 1600, v / depth / 900)
    return places


def test_the_nearest_road_user_and_its_camera(root, entries, records):
    letters = Counter()
    for entry in of_kind(entries, "nearest camera"):
        record = records[entry["scene"]][entry["frame"]]
        nearest = min(users_of(record), key=lambda box: box["distance"])
        camera, x, y = tag_of(entry)
        places = shown(root, entry, nearest)
        assert camera == min(places, key=lambda name: abs(places[name][0] - 0.5))
        assert np.allclose((x, y), places[camera], atol=0.006)
        expected = {"CAM_FRONT": "A", "CAM_FRONT_LEFT": "B", "CAM_FRONT_RIGHT": "C"}.get(camera, "D")
        assert answer_of(entry) == expected
        assert entry["messages"][1]["content"].endswith(kind_of(nearest))
        letters[expected] += 1
    assert len(letters) >= 3


@pytest.mark.parametrize("name", ["nearest kind", "distance"])
def test_the_nearest_road_user_ahead(root, entries, records, name):
    none = 0
    for entry in of_kind(entries, name):
        record = records[entry["scene"]][entry["frame"]]
        ego = np.array(record["bounding_boxes"][0]["center"][:2])
        ahead = [
            (np.linalg.norm(np.array(box["center"][:2]) - ego), kind_of(box))
            for box in users_of(record)
            if "CAM_FRONT" in shown(root, entry, box)
        ]
        distance, kind = min(ahead, default=(np.inf, ""))
        if name == "nearest kind":
            assert answer_of(entry) == dict(zip(COLOURS, "ABCD", strict=True))[kind]
        else:
            limits = ((10, "A"), (20, "B"), (40, "C"), (np.inf, "D"))
            letter = next(letter for limit, letter in limits if distance < limit or limit == np.inf)
            assert answer_of(entry) == letter
            none += letter == "D"
    assert name == "nearest kind" or none


def test_what_an_answer_points_at_has_the_colour_of_its_kind(root, entries):
    right = []
    for entry in of_kind(entries, "nearest kind"):
        camera, x, y = tag_of(entry)
        (written,) = entry["images"]
        assert camera == "CAM_FRONT"
        clip = clip_of(root, entry["scene"])
        assert written.endswith(f"camera/rgb_front/{entry['frame']:05d}.jpg")
        with Image.open(clip.image_path(camera, entry["frame"])) as image:
            pixel = np.array(image.getpixel((int(x * 1600), int(y * 900))), dtype=float)
        kind = list(COLOURS)["ABCD".index(answer_of(entry))]
        cosines = [
            pixel @ colour / np.linalg.norm(pixel) / np.linalg.norm(colour) for colour in COLOURS[kind]
        ]
        right.append(max(cosines) > 0.97)
    # A pole may stand in front of one.
    assert np.mean(right) > 0.9


def test_what_the_ego_does_next(entries, records):
    for entry in of_kind(entries, "speed"):
        speeds = [record["speed"] for record in records[entry["scene"]][entry["frame"] :][:21]]
        assert len(speeds) == 21
        change = speeds[-1] - speeds[0]
        if answer_of(entry) == "D":
            assert min(speeds[1:]) < 1
        else:
            assert answer_of(entry) == ("A" if change > 1 else "C" if change < -1 else "B")
            assert change > 1 or min(speeds[1:]) >= 1
    for entry in of_kind(entries, "course"):
        headings = np.unwrap(
            [record["theta"] for record in records[entry["scene"]][entry["frame"] :][:21]]
        )  # clockwise seen from above
        turned = np.degrees(headings[-1] - headings[0])
        assert answer_of(entry) == ("A" if turned < -8 else "B" if turned > 8 else "C")


@pytest.mark.parametrize(
    ("speeds", "option"),
    [
        ([5] * 21, "Keep its speed."),
        ([5] * 20 + [6.5], "Speed up."),
        ([5] * 20 + [3.5], "Slow down."),
        ([5] * 10 + [0.5] * 10 + [4.5], "Stop."),
        ([0.0] * 21, "Stop."),
        ([0.0] * 10 + [1.5] * 11, "Speed up."),
        ([5] * 20, None),
    ],
)
def test_what_counts_as_a_change_of_speed(speeds, option):
    kind = next(kind for kind in KINDS if kind.name == "speed")
    moments = [Moment(speed, 0.0, 4, brakes=False, red_light=False, road_users=()) for speed in speeds]
    answer = kind.answer(moments, 0)
    assert (answer and kind.options[answer[0]]) == option


def test_command_and_brake(entries, records):
    for entry in of_kind(entries, "command"):
        command = records[entry["scene"]][entry["frame"]]["command_near"]
        assert answer_of(entry) == {1: "A", 2: "B", 3: "C", 4: "C", 5: "D", 6: "D"}[command]
    for entry in of_kind(entries, "brake"):
        assert answer_of(entry) == ("A" if records[entry["scene"]][entry["frame"]]["should_brake"] else "B")
    lights = {
        "no red light" not in entry["messages"][1]["content"]
        for entry in of_kind(entries, "brake")
        if any(
            box["class"] == "traffic_light" and box["affects_ego"]
            for box in records[entry["scene"]][entry["frame"]]["bounding_boxes"]
        )
    }
    assert lights == {True}


def test_no_answer_is_commoner_than_all_others_together(root, tmp_path):
    answers = write_demo_questions(root, tmp_path / "q.json", every=3)
    assert {name for _, name in answers.counts} <= {kind.name for kind in KINDS}
    for counter in answers.counts.values():
        assert 2 * max(counter.values(), default=0) <= counter.total()
    written = json.loads((tmp_path / "q.json").read_text())["data"]
    assert sum(counter.total() for counter in answers.counts.values()) == len(written)
    train = [counter for (side, _), counter in answers.counts.items() if side == "train"]
    share = sum(max(counter.values(), default=0) for counter in train) / sum(
        counter.total() for counter in train
    )
    assert answers.share_of_commonest("train") == share <= 0.5


def test_a_kind_whose_answers_are_all_the_same_is_dropped_and_shown(tmp_path):
    write_demo_data(tmp_path / "data", clips=1, frames=2)
    answers = write_demo_questions(tmp_path / "data", tmp_path / "q.json", every=1)
    assert json.loads((tmp_path / "q.json").read_text())["data"] == []
    assert not any(answers.counts.values())
    assert "train command: none: all have the same answer\n" in str(answers)


def test_the_source_reads_them(root, tmp_path, entries):
    file = tmp_path / "deep" / "q.json"
    write_demo_questions(root, file, every=2)
    source = open_source("drive-kd", file)
    assert source.identity.licence == "CC0-1.0"
    selection = source.select()
    assert selection.notes == selection.failed == ()
    assert {clip.split for clip in selection.clips} == {"train", "val"}
    assert selection.samples == len(entries)
    opened = selection.clips[0].open()
    samples = [opened.sample(index) for index in range(selection.clips[0].samples)]
    assert {sample.capability for sample in samples} == {"perception", "reasoning", "planning"}
    assert {len(sample.images) for sample in samples} == {1, 6}
    assert all(sample.question.count("<image>") == len(sample.images) for sample in samples)
    # Questions about the same images come one after the other.
    changes = sum(a.images != b.images for a, b in pairwise(samples))
    assert changes + 1 == len({sample.images for sample in samples}) < len(samples)


def test_equal_seeds_give_equal_bytes(root, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link").symlink_to(root)
    for name, where, seed in (("a", root, 0), ("b", tmp_path / "other/link", 0), ("c", root, 1)):
        write_demo_questions(where, tmp_path / name, every=2, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_a_file_is_not_overwritten(root, tmp_path):
    file = tmp_path / "q.json"
    write_demo_questions(root, file)
    write_demo_questions(root, file)
    with pytest.raises(RequestError, match="holds something else"):
        write_demo_questions(root, file, seed=1)
    with pytest.raises(RequestError, match="cannot be asked"):
        write_demo_questions(root, tmp_path / "r.json", every=0)
    assert [path.name for path in tmp_path.iterdir()] == ["q.json"]


def test_command_line(root, tmp_path):
    done = CliRunner().invoke(app, ["demo-questions", str(root), str(tmp_path / "q.json"), "--every", "4"])
    assert done.exit_code == 0
    assert "train nearest camera: A. CAM_FRONT." in done.stdout
    assert re.search(r"train: the commonest answer of each kind is right in \d+\.\d%", done.stdout)
