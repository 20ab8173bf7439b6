"""What cannot be planned from is refused before it is beside others."""

import dataclasses

import numpy as np
import pytest

from cache_schema.errors import RequestError
from cache_schema.vocabulary.driving import GROUND_TRUTH
from cache_schema.vocabulary.observation import OBSERVED, Observation

WHOLE = Observation(
    clip="drive",
    jpegs={"CAM_FRONT": b"", "CAM_BACK": b""},
    lidar2cam=np.zeros((2, 4, 4)),
    intrinsic=np.zeros((2, 3, 3)),
    ego_pose=np.eye(4),
    ego_pose_inv=np.eye(4),
    timestamp_s=0.05,
    command=5,
    can_bus=np.zeros(18),
)


def test_a_whole_one_passes():
    WHOLE.check()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("lidar2cam", np.zeros((6, 4, 4)), r"lidar2cam has the shape \(6, 4, 4\), not \(2, 4, 4\)"),
        ("intrinsic", np.zeros((2, 9)), r"intrinsic has the shape \(2, 9\)"),
        ("ego_pose", np.full((4, 4), np.inf), "ego_pose is not finite"),
        ("ego_pose_inv", np.zeros(16), "ego_pose_inv has the shape"),
        ("timestamp_s", float("nan"), "timestamp_s is not finite"),
        ("can_bus", np.array([np.nan] * 18), "can_bus is not finite"),
        ("can_bus", np.zeros(17), r"can_bus has the shape \(17,\)"),
        ("command", 6, "there is no command 6"),
        ("command", -1, "there is no command -1"),
    ],
)
def test_what_does_not_fit_is_named(field, value, said):
    with pytest.raises(RequestError, match=f"observation of 'drive' .*{said}"):
        dataclasses.replace(WHOLE, **{field: value}).check()


def test_its_fields_are_features_of_driving_datasets():
    fields = {field.name for field in dataclasses.fields(Observation)}
    specs = {spec.name: spec for spec in GROUND_TRUTH}
    for feature, field in OBSERVED.items():
        assert field in fields
        assert np.shape(getattr(WHOLE, field)) == specs[feature].shape
