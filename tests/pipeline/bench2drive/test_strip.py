"""The strip of the three front cameras."""

import math
import pickle

import numpy as np
import pytest
from PIL import Image

from cache_schema.errors import ClipError, RequestError
from pipeline.bench2drive.geometry import CAMERAS
from pipeline.bench2drive.source import Bench2Drive
from pipeline.bench2drive.strip import COLUMNS, CUT, ROWS, STRIPS, cut
from pipeline.source import inputs_of, with_inputs
from tests.toy.source import Texts


def places(camera: int) -> Image.Image:
    """1600x900 pixels that say where they are: column and row, modulo 256, and which camera."""
    column, row = np.meshgrid(np.arange(1600), np.arange(900))
    return Image.fromarray(
        np.stack((column % 256, row % 256, np.full_like(row, camera)), -1).astype(np.uint8)
    )


def test_columns_and_rows_by_hand():
    images = {"CAM_FRONT_LEFT": places(1), "CAM_FRONT": places(2), "CAM_FRONT_RIGHT": places(3)}
    strip = np.asarray(cut(images.__getitem__))
    assert strip.shape == (816, 3264, 3)

    def pixel(row: int, column: int) -> list[int]:
        return strip[row, column].tolist()

    assert pixel(0, 0) == [384 % 256, 42, 1]
    assert pixel(0, 831) == [1215 % 256, 42, 1]
    assert pixel(0, 832) == [0, 42, 2]
    assert pixel(0, 832 + 1599) == [1599 % 256, 42, 2]
    assert pixel(0, 2432) == [384 % 256, 42, 3]
    assert pixel(815, 3263) == [1215 % 256, 857 % 256, 3]


def test_it_is_four_times_as_wide_as_high_and_spans_75_degrees_to_either_side():
    assert CUT == (3264, 816)
    assert all(width == 4 * height for width, height in (CUT, *STRIPS.values()))
    focal = CAMERAS["CAM_FRONT"].intrinsic[0, 0]

    def angle(camera: str, column: float) -> float:
        """Degrees to the right of a column's left edge."""
        return CAMERAS[camera].yaw + math.degrees(math.atan((column - 800) / focal))

    left, right = COLUMNS["CAM_FRONT_LEFT"], COLUMNS["CAM_FRONT_RIGHT"]
    assert angle("CAM_FRONT_LEFT", left[0]) == pytest.approx(-75, abs=0.1)
    assert angle("CAM_FRONT_LEFT", left[1]) == pytest.approx(angle("CAM_FRONT", 0), abs=0.1)
    assert angle("CAM_FRONT", 1600) == pytest.approx(angle("CAM_FRONT_RIGHT", right[0]), abs=0.1)
    assert angle("CAM_FRONT_RIGHT", right[1]) == pytest.approx(75, abs=0.1)
    assert ROWS == (42, 900 - 42)


@pytest.mark.parametrize("name", STRIPS)
def test_the_strip_of_a_synthetic_frame(clips_root, name):
    source = with_inputs(Bench2Drive(clips_root), [name])
    (spec,) = inputs_of(source)
    clip = source.select().clips[0].open()
    sample = clip.sample(2)
    ((stored, strip),) = clip.inputs(sample).items()
    width, height = STRIPS[name]
    assert (stored, spec.name, spec.role) == ("camera_strip", "camera_strip", "input")
    assert strip.shape == spec.shape == (height, width, 3)
    assert strip.dtype == spec.dtype
    # Averaged to 16x4 blocks, of 204 pixels, the strip is what the cameras show there, but for the filter.
    front = np.asarray(Image.open(sample.images["CAM_FRONT"]), dtype=np.float64)
    left = np.asarray(Image.open(sample.images["CAM_FRONT_LEFT"]), dtype=np.float64)
    block = width // 16
    for row in range(4):
        rows = slice(42 + 204 * row, 42 + 204 * (row + 1))
        ours = strip[row * block : (row + 1) * block].astype(np.float64)
        for column, image, begin in ((1, left, 384 + 204), (6, front, 6 * 204 - 832)):
            there = image[rows, begin : begin + 204].mean((0, 1))
            here = ours[:, column * block : (column + 1) * block].mean((0, 1))
            np.testing.assert_allclose(here, there, rtol=0, atol=2)


def test_without_asking_there_is_no_strip(clips_root):
    source = Bench2Drive(clips_root)
    clip = source.select().clips[0].open()
    assert inputs_of(source) == ()
    assert with_inputs(source, []) is source
    assert clip.inputs(clip.sample(0)) == {}


def test_a_strip_travels_to_workers(clips_root):
    source = with_inputs(Bench2Drive(clips_root), ["camera_strip_256"])
    clip, again = (pickle.loads(pickle.dumps(it)) for it in (source.select().clips[0], source))
    opened = clip.open()
    assert opened.inputs(opened.sample(0))["camera_strip"].shape == (64, 256, 3)
    assert inputs_of(again) == inputs_of(source)


def test_an_image_is_decoded_once(clips_root):
    sample = Bench2Drive(clips_root).select().clips[0].open().sample(0)
    assert sample.image("CAM_FRONT") is sample.image("CAM_FRONT")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["camera_stripe"], "no input 'camera_stripe'"),
        ([""], "no input ''"),
        (["camera_strip", "camera_strip_512"], "2 strips were asked for"),
    ],
)
def test_names_that_cannot_be_asked_for(clips_root, names, said):
    with pytest.raises(RequestError, match=said):
        with_inputs(Bench2Drive(clips_root), names)


def test_a_source_without_inputs_says_so(tmp_path):
    with pytest.raises(RequestError, match="camera_strip were asked for, and Texts has no inputs of its own"):
        with_inputs(Texts(tmp_path), ["camera_strip"])


def test_a_missing_image_is_named(clips_root):
    clip = with_inputs(Bench2Drive(clips_root), ["camera_strip"]).select().clips[0].open()
    sample = clip.sample(0)
    missing = {camera: path.with_name("99999.jpg") for camera, path in sample.images.items()}
    object.__setattr__(sample, "images", missing)
    with pytest.raises(ClipError, match=r"rgb_front_left/99999\.jpg does not exist"):
        clip.inputs(sample)
