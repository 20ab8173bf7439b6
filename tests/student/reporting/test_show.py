"""One frame on one picture: what is drawn is what is stored."""

import shutil

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import DatasetError, RequestError
from cache_schema.format.ledger import ClipInfo
from student.reporting.show import add_largest, add_street, picture, show

INFO = ClipInfo(name="clip-a", frames=16, split="train", tags={"town": "Town$_1$", "scenario": "$x^2$"})
CAMERAS = {
    name: np.full((27, 48, 3), shade, np.uint8) for name, shade in zip("abcdef", range(6), strict=True)
}


def test_a_frame_of_a_real_dataset(dataset_path, tmp_path):
    asked = []

    def cameras(clip, frame):
        asked.append((clip, frame))
        return CAMERAS

    plain = show(dataset_path, "clip-a", 3, tmp_path / "plain.png")
    with_images = show(dataset_path, "clip-a", 3, tmp_path / "images.png", cameras=cameras)
    raw_frame = int(LatentDataset.open(dataset_path).read("clip-a", "frame_index", 3))
    assert asked == [("clip-a", raw_frame)]
    sizes = []
    for path in (plain, with_images):
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            sizes.append(image.size)
    assert sizes[1][0] > sizes[0][0]


def test_a_picture_replaces_nothing_but_a_picture_and_is_put_into_no_dataset(dataset_path, tmp_path):
    stored = shutil.copytree(dataset_path, tmp_path / "d.zarr")
    (tmp_path / "notes.png").write_text("mine")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for target in (
        stored / "zarr.json",
        stored / "frame.png",
        tmp_path / "notes.png",
        stored,
        tmp_path / ".",
    ):
        with pytest.raises(RequestError, match=r"is not a PNG picture|is inside the dataset"):
            show(stored, "clip-a", 3, target)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert show(stored, "clip-a", 3, tmp_path / "frame.png") == show(
        stored, "clip-a", 4, tmp_path / "frame.png"
    )


def test_the_ground_truth_is_drawn_as_far_as_it_is_known():
    offsets = np.array([[0, 1], [0, 2], [1, 2], [0, 0], [0, 0], [0, 0]], np.float32)
    mask = np.array([True, True, True, False, False, False])
    ax = Figure().subplots()
    add_street(ax, {"ego_trajectory": offsets, "ego_trajectory_mask": mask})
    (expert,) = [line for line in ax.lines if line.get_label() == "ground truth"]
    np.testing.assert_array_equal(expert.get_xydata(), [[0, 0], [0, 1], [0, 3], [1, 5]])


def test_only_lanes_and_agents_of_enough_confidence_are_drawn():
    lanes = np.zeros((2, 11, 2), np.float16)
    lanes[..., 1] = np.arange(11)
    logits = np.full((2, 6), -3, np.float16)
    logits[1, 2] = 3
    values = {
        "lane_points": lanes,
        "lane_logits": logits,
        "agent_xy": np.array([[1, 2], [3, 4]], np.float16),
        "agent_class_scores": np.array([[0.9] + [0] * 8, [0.1] * 9], np.float16),
        "agent_offsets": np.zeros((2, 6, 2), np.float16),
    }
    ax = Figure().subplots()
    add_street(ax, values)
    drawn = {c.get_label(): len(c.get_segments()) for c in ax.collections if isinstance(c, LineCollection)}
    assert drawn["lanes"] == 1
    (agents,) = [line for line in ax.lines if line.get_label() == "agents, teacher"]
    np.testing.assert_array_equal(agents.get_xydata(), [[1, 2]])


def test_the_largest_channels_are_the_largest():
    token = np.zeros(40)
    token[[7, 30]] = (-9, 4)
    ax = Figure().subplots()
    add_largest(ax, token)
    assert [label.get_text() for label in ax.get_yticklabels()][:2] == ["7", "30"]
    assert [patch.get_width() for patch in ax.patches][:2] == [-9, 4]


def test_a_dataset_without_any_of_it(tmp_path):
    figure = picture(INFO, 0, {}, {})
    figure.savefig(tmp_path / "x.png")
    assert len(figure.axes) == 1


def test_images_come_in_reading_order_and_names_are_no_formulas(tmp_path):
    figure = picture(INFO, 0, {"planning_token": np.arange(5.0)}, CAMERAS)
    figure.savefig(tmp_path / "x.png")
    titles = [ax.get_title() for ax in figure.axes if ax.images]
    assert titles == list("abcdef")
    assert "$x^2$" in figure.get_suptitle()


def test_a_frame_that_is_not_there(dataset_path, tmp_path):
    with pytest.raises(RequestError, match="no frame 16") as caught:
        show(dataset_path, "clip-a", 16, tmp_path / "x.png")
    assert caught.value.expected == "0 to 15"
    with pytest.raises(RequestError, match="no frame -1"):
        show(dataset_path, "clip-a", -1, tmp_path / "x.png")
    with pytest.raises(DatasetError, match="'nobody' is not in the ledger"):
        show(dataset_path, "nobody", 0, tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []
