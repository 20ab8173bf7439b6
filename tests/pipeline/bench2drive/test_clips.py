"""Names, discovery, frames and splits of raw clips."""

import json
from pathlib import Path

import pytest

from cache_schema.errors import ClipError
from pipeline.bench2drive.clips import ClipName, RawClip, current_name, find_clips
from pipeline.bench2drive.source import Bench2Drive
from pipeline.bench2drive.splits import SPLIT_FILE, bench2drive_validation, split_of, validation_clips

NAME = "Accident_Town03_Route156_Weather0"


def make_clip(folder, name=NAME, frames=3, suffix=".json.gz"):
    anno = folder / name / "anno"
    anno.mkdir(parents=True)
    for frame in range(frames):
        (anno / f"{frame:05d}{suffix}").touch()
    return RawClip(anno.parent)


def test_a_name_parses():
    assert ClipName.parse(NAME) == ClipName("Accident", "Town03", 156, 0)
    assert ClipName.parse("LaneChange_Town10HD_Route7_Weather26").town == "Town10HD"


@pytest.mark.parametrize(
    "name",
    [
        "VehicleTurningRoutePedestrian_Town15_Route523_Weathe",
        "Accident_Town3_Route156_Weather0",
        "T_Junction_Town03_Route156_Weather0",
        NAME + "x",
        NAME + "\n",
        NAME.replace("03", "\N{ARABIC-INDIC DIGIT ZERO}\N{ARABIC-INDIC DIGIT THREE}"),
        "",
    ],
)
def test_a_name_does_not_parse(name):
    with pytest.raises(ClipError, match="does not parse"):
        ClipName.parse(name)


@pytest.mark.parametrize("below", [".", "v1"])
def test_clips_are_found_sorted_and_other_folders_passed_over(tmp_path, below):
    for name in (NAME, "AccidentTwoWays_Town12_Route1444_Weather0"):
        make_clip(tmp_path / below, name)
    (tmp_path / "maps").mkdir()
    (tmp_path / "splits").mkdir()
    (tmp_path / "file").touch()
    discovery = find_clips(tmp_path)
    assert [clip.name for clip in discovery.clips] == ["AccidentTwoWays_Town12_Route1444_Weather0", NAME]
    assert discovery.rejected == {}


def test_folders_that_cannot_be_clips_are_reported(tmp_path):
    make_clip(tmp_path, "VehicleTurningRoutePedestrian_Town15_Route523_Weathe")
    (tmp_path / NAME / "camera").mkdir(parents=True)
    discovery = find_clips(tmp_path)
    assert discovery.clips == ()
    reasons = {name: error.happened for name, error in discovery.rejected.items()}
    assert "does not parse" in reasons["VehicleTurningRoutePedestrian_Town15_Route523_Weathe"]
    assert "no anno" in reasons[NAME]


@pytest.mark.parametrize("made", [True, False])
def test_an_empty_root(tmp_path, made):
    root = tmp_path / "root"
    if made:
        (root / "maps").mkdir(parents=True)
    with pytest.raises(ClipError, match="no clips" if made else "does not exist"):
        find_clips(root)


def test_frames_are_sorted_by_number(tmp_path):
    clip = make_clip(tmp_path, frames=12)
    (clip.path / "anno" / ".DS_Store").touch()
    (clip.path / "anno" / "._00000.json.gz").touch()
    assert clip.frames == tuple(range(12))
    assert clip.annotation_path(11).name == "00011.json.gz"


def test_plain_annotations_are_read_where_there_is_no_gzip(tmp_path):
    clip = make_clip(tmp_path, suffix=".json")
    (clip.path / "anno" / "00001.json.gz").touch()
    assert [clip.annotation_path(frame).name for frame in clip.frames] == [
        "00000.json",
        "00001.json.gz",
        "00002.json",
    ]


def test_a_clip_without_frames(tmp_path):
    with pytest.raises(ClipError, match="no annotated frames"):
        _ = make_clip(tmp_path, frames=0).frames


@pytest.mark.parametrize("missing", [0, 4])
def test_a_hole_in_the_numbering(tmp_path, missing):
    clip = make_clip(tmp_path, frames=9)
    (clip.path / "anno" / f"{missing:05d}.json.gz").unlink()
    with pytest.raises(ClipError, match=f"lacks 1 annotated frames, the first {missing:05d}"):
        _ = clip.frames


