"""A camera-only student sees what extraction stores."""

import dataclasses

import numpy as np
import pytest
import torch

from cache_schema.errors import ClipError, RequestError
from pipeline.bench2drive.source import Bench2Drive
from pipeline.bench2drive.strip import COLUMNS, STRIPS
from pipeline.perception.cameras import CameraStripPerception
from pipeline.source import with_inputs
from tests.observed import observations


@pytest.mark.parametrize("name", STRIPS)
def test_the_strip_of_what_is_observed_has_the_bits_of_the_inputs_of_extraction(clips_root, name):
    source = with_inputs(Bench2Drive(clips_root), [name])
    clip = source.select().clips[1]
    opened = clip.open()
    perception = CameraStripPerception(STRIPS[name])
    assert perception.features == source.inputs
    first, second, *_ = observations(clips_root, clip.name)
    batch = perception.collate([perception.prepare(second), None, perception.prepare(first)])
    values, _ = perception.step(batch, perception.begin(3))
    ((feature, strips),) = values.items()
    assert (feature, strips.dtype) == ("camera_strip", torch.uint8)
    for row, index in ((0, 1), (2, 0)):
        (expected,) = opened.inputs(opened.sample(index)).values()
        np.testing.assert_array_equal(strips[row], expected)
    assert not strips[1].any()


def test_it_needs_its_own_cameras_alone(clips_root):
    first = next(observations(clips_root, Bench2Drive(clips_root).select().clips[0].name))
    perception = CameraStripPerception((256, 64))
    assert perception.cameras == tuple(COLUMNS)
    few = {camera: first.jpegs[camera] for camera in reversed(perception.cameras)}
    strip = perception.prepare(dataclasses.replace(first, jpegs=few))
    np.testing.assert_array_equal(strip, perception.prepare(first))
    with pytest.raises(RequestError, match="no image of CAM_FRONT_RIGHT"):
        perception.prepare(dataclasses.replace(first, jpegs=dict([*few.items()][1:])))
    with pytest.raises(ClipError, match="cannot be decoded"):
        perception.prepare(dataclasses.replace(first, jpegs=few | {"CAM_FRONT": few["CAM_FRONT"][:-5000]}))
