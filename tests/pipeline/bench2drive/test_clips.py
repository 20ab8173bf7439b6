"""Names, discovery, frames and splits of raw clips."""

import json

import pytest

from cache_schema.errors import ClipError
from pipeline.bench2drive.clips import ClipName, RawClip, find_clips
from pipeline.bench2drive.splits import bench2drive_validation, split_of, validation_clips

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