def test_image_paths(tmp_path):
    clip = RawClip(tmp_path / NAME)
    assert clip.image_path("CAM_FRONT_LEFT", 7) == tmp_path / NAME / "camera/rgb_front_left/00007.jpg"


def test_the_official_validation_clips():
    clips = bench2drive_validation()
    assert len(clips) == len(set(clips)) == 50
    assert clips[0] == "ParkingCrossingPedestrian_Town13_Route545_Weather25"
    assert clips[2] == "DynamicObjectCrossing_Town02_Route11_Weather11"
    assert clips[-1] == "ParkedObstacle_Town10HD_Route372_Weather8"
    assert all(ClipName.parse(clip) for clip in clips)
    assert split_of(clips[7], clips) == "val"
    assert split_of("Accident_Town03_Route156_Weather0", clips) == "train"


@pytest.mark.parametrize(
    ("root", "file"),
    [
        ("b2d", "b2d/splits"),
        ("b2d/v1", "b2d/splits"),
        ("data/bench2drive", "data/splits"),
        ("data/bench2drive/v1", "data/splits"),
        ("plain", "plain/splits"),
    ],
)
def test_the_root_s_own_split_wins(tmp_path, root, file):
    folder = tmp_path / root
    make_clip(folder if root.endswith("v1") or root == "plain" else folder / "v1")
    assert validation_clips(folder) == bench2drive_validation()
    (tmp_path / file).mkdir()
    split = tmp_path / file / "bench2drive_base_train_val_split.json"
    split.write_text(json.dumps({"val": [f"v1/{NAME}", "Other_Town01_Route2_Weather3"]}))
    assert validation_clips(folder) == (NAME, "Other_Town01_Route2_Weather3")


@pytest.mark.parametrize("text", ["{", "{}", '{"val": 3}', "[]"])
def test_a_broken_split_file(tmp_path, text):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/bench2drive_base_train_val_split.json").write_text(text)
    with pytest.raises(ClipError, match="split file"):
        validation_clips(tmp_path)


def own_split(root, content):
    (root / SPLIT_FILE).parent.mkdir(parents=True, exist_ok=True)
    (root / SPLIT_FILE).write_text(json.dumps(content))


def test_the_spelling_of_the_first_release():
    assert current_name("T_Junction_Town06_Route306_Weather20") == "TJunction_Town06_Route306_Weather20"
    assert current_name(NAME) == NAME
    with pytest.raises(ClipError) as caught:
        ClipName.parse("T_Junction_Town06_Route306_Weather20")
    assert "TJunction_Town06_Route306_Weather20" in caught.value.repair


@pytest.mark.parametrize(
    "entry",
    [
        f"v1/{NAME}/",
        NAME,
        f"{NAME}.tar.gz",
        f"v1\\{NAME}\\",
        f"data/bench2drive/v1/{NAME}",
        f"./v1/{NAME} ",
    ],
)
def test_an_entry_of_a_split_names_its_clip(tmp_path, entry):
    make_clip(tmp_path)
    own_split(tmp_path, {"val": [entry]})
    (clip,) = Bench2Drive(tmp_path).select().clips
    assert clip.split == "val"


def test_an_entry_of_a_split_may_have_the_old_spelling(tmp_path):
    own_split(tmp_path, {"val": ["v1/T_Junction_Town06_Route306_Weather20"]})
    assert validation_clips(tmp_path) == ("TJunction_Town06_Route306_Weather20",)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"val": f"v1/{NAME}"}, "is not a list"),
        ({"val": {NAME: 1}}, "is not a list"),
        ({"val": [[f"v1/{NAME}"]]}, "is not a text"),
        ({"val": [156]}, "156"),
        ({"val": [None]}, "is not a text"),
        ({"val": [f"v1/{NAME}/anno"]}, "names no clip"),
        ({"val": ["v1/"]}, "names no clip"),
        ({"val": [f"v1/{NAME}.mp4"]}, "names no clip"),
        ({"val": [f"v1/{NAME}"], "train": [f"{NAME}/"]}, f"{NAME} stands under 'val' and under 'train'"),
        ({"val": [], "train": NAME}, "is not a list"),
    ],
)
def test_a_split_file_that_can_be_misread_is_refused(tmp_path, content, named):
    make_clip(tmp_path)
    own_split(tmp_path, content)
    with pytest.raises(ClipError, match="split file") as caught:
        Bench2Drive(tmp_path).select()
    assert named in caught.value.happened


