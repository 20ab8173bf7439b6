"""Drive-KD's own JSON with all that it allows, and what cannot be used."""

import json
import pickle
import shutil

import pytest

from cache_schema.errors import ClipError, RequestError
from pipeline.questions.drive_kd import DriveKdQuestions
from pipeline.source import open_source
from tests.paths import GOLDEN

RECORDED = GOLDEN / "drive_kd"


def questions_of(file, split="all"):
    return [question for clip in DriveKdQuestions(file).select(split).clips for question in clip.questions]


def test_the_recorded_samples():
    """Their texts, capabilities and images are those that the authors' loader was given."""
    source = open_source("drive-kd", RECORDED / "data.json")
    assert source.kind == "questions"
    (clip,) = source.select().clips
    assert (clip.name, clip.samples) == ("images", 3)
    opened = clip.open()
    written = json.loads((RECORDED / "data.json").read_text())
    truth = opened.ground_truth()
    assert truth["capability"].tolist() == [0, 1, 2]
    assert truth["frame_index"].tolist() == truth["question_id"].tolist() == [0, 1, 2]
    assert [len(digests) for digests in truth["image_digests"]] == [1, 2, 6]
    for index, item in enumerate(written):
        sample = opened.sample(index)
        question, answer = (
            (item["question"], item["answer"])
            if "question" in item
            else (message["content"] for message in item["messages"])
        )
        assert (sample.question, sample.answer) == (question, answer)
        assert sample.capability == ("perception", "reasoning", "planning")[index]
        assert [image.written for image in sample.images] == item["images"]
        assert all(image.file.samefile(RECORDED / image.written) for image in sample.images)
        assert [digest.tobytes().hex() for digest in truth["image_digests"][index]] == [
            image.sha256 for image in sample.images
        ]


@pytest.mark.parametrize("key", [None, "data", "items", "samples", "dataset", "records"])
def test_containers(write_json, entry, key):
    entries = [entry(), 3, "text", None, [], entry(question="Why?")]
    file = write_json(entries if key is None else {"info": [1], key: entries})
    selection = DriveKdQuestions(file.parent).select()
    assert [question.question for question in selection.clips[0].questions] == ["What?", "Why?"]
    assert [question.question_id for question in selection.clips[0].questions] == [0, 5]
    assert any("no JSON objects are left out: 4, the first is entry 1" in note for note in selection.notes)


def test_flat_keys_win_where_both_are_text(write_json, entry):
    messages = [
        {"role": "system", "content": "no"},
        {"role": "user", "content": "first?"},
        "no message",
        {"role": "user", "content": "second?"},
        {"role": "assistant", "content": "one"},
        {"role": "assistant", "content": "two"},
    ]
    file = write_json(
        [
            entry(messages=messages),
            entry(messages=messages, answer=None),
            entry(messages=messages, question=3),
        ]
    )
    assert [(question.question, question.answer) for question in questions_of(file)] == [
        ("What?", "That."),
        ("first?", "one"),
        ("first?", "one"),
    ]


def test_the_first_key_that_is_there_names_the_capability(write_json, entry):
    file = write_json(
        [
            entry(capability="plan", type="percep", question_type="Behavior"),
            entry(capability="plan", type="per"),
            entry(),
        ]
    )
    assert [question.capability for question in questions_of(file)] == ["reasoning", "perception", "planning"]
    file = write_json([entry(), entry() | {"question_type": None}])
    with pytest.raises(
        RequestError, match=r"entry 1 of .*questions.json is of an unknown capability: 'None'"
    ):
        questions_of(file)
    with pytest.raises(RequestError, match="prediction, behavior, behaviour -> reasoning"):
        questions_of(write_json([entry(capability=None)]))


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"answer": None}, "without an answer in text"),
        ({"answer": " \n"}, "without an answer in text"),
        ({"answer": ["That."]}, "without an answer in text"),
        ({"question": ""}, "question is no text"),
        ({"question": "\ud800"}, "question is no text"),
        ({"question": None, "messages": [{"role": "user", "content": [{"type": "text"}]}]}, "is no text"),
        ({"images": None}, "without a list of paths of images"),
        ({"images": []}, "without a list of paths of images"),
        ({"images": "a/1.png"}, "without a list of paths of images"),
        ({"images": ["a/1.png", 3]}, "without a list of paths of images"),
    ],
)
def test_what_cannot_be_used_is_counted(write_json, entry, changes, note):
    file = write_json([entry(), entry(**changes), entry(**changes)])
    selection = DriveKdQuestions(file).select()
    assert selection.samples == 1
    assert any(
        note in sentence and "left out: 2, the first is entry 1" in sentence for sentence in selection.notes
    )
    with pytest.raises(ClipError, match=note):
        DriveKdQuestions(write_json([entry(**changes)])).select()


def test_images_beyond_the_placeholders_are_dropped_as_drive_kd_does(write_json, entry):
    images = ["a/1.png", "a/2.png", "a/3.png"]
    file = write_json(
        [
            entry(question="<image>one <image>two", images=images),
            entry(question="none", images=images),
            entry(question="<image><image><image><image>", images=images),
        ]
    )
    found = {question.question_id: question for question in questions_of(file)}
    assert [len(found[number].images) for number in range(3)] == [2, 3, 3]
    assert found[0].question == "<image>one <image>two"
    assert found[0].images == ("a/1.png", "a/2.png")
    notes = DriveKdQuestions(file).select().notes
    assert any(
        "images beyond the last <image>" in note and ": 1, the first is entry 0" in note for note in notes
    )


def test_scenes_and_frames_in_order(write_json, entry):
    def nuscenes(camera, time, **changes):
        name = f"log-1__{camera}__{time}.jpg"
        return entry(images=[f"samples/{camera}/{name}"], **changes)

    file = write_json(
        [
            nuscenes("CAM_FRONT", 2000),
            entry(images=["b/9.png"]),
            nuscenes("CAM_BACK", 1000, question="Back?"),
            entry(images=["b/7.png"], question="Seven?"),
            nuscenes("CAM_FRONT", 1010, question="Front?"),
            nuscenes("CAM_FRONT", 2000, question="Again?"),
            entry(images=["b/9.png"], question="Nine?"),
            entry(images=["b/CAM_FRONT/1.png"], scene="mine", frame=8, question_id=4),
            entry(images=["b/CAM_FRONT/1.png"], scene="mine", frame=3, question_id=9),
            entry(images=["b/CAM_BACK/1.png"], scene="mine", frame=3, question_id=1),
            entry(images=["b/CAM_FRONT/1.png"], scene="mine", frame=3, question_id=2),
        ]
    )
    clips = {clip.name: clip for clip in DriveKdQuestions(file).select().clips}
    assert list(clips) == ["b", "log-1", "mine"]
    assert [clip.index for clip in clips.values()] == [0, 1, 2]
    rows = {
        name: [(question.frame, question.question_id, question.question) for question in clip.questions]
        for name, clip in clips.items()
    }
    assert rows["b"] == [(0, 1, "What?"), (0, 6, "Nine?"), (1, 3, "Seven?")]
    assert rows["log-1"] == [(0, 2, "Back?"), (1, 4, "Front?"), (2, 0, "What?"), (2, 5, "Again?")]
    # The same images of a frame are neighbours, whatever the numbers of the questions.
    assert [row[:2] for row in rows["mine"]] == [(3, 2), (3, 9), (3, 1), (8, 4)]


def test_the_first_exposure_of_a_frame_is_its_time(write_json, entry):
    """Whatever the order of its cameras."""

    def frame(question, *times):
        return entry(question=question, images=[f"log__CAM_{'ABC'[time % 10]}__{time}.jpg" for time in times])

    file = write_json([frame("later?", 5000, 3001), frame("earlier?", 4000, 2001, 9002), frame("one?", 2001)])
    rows = [(question.frame, question.question) for question in questions_of(file)]
    assert rows == [(0, "earlier?"), (0, "one?"), (1, "later?")]


