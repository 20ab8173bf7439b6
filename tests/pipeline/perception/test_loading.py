"""Which perception belongs to which student."""

import dataclasses

import pytest

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import IdentityError, RequestError
from pipeline.bench2drive.source import Bench2Drive
from pipeline.extraction.run import extract
from pipeline.perception.cameras import CameraStripPerception
from pipeline.perception.loading import open_perception
from pipeline.source import with_inputs
from pipeline.teachers.latent_action_vlm.presets import LATENTVLA_TINY
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM
from pipeline.teachers.orion.vision import OrionVision

OWN = dataclasses.replace(ORION_TINY_RANDOM, name="own-orion")
OTHER = dataclasses.replace(ORION_TINY_RANDOM, random_seed=1)


@pytest.fixture(scope="module")
def datasets(clips_root, tmp_path_factory):
    """By three teachers, each with the strip of the cameras."""
    home = tmp_path_factory.mktemp("perception")
    selection = with_inputs(Bench2Drive(clips_root), ["camera_strip_512"]).select("val")
    teachers = {"orion": ORION_TINY_RANDOM, "own": OWN, "vlm": LATENTVLA_TINY}
    for name, preset in teachers.items():
        extract(selection, preset.load(None, device="cpu"), home / f"{name}.zarr")
    extract(selection, ORION_TINY_RANDOM.load(None, device="cpu", precision="bf16"), home / "rounded.zarr")
    return {name: LatentDataset.open(home / f"{name}.zarr") for name in (*teachers, "rounded")}


def test_cameras_alone_need_no_teacher(datasets):
    for dataset in datasets.values():
        perception = open_perception(dataset, ("camera_strip", "command", "can_bus"), None)
        assert isinstance(perception, CameraStripPerception)
        assert perception.size == (512, 128)


def test_the_vision_of_the_datasets_own_teacher(datasets):
    vision = open_perception(datasets["orion"], ("scene_queries", "ego_token", "command"), None)
    assert isinstance(vision, OrionVision)
    assert vision.identity == {"perception": "vision of orion-tiny-random", "precision": "fp32"}


def test_all_of_the_teacher_where_its_planning_token_is_read(datasets):
    teacher = open_perception(datasets["orion"], ("planning_token", "command"), None)
    assert teacher.identity == {"perception": "orion-tiny-random", "precision": "fp32"}
    assert teacher.features == ORION_TINY_RANDOM.features


def test_it_computes_as_exactly_as_the_teacher_did(datasets):
    recorded = datasets["rounded"].manifest.teacher.precision
    assert recorded.startswith("bf16 ")
    assert open_perception(datasets["rounded"], ["ego_token"], None).identity["precision"] == recorded
    exact = open_perception(datasets["rounded"], ["ego_token"], None, precision="fp32")
    assert exact.identity["precision"] == "fp32"


def test_a_teacher_of_the_users_own_is_named(datasets):
    with pytest.raises(RequestError, match="'own-orion', which is not part of this package"):
        open_perception(datasets["own"], ["ego_token"], None)
    own = "tests.pipeline.perception.test_loading:OWN"
    assert isinstance(open_perception(datasets["own"], ["ego_token"], None, teacher=own), OrionVision)


def test_another_teacher_than_the_datasets_is_refused(datasets):
    other = "tests.pipeline.perception.test_loading:OTHER"
    with pytest.raises(IdentityError, match="random:0 there and random:1 here"):
        open_perception(datasets["orion"], ["ego_token"], None, teacher=other)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("orion", ("scene_queries", "camera_strip")),
        ("vlm", ("camera_strip", "command", "vis_pooled", "act_hidden")),
    ],
)
def test_what_only_a_language_model_computes_is_refused(datasets, name, read):
    with pytest.raises(RequestError, match=f"{read[-1]}.* are read to drive, and .* computes"):
        open_perception(datasets[name], read, None)
