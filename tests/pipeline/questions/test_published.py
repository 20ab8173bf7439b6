"""Bench2Drive-VL, Chat-B2D and DriveLM-nuScenes in the layouts in which they are published."""

import json
import pickle

import pytest

from cache_schema.errors import ClipError, RequestError
from pipeline.bench2drive.geometry import CAMERAS
from pipeline.questions.chat_b2d import kind_of
from pipeline.source import open_source

FIRST, SECOND = "Accident_Town03_Route9001_Weather0", "TJunction_Town05_Route9002_Weather3"
FOLDERS = ["rgb_front", "rgb_front_left", "rgb_front_right", "rgb_back", "rgb_back_left", "rgb_back_right"]


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.fixture
def data(tmp_path):
    """A folder with the images of two frames of two Bench2Drive clips."""
    for clip in (FIRST, SECOND):
        for folder in FOLDERS:
            for frame in (0, 5):
                write(
                    tmp_path / f"bench2drive/v1/{clip}/camera/{folder}/{frame:05d}.jpg",
                    f"{clip}{folder}{frame}",
                )
    return tmp_path


def pair(question, answer, **more):
    return {"Q": question, "A": answer, "C": None, "con_up": None, "cluster": None, "layer": None} | more


@pytest.fixture
def vl(data):
    """Two frames of one clip, and one of another, as Bench2Drive-VL has them."""
    frame = {
        "key_object_infos": {},
        "QA": {
            "perception": [pair("Cars?", "<10.5, 3.2>", qid=7), pair("Lights?", "Red", qid=3)],
            "prediction": [pair("Collide?", "No", qid=20)],
            "planning": [pair("Brake?", "Yes", qid=41), pair("Keys?", None, qid=50), "no pair"],
            "behaviour": [pair("Keys?", "FOLLOW_LANE, KEEP", qid=50)],
        },
        "extra_flags": {},
        "image_paths": {camera: f"/their/disk/{camera}.jpg" for camera in CAMERAS},
    }
    root = data / "vl"
    write(root / FIRST / "00005.json", frame)
    write(root / FIRST / "00000.json", {**frame, "QA": {"planning": [pair("First?", "Yes")]}})
    write(root / SECOND / "00005.json", {**frame, "QA": {"behavior": [pair("Other?", "Yes")]}})
    (root / "logs").mkdir()
    write(root / "stats.json", "{}")
    return root


def test_bench2drive_vl(data, vl):
    source = open_source("bench2drive-vl", vl)
    assert (source.identity.name, source.identity.licence) == ("Bench2Drive-VL-base", "CC BY-NC-ND")
    selection = source.select()
    first, second = pickle.loads(pickle.dumps(selection.clips))
    assert [clip.name for clip in (first, second)] == [FIRST, SECOND]
    assert first.tags["town"] == "Town03"
    opened = first.open()
    samples = [opened.sample(index) for index in range(first.samples)]
    rows = [(sample.frame, sample.question_id, sample.capability, sample.answer) for sample in samples]
    assert rows == [
        (0, 0, "planning", "Yes"),
        (5, 3, "perception", "Red"),
        (5, 7, "perception", "<10.5, 3.2>"),
        (5, 20, "reasoning", "No"),
        (5, 41, "planning", "Yes"),
        (5, 50, "reasoning", "FOLLOW_LANE, KEEP"),
    ]
    folder = data / "bench2drive/v1" / FIRST / "camera"
    assert [image.file for image in samples[1].images] == [folder / name / "00005.jpg" for name in FOLDERS]
    notes = "\n".join(selection.notes)
    assert "without an answer in text are left out: 1, the first is planning 1 of frame 5" in notes
    assert "question is no text are left out: 1, the first is planning 2 of frame 5" in notes


def test_sides_are_those_of_the_clips(data, vl):
    source = open_source("bench2drive-vl", vl)
    assert [clip.split for clip in source.select().clips] == ["train", "train"]
    write(data / "bench2drive/splits/bench2drive_base_train_val_split.json", {"val": [f"v1/{SECOND}"]})
    assert [clip.split for clip in source.select().clips] == ["train", "val"]


def test_broken_clips_are_left_out_by_name(data, vl):
    write(vl / FIRST / "00005.json", "{")
    write(vl / "Absent_Town03_Route1_Weather0/00000.json", {"QA": {}})
    write(vl / "Twice_Town03_Route1_Weather0/00000.json", {"QA": {}})
    write(vl / "Twice_Town03_Route1_Weather0/0.json", {"QA": {}})
    (data / "bench2drive/v1/Twice_Town03_Route1_Weather0/camera").mkdir(parents=True)
    write(data / "bench2drive/v1/Wrong_Town03_Route1_Weather0/camera/x", "")
    write(vl / "Wrong_Town03_Route1_Weather0/00003.json", {"QA": {"planning": {}}})
    selection = open_source("bench2drive-vl", vl).select()
    assert [clip.name for clip in selection.clips] == [SECOND]
    failed = {left.clip.partition("_")[0]: left.reason for left in selection.failed}
    assert "00005.json cannot be read" in failed["Accident"]
    assert "images of Absent_Town03_Route1_Weather0 are not there" in failed["Absent"]
    assert "two files: 0.json and 00000.json" in failed["Twice"]
    assert "frame 3 of Wrong" in failed["Wrong"]


