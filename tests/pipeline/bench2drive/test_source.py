"""Bench2Drive as a source: its clips, their samples, and what can be pickled."""

import dataclasses
import json
import pickle

import numpy as np
import pytest

from cache_schema.errors import RequestError
from cache_schema.vocabulary.driving import GROUND_TRUTH
from pipeline.bench2drive.source import Bench2Drive, DrivingSample
from pipeline.source import open_source


def test_clips_keep_their_place_whatever_is_selected(clips_root):
    source = Bench2Drive(clips_root)
    everything = source.select()
    assert [clip.index for clip in everything.clips] == [0, 1, 2]
    assert [clip.samples for clip in everything.clips] == [9, 6, 4]
    assert everything.samples == 19
    (val,) = source.select("val").clips
    assert (val.index, val.split) == (1, "val")
    assert val == everything.clips[1]
    assert [clip.index for clip in source.select("train").clips] == [0, 2]
    scenario, town, route, weather = val.name.split("_")
    tags = {"scenario": scenario, "town": town, "route": route[5:], "weather": weather[7:]}
    assert val.tags == tags
    assert tuple(tags) == source.tags


def test_a_sample_holds_no_ground_truth(clips_root):
    fields = {field.name for field in dataclasses.fields(DrivingSample)}
    given = {"ego_pose", "can_bus", "command"}  # sensors and the navigator know these when driving
    assert fields & {spec.name for spec in GROUND_TRUTH} == given


def test_a_clip_opens_to_its_frames(clips_root):
    clip = Bench2Drive(clips_root).select().clips[1].open()
    truth = clip.ground_truth()
    assert set(truth) == {spec.name for spec in GROUND_TRUTH}
    for index in range(6):
        sample = clip.sample(index)
        assert sample.timestamp_s == pytest.approx(index / 10)
        assert all(path.name == f"{index:05d}.jpg" and path.is_file() for path in sample.images.values())
        np.testing.assert_array_equal(sample.ego_pose, truth["ego_pose"][index])
        np.testing.assert_allclose(sample.ego_pose @ sample.ego_pose_inv, np.eye(4), atol=1e-6)
        np.testing.assert_array_equal(sample.can_bus, truth["can_bus"][index])
        assert sample.command == truth["command"][index]


def test_source_and_clips_travel_to_workers(clips_root):
    source = open_source("bench2drive", clips_root)
    again = pickle.loads(pickle.dumps(source))
    assert (again.kind, again.identity, again.ground_truth) == ("driving", source.identity, GROUND_TRUTH)
    clip = pickle.loads(pickle.dumps(source.select().clips[2]))
    assert clip.open().sample(3).clip == clip.name


def test_names_of_sources(clips_root):
    with pytest.raises(RequestError, match="did you mean 'bench2drive'"):
        open_source("bench2driv", clips_root)
    with pytest.raises(RequestError, match="is no source"):
        open_source("json:dumps", clips_root)
    assert open_source("tests.toy.source:Texts", clips_root).kind == "texts"


@pytest.mark.parametrize("stated", [2.0, 20.0, 10.5])
def test_a_stated_rate_that_is_not_10_hz_is_refused(tmp_path, stated):
    identity = {"name": "mine", "licence": "mine", "frame_rate_hz": stated}
    (tmp_path / "data.json").write_text(json.dumps(identity))
    with pytest.raises(RequestError, match=f"{stated:g} Hz"):
        Bench2Drive(tmp_path)
    (tmp_path / "data.json").write_text(json.dumps(identity | {"frame_rate_hz": 10}))
    assert Bench2Drive(tmp_path).identity.frame_rate_hz == 10