def test_a_file_without_folders_is_one_scene(write_json, entry):
    file = write_json([entry(images=["1.png"]), entry(images=["../2.png"])], "trip.json")
    (clip,) = DriveKdQuestions(file).select().clips
    assert (clip.name, clip.samples) == ("trip", 2)


def test_sides(write_json, entry):
    file = write_json(
        [
            entry(images=["s1/1.png"]),
            entry(images=["s1/2.png"], split="val"),
            entry(images=["s2/1.png"], split="train"),
            entry(images=["T_Junction_Town05_Route1_Weather3/camera/rgb_front/00004.jpg"]),
        ]
    )
    selection = DriveKdQuestions(file).select()
    sides = {clip.name: clip.split for clip in selection.clips}
    assert sides == {"TJunction_Town05_Route1_Weather3": "train", "s1": "val", "s2": "train"}
    assert selection.notes == ()
    (val,) = DriveKdQuestions(file).select("val").clips
    assert (val.name, val.index) == ("s1", 1)
    ruled = DriveKdQuestions(
        write_json([entry(images=[f"s{number}/1.png"]) for number in range(40)])
    ).select()
    val = [clip for clip in ruled.clips if clip.split == "val"]
    assert 0 < len(val) < 20
    rule = f"40 scenes are: one in 10 is for validation, by the sha256 of its name ({len(val)} here)"
    assert any(rule in note for note in ruled.notes)


def test_a_scene_or_an_image_on_both_sides_is_refused(write_json, entry):
    file = write_json([entry(split="train"), entry(split="val")])
    with pytest.raises(RequestError, match="scene a is for training by entry 0, for validation by entry 1"):
        DriveKdQuestions(file).select()
    file = write_json(
        [entry(split="train", scene="x"), entry(split="val", scene="y", images=["b/../a/1.png"])]
    )
    with pytest.raises(RequestError, match=r"both sides of the split: entry 0 .*entry 1"):
        DriveKdQuestions(file).select()
    file = write_json([entry(split="train")])
    with pytest.raises(RequestError, match="none of the 1 scenes"):
        DriveKdQuestions(file).select("val")


@pytest.mark.parametrize(
    "changes",
    [{"split": "test"}, {"scene": 3}, {"frame": -1}, {"frame": 2**31}, {"frame": "1"}, {"question_id": True}],
)
def test_our_own_keys_are_checked(write_json, entry, changes):
    with pytest.raises(RequestError, match=f"entry 0 of .* has '{next(iter(changes))}'"):
        DriveKdQuestions(write_json([entry(**changes)])).select()


@pytest.mark.parametrize("content", [b"[{", b"\xff\xfe", b"[" * 100_000, b'{"data": {"a": 1}}', b"3", b""])
def test_a_file_that_is_no_list(tmp_path, content):
    (tmp_path / "questions.json").write_bytes(content)
    with pytest.raises(ClipError, match=r"questions\.json"):
        DriveKdQuestions(tmp_path).select()


def test_which_file(tmp_path, write_json, entry):
    with pytest.raises(ClipError, match="does not exist"):
        DriveKdQuestions(tmp_path / "none.json")
    with pytest.raises(ClipError, match="no JSON file"):
        DriveKdQuestions(tmp_path)
    write_json([entry()], "a.json")
    write_json([entry()], "b.json")
    with pytest.raises(RequestError, match=r"2 JSON files: a\.json, b\.json"):
        DriveKdQuestions(tmp_path)


def test_a_byte_order_mark(tmp_path, entry):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([entry()]).encode())
    assert len(questions_of(tmp_path)) == 1