def test_an_unknown_kind_of_question(vl):
    write(vl / SECOND / "00005.json", {"QA": {"trivia": [pair("Who?", "I")]}})
    with pytest.raises(
        RequestError, match=r"trivia 0 of frame 5 of TJunction.*00005\.json.* unknown capability"
    ):
        open_source("bench2drive-vl", vl).select()


def test_nothing_there(tmp_path, data, vl):
    for name in ("bench2drive-vl", "chat-b2d"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ClipError, match="there are no"):
            open_source(name, tmp_path / "empty").select()
    (data / "bench2drive").rename(data / "elsewhere")
    with pytest.raises(ClipError, match=r"images .* are not there"):
        open_source("bench2drive-vl", vl).select()
    (vl / "bench2drive").symlink_to(data / "elsewhere")
    assert open_source("bench2drive-vl", vl).select().samples == 7


def turns(question, answer):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


@pytest.mark.parametrize("root", [".", "chat-B2D"])
def test_chat_b2d(data, root):
    rounds = [
        turns("What can you tell about the current driving conditions from the images?", "Sunny."),
        turns(
            "Where are the critical objects in the scene and what impact do they have?", "Car at <1.5, 20.1>"
        ),
        turns("Please describe your driving behavior and explain the reasons.", "You should keep."),
        turns(
            "How do the critical objects in the current scene differ from those in the past scene?", "None."
        ),
        turns("Can you summarize what the panoramic images show?", ""),
        "no round",
    ]
    write(data / "chat-B2D/train" / FIRST / "00005.json", rounds)
    write(data / "chat-B2D/val" / SECOND / "00000.json", rounds[:1])
    source = open_source("chat-b2d", data / root)
    assert source.identity.licence.startswith("unknown: ")
    selection = source.select()
    train, val = selection.clips
    assert [(clip.name, clip.split, clip.samples) for clip in (train, val)] == [
        (FIRST, "train", 4),
        (SECOND, "val", 1),
    ]
    samples = [train.open().sample(index) for index in range(4)]
    assert [sample.capability for sample in samples] == ["perception", "perception", "reasoning", "reasoning"]
    assert samples[1].answer == "Car at <1.5, 20.1>"
    assert [image.file.parent.name for image in samples[0].images] == FOLDERS
    assert samples[0].frame == 5
    assert len(selection.notes) == 2
    write(data / "chat-B2D/val" / FIRST / "00000.json", rounds[:1])
    with pytest.raises(RequestError, match=r"for training by round 0 of train/.*, for validation by round 0"):
        source.select()


def test_kinds_of_questions_in_chat_b2d():
    with pytest.raises(RequestError, match="no kind of question fits: 'Hello!'"):
        kind_of("Hello!", "round 0")
    assert kind_of("Please provide a safe planning trajectory.", "round 0") == "planning"
    assert kind_of("Identify the significant objects and their impacts.", "round 0") == "perception"
    assert kind_of("In the past few frames, has a traffic light mattered?", "round 0") == "behavior"


def test_drivelm(tmp_path):
    def frame(time, *planning):
        paths = {
            camera: f"../nuscenes/samples/{camera}/log__{camera}__{time + number}.jpg"
            for number, camera in enumerate(("CAM_BACK", "CAM_FRONT"))
        }
        for path in paths.values():
            write(tmp_path / "QA" / path, path)
        kinds = {
            "perception": [],
            "prediction": [],
            "planning": list(planning),
            "behavior": [pair("How?", "So.")],
        }
        return {"key_object_infos": {}, "QA": kinds, "image_paths": paths}

    scenes = {
        "f0f120e4": {"scene_description": "", "key_frames": {"b": frame(5000), "a": frame(1000)}},
        "0ac05652": {"key_frames": {"c": frame(100, pair("Why <c1,CAM_BACK,1055.5,382.7>?", "Because."))}},
        "broken": {"key_frames": {"d": {"QA": {}}}},
    }
    write(tmp_path / "QA/v1_1_train_nus.json", scenes)
    source = open_source("drivelm", tmp_path / "QA")
    assert "CC BY-NC-SA 4.0" in source.identity.licence
    selection = source.select()
    one, two = selection.clips
    assert [left.clip for left in selection.failed] == ["broken"]
    assert any("one in 10" in note for note in selection.notes)
    assert [(clip.name, clip.samples, clip.tags) for clip in (one, two)] == [
        ("0ac05652", 2, {}),
        ("f0f120e4", 2, {}),
    ]
    sample = one.open().sample(0)
    assert (sample.question, sample.capability) == ("Why <c1,CAM_BACK,1055.5,382.7>?", "planning")
    assert [image.written.split("/")[3] for image in sample.images] == ["CAM_BACK", "CAM_FRONT"]
    earlier, later = (two.open().sample(index) for index in range(2))
    assert (earlier.frame, later.frame) == (0, 1)
    assert earlier.images[0].written.endswith("__1000.jpg")
    assert earlier.capability == "reasoning"
    write(tmp_path / "QA/v1_1_train_nus.json", [])
    with pytest.raises(ClipError, match="is not of DriveLM's form"):
        open_source("drivelm", tmp_path / "QA").select()