def test_a_split_file_that_names_nothing_of_what_is_there_is_told(tmp_path):
    make_clip(tmp_path)
    own_split(tmp_path, {"val": ["v1/Accident_Town03_Route165_Weather0"]})
    (note,) = Bench2Drive(tmp_path).select().notes
    assert "none of the 1 validation clips" in note
    assert str(tmp_path / SPLIT_FILE) in note
    for told in (
        {"val": ["v1/Accident_Town03_Route165_Weather0"], "train": [NAME]},
        {"val": [NAME]},
        {"val": []},
    ):
        own_split(tmp_path, told)
        assert Bench2Drive(tmp_path).select().notes == ()


def test_a_linked_v1_has_the_split_and_identity_of_its_root(tmp_path, monkeypatch):
    root, disk = tmp_path / "root", tmp_path / "disk/clips"
    make_clip(disk)
    own_split(root, {"val": [NAME]})
    (root / "data.json").write_text('{"name": "mine", "licence": "mine", "frame_rate_hz": 10.0}')
    (root / "v1").symlink_to(disk)
    (tmp_path / "link").symlink_to(root / "v1")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(root / "v1")
    monkeypatch.setenv("PWD", str(root / "v1"))
    for given in (root, root / "v1", root / "v1/", tmp_path / "elsewhere/../root/v1", Path(), Path(".")):
        source = Bench2Drive(given)
        (clip,) = source.select().clips
        assert (source.identity.name, clip.split) == ("mine", "val"), given
    # A link of another name to a v1/ that is a folder, as ever.
    (root / "v1").unlink()
    disk.rename(root / "v1")
    assert Bench2Drive(tmp_path / "link").identity.name == "mine"


def test_clips_beside_v1_are_named(tmp_path):
    other = "LaneChange_Town06_Route307_Weather21"
    make_clip(tmp_path / "v1")
    make_clip(tmp_path)
    make_clip(tmp_path, other)
    discovery = find_clips(tmp_path)
    assert [clip.path for clip in discovery.clips] == [tmp_path / "v1" / NAME]
    reasons = {place: error.happened for place, error in discovery.rejected.items()}
    assert reasons == {
        f"../{NAME}": f"the clip {NAME} lies beside v1/ for the second time",
        f"../{other}": f"the clip {other} lies beside v1/",
    }
    assert find_clips(tmp_path / "v1").rejected == {}


@pytest.mark.parametrize("below", [".", "v1"])
def test_clips_where_none_are_looked_for_are_named(tmp_path, below):
    folder = tmp_path / below
    lost = "LaneChange_Town06_Route307_Weather21"
    make_clip(folder)
    make_clip(folder / "part2", lost)
    make_clip(folder / "part3/v1", lost)
    (folder / f"{NAME}.tar.gz").touch()  # unpacked
    (folder / f"{lost}.tar.gz").touch()
    (folder / "ControlLoss_Town04_Route170_Weather14").symlink_to("nowhere")
    (folder / "unnamed" / "camera").mkdir(parents=True)
    (folder / ".partial").mkdir()
    (tmp_path / "splits").mkdir()
    discovery = find_clips(tmp_path)
    assert [clip.name for clip in discovery.clips] == [NAME]
    reasons = {place: error.happened for place, error in discovery.rejected.items()}
    assert reasons == {
        "part2": f"the folder part2 holds 1 clips, the first {lost}",
        "part3": f"the folder part3 holds 1 clips, the first {lost}",
        f"{lost}.tar.gz": f"the archive {lost}.tar.gz is not unpacked",
        "ControlLoss_Town04_Route170_Weather14": "ControlLoss_Town04_Route170_Weather14 leads to no folder",
        "unnamed": "the clip unnamed has no anno/",
    }


def test_one_frame_annotated_twice_is_no_frame(tmp_path):
    clip = make_clip(tmp_path)
    (clip.path / "anno" / "1.json").touch()
    with pytest.raises(ClipError, match="annotates a frame twice"):
        _ = clip.frames