def test_identity(write_json, entry):
    assert DriveKdQuestions(write_json([entry()])).identity.licence.startswith("unknown: ")
    stated = {"name": "mine", "licence": "CC0-1.0", "data": [entry()]}
    identity = DriveKdQuestions(write_json(stated)).identity
    assert (identity.name, identity.licence, str(identity)) == ("mine", "CC0-1.0", "mine")


def test_repeated_entries_are_kept_and_counted(write_json, entry):
    selection = DriveKdQuestions(write_json([entry(), entry(answer="No."), entry()])).select()
    assert selection.samples == 3
    assert any("repeat another one are kept: 1, the first is entry 2" in note for note in selection.notes)


def test_an_image_that_is_missing_leaves_its_clip_out(tmp_path, write_json, entry):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_bytes(b"one")
    clips = DriveKdQuestions(write_json([entry(), entry(images=["b/2.png"], question_id=7)])).select().clips
    assert clips[0].open().sample(0).images[0].file == tmp_path / "a/1.png"
    with pytest.raises(ClipError, match=r"clip b .* question 7 of frame 0 .*b/2\.png"):
        clips[1].open()
    assert clips[1].fingerprint() != clips[0].fingerprint()
    for bad in ("a", "a/1.png/2.png", "nul\0"):
        (clip,) = DriveKdQuestions(write_json([entry(images=[bad])])).select().clips
        with pytest.raises(ClipError, match="cannot be read"):
            clip.open()


def test_a_fingerprint_is_of_the_content_wherever_it_lies(tmp_path, entry):
    def clip(folder, image=b"one", *, images="a", **changes):
        (tmp_path / folder / images).mkdir(parents=True)
        (tmp_path / folder / images / "1.png").write_bytes(image)
        content = json.dumps([entry(images=[f"{images}/1.png"], scene="s", **changes)])
        (tmp_path / folder / "q.json").write_text(content)
        (found,) = DriveKdQuestions(tmp_path / folder).select().clips
        return found.fingerprint()

    first = clip("1")
    assert first == clip("2") == clip("3", images="elsewhere/deep")
    others = [
        clip("4", b"two"),
        clip("5", answer="Other."),
        clip("6", capability="reasoning"),
        clip("7", frame=1),
        clip("8", question="What? "),
    ]
    assert len({first, *others}) == 6


def test_links_and_folders_above_are_followed_as_they_are_written(tmp_path, entry):
    real = tmp_path / "disk/images"
    real.mkdir(parents=True)
    (real / "1.png").write_bytes(b"one")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/linked").symlink_to(real)
    content = [entry(images=["linked/1.png", "../disk/images/1.png", str(real / "1.png")])]
    (tmp_path / "set/q.json").write_text(json.dumps(content))
    (tmp_path / "link.json").symlink_to(tmp_path / "set/q.json")
    (clip,) = DriveKdQuestions(tmp_path / "set/q.json").select().clips
    assert clip.name == "linked"
    assert {image.sha256 for image in clip.open().sample(0).images} == {
        "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    }
    # A link to the file alone: paths are relative to where the link is.
    with pytest.raises(ClipError):
        DriveKdQuestions(tmp_path / "link.json").select().clips[0].open()


def test_every_image_is_read_once(tmp_path, write_json, entry, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_bytes(b"one")
    (clip,) = (
        DriveKdQuestions(write_json([entry(question=f"{number}?") for number in range(5)])).select().clips
    )
    read = []
    monkeypatch.setattr("pipeline.questions.clips.sha256_of", lambda file: read.append(file) or "00" * 32)
    clip.open()
    assert len(read) == 1


def test_sources_and_clips_travel_to_workers(tmp_path):
    shutil.copytree(RECORDED / "images", tmp_path / "images")
    shutil.copy(RECORDED / "data.json", tmp_path)
    source = open_source("drive-kd", tmp_path)
    again = pickle.loads(pickle.dumps(source))
    assert again.identity == source.identity
    (clip,) = pickle.loads(pickle.dumps(source.select().clips))
    assert clip.open().sample(2) == source.select().clips[0].open().sample(2)
