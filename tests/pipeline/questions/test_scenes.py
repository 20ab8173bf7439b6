"""Scenes, frames and sides, by the paths of images."""

import hashlib
import re

import pytest

from cache_schema.storage.safe_io import CLIP_NAME
from pipeline.bench2drive.splits import bench2drive_validation
from pipeline.questions.scenes import clip_name, place_of, side_of, tags_of

LOG = "n015-2018-07-24-11-22-45+0800"
B2D = "Accident_Town03_Route156_Weather0"


@pytest.mark.parametrize(
    ("written", "scene", "frame", "time_us"),
    [
        (f"samples/CAM_BACK/{LOG}__CAM_BACK__1532402927637525.jpg", LOG, None, 1532402927637525),
        (f"../v1/{B2D}/camera/rgb_front/00012.jpg", B2D, 12, None),
        (f"/data/{B2D}/camera/rgb_back_left/00000.jpg", B2D, 0, None),
        ("T_Junction_Town05_Route1_Weather3/x/7.jpg", "TJunction_Town05_Route1_Weather3", 7, None),
        ("bdd100k/images/100k/train/0000f77c-6257be58.jpg", "0000f77c-6257be58", None, None),
        ("track/b1c66a42-6f7d68ca/b1c66a42-6f7d68ca-0000013.jpg", "b1c66a42-6f7d68ca", 13, None),
        ("images/s0_v0.png", "images", None, None),
        ("trip 4/CAM_FRONT/1.png", "trip 4", None, None),
        (r"C:\trip4\rgb_front\1.png", "trip4", None, None),
        ("../1.png", None, None, None),
        ("/1.png", None, None, None),
        ("1.png", None, None, None),
    ],
)
def test_what_a_path_tells(written, scene, frame, time_us):
    assert place_of(written) == (scene, frame, time_us)


def test_bench2drive_s_list_decides_for_its_clips():
    assert side_of(bench2drive_validation()[0]) == "val"
    assert side_of("Accident_Town03_Route9001_Weather0") == "train"


def test_one_other_scene_in_ten_is_for_validation():
    names = [f"scene-{number:04d}" for number in range(1000)]
    chosen = [name for name in names if side_of(name) == "val"]
    assert chosen == [name for name in names if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 == 0]
    assert 70 < len(chosen) < 130


def test_names_of_clips():
    assert clip_name("scene-0061") == "scene-0061"
    names = [
        clip_name(name) for name in (LOG, LOG.replace("+", "_"), "../up", "日本", "中国", "x" * 300, "a\n")
    ]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(CLIP_NAME, name) for name in names)


def test_tags_of_a_bench2drive_clip():
    assert tags_of(B2D) == {"scenario": "Accident", "town": "Town03", "route": "156", "weather": "0"}
    assert tags_of(LOG) == {}
