"""ORION without its language model: the teacher's bits, from the weights that it needs alone."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import CheckpointError, IdentityError, RequestError
from pipeline.bench2drive.source import Bench2Drive, DrivingSample
from pipeline.extraction.run import extract
from pipeline.teachers.orion.checkpoints.convert import convert
from pipeline.teachers.orion.checkpoints.reader import read_weights
from pipeline.teachers.orion.images import ImagePreprocessing
from pipeline.teachers.orion.presets import ORION_7B, ORION_TINY_RANDOM, OrionPreset
from pipeline.teachers.orion.recording import recorded_sizes
from tests.observed import observations
from tests.recorded_progress import RecordedProgress

LANGUAGE = "language_model."


@pytest.fixture(scope="module")
def stored(golden):
    return load_file(golden / "orion" / "state_dict.safetensors")


@pytest.fixture(scope="module")
def recorded(golden, stored):
    """The recorded model's sizes as a preset."""
    meta = json.loads((golden / "orion" / "meta.json").read_text())
    config = recorded_sizes(meta, stored, load_file(golden / "orion" / "inputs.safetensors")["input_ids"])
    side = config.backbone.image_size
    images = ImagePreprocessing(resized=(side, side * 9 // 16), crop_top=0, network=(side, side))
    return OrionPreset(name="recorded", config=config, images=images)


@pytest.fixture(scope="module")
def checkpoint(stored, tmp_path_factory):
    path = tmp_path_factory.mktemp("released") / "Orion.pth"
    torch.save({"meta": {}, "state_dict": stored}, path)
    return path


def features(model, samples) -> list[dict[str, torch.Tensor]]:
    """What a teacher, or its vision, computes of a clip in the second of three slots."""
    state, found = model.begin(3), []
    for sample in samples:
        values, state = model.step(model.collate([None, model.prepare(sample), None]), state)
        found.append({name: value[1] for name, value in values.items()})
    return found


def assert_vision_of(whole, vision) -> None:
    """Assert that features of frames agree to the bit, and that only the planning token is lacking."""
    for ours, theirs in zip(vision, whole, strict=True):
        assert theirs.keys() - ours.keys() == {"planning_token"}
        for name, value in ours.items():
            assert value.dtype == theirs[name].dtype
            assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_has_the_teachers_bits_of_samples_and_of_what_is_observed(clips_root, precision):
    teacher = ORION_TINY_RANDOM.load(None, device="cpu", precision=precision)
    vision = ORION_TINY_RANDOM.load_vision(None, device="cpu", precision=precision)
    assert [spec.name for spec in vision.features] == [
        spec.name for spec in teacher.features if spec.name != "planning_token"
    ]
    assert vision.features == ORION_TINY_RANDOM.vision_features
    clip = Bench2Drive(clips_root).select().clips[2]
    opened = clip.open()
    samples = [opened.sample(index) for index in range(clip.samples)]
    whole = features(teacher, samples)
    assert_vision_of(whole, features(vision, samples))
    assert_vision_of(whole, features(vision, observations(clips_root, clip.name)))


def test_of_a_checkpoint_only_its_own_weights_are_read(recorded, stored, checkpoint, clips_root, tmp_path):
    samples = [Bench2Drive(clips_root).select().clips[0].open().sample(index) for index in (0, 1)]
    whole = features(recorded.load(checkpoint, device="cpu"), samples)
    progress = RecordedProgress()
    vision = recorded.load_vision(checkpoint, device="cpu", progress=progress)
    assert_vision_of(whole, features(vision, samples))
    assert progress.totals == [sum(progress.amounts)] == [len(vision.model.state_dict())]
    assert not any(name.startswith(LANGUAGE) for name in vision.model.state_dict())

    convert(checkpoint, tmp_path / "converted", config=recorded.config)
    assert_vision_of(whole, features(recorded.load_vision(tmp_path / "converted", device="cpu"), samples))

    # The teacher refuses weights that are no numbers; who does not read them cannot see that.
    broken = {name: value.clone() for name, value in stored.items()}
    broken["lm_head.base_model.model.model.norm.weight"][0] = torch.nan
    torch.save({"state_dict": broken}, tmp_path / "broken.pth")
    with pytest.raises(CheckpointError, match="not finite"):
        recorded.load(tmp_path / "broken.pth", device="cpu")
    assert_vision_of(whole, features(recorded.load_vision(tmp_path / "broken.pth", device="cpu"), samples))


def test_weights_are_chosen_by_name(recorded, checkpoint):
    whole = dict(read_weights(checkpoint, recorded.config))
    names = {"planner.ego_fut_decoder.4.bias", "map_head.output_projection.weight", "no such weight"}
    chosen = dict(read_weights(checkpoint, recorded.config, names))
    assert [*chosen] == sorted(names & whole.keys())
    assert all(torch.equal(weight, whole[name]) for name, weight in chosen.items())


@pytest.fixture(scope="module")
def datasets(recorded, checkpoint, clips_root, tmp_path_factory):
    """One by random weights, and one by a checkpoint."""
    home = tmp_path_factory.mktemp("datasets")
    selection = Bench2Drive(clips_root).select("val")
    extract(selection, ORION_TINY_RANDOM.load(None, device="cpu"), home / "random.zarr")
    extract(selection, recorded.load(checkpoint, device="cpu"), home / "recorded.zarr")
    return home


def test_it_is_checked_against_what_a_dataset_holds(recorded, stored, checkpoint, datasets, tmp_path):
    by_random, by_checkpoint = (
        LatentDataset.open(datasets / f"{name}.zarr") for name in ("random", "recorded")
    )
    ORION_TINY_RANDOM.load_vision(None, device="cpu").check_made(by_random)
    recorded.load_vision(checkpoint, device="cpu").check_made(by_checkpoint)

    with pytest.raises(IdentityError, match="the sizes of the model, the preparation of images"):
        ORION_TINY_RANDOM.load_vision(None, device="cpu").check_made(by_checkpoint)
    other = dataclasses.replace(ORION_TINY_RANDOM, random_seed=1).load_vision(None, device="cpu")
    with pytest.raises(IdentityError, match=r"the weights, random:0 there and random:1 here") as caught:
        other.check_made(by_random)
    assert caught.value.expected
    assert "--checkpoint" in caught.value.repair

    for changed, said in (
        ("ego_fut_decoder.4.bias", r"teacher_planner\.ego_fut_decoder\.4\.bias of"),
        ("map_head.output_projection.weight", r"teacher_heads\.map\.weight of"),
    ):
        trained_on = {name: value.clone() for name, value in stored.items()}
        trained_on[changed].view(-1)[-1] += 1e-6
        torch.save({"state_dict": trained_on}, tmp_path / "other.pth")
        with pytest.raises(IdentityError, match=said):
            recorded.load_vision(tmp_path / "other.pth", device="cpu").check_made(by_checkpoint)


def test_the_released_vision_asks_for_its_checkpoint():
    with pytest.raises(RequestError, match="orion-7b needs a checkpoint"):
        ORION_7B.load_vision(None, device="cpu")


def test_other_cameras_are_refused(clips_root):
    first = next(observations(clips_root, Bench2Drive(clips_root).select().clips[0].name))
    vision = ORION_TINY_RANDOM.load_vision(None, device="cpu")
    turned = dict(reversed(first.jpegs.items()))
    for jpegs in (turned, dict([*first.jpegs.items()][1:])):
        with pytest.raises(RequestError, match="has the cameras"):
            vision.prepare(dataclasses.replace(first, jpegs=jpegs))
    sample = DrivingSample.of(first)
    assert np.asarray(sample.image("CAM_BACK")).shape == (900, 1600, 3)
