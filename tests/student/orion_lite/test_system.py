"""Orion-Lite as a system: what it reads, what it refuses, and which ground truth it sees."""

import numpy as np
import pytest
import torch

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import RequestError
from student.loading.batches import LatentSamples
from student.open_loop.ground_truth import masked
from student.orion_lite.system import OrionLiteSystem
from student.system import System
from tests.student.recipes import SIZES, small, with_losses


def system_of(**student) -> System:
    return small(**student).make_system()


def test_it_reads_what_its_losses_and_its_mask_need():
    mimic = with_losses(small(mask="complete"), {"mimic": {}}).make_system()
    assert mimic.required_features() == ("ego_token", "ego_trajectory", "planning_token", "scene_queries")
    orion = with_losses(small(mask="orion"), {"mimic": {}}).make_system()
    assert set(orion.required_features()) - set(mimic.required_features()) == {"frame_index"}


def test_orions_mask_hides_the_ground_truth_of_the_first_ten_frames_of_each_clip(dataset_path):
    dataset = LatentDataset.open(dataset_path)
    features = ("ego_trajectory", "ego_trajectory_mask", "frame_index")
    rows = np.array([0, 9, 10, 16, 25, 26])
    known = [False, False, True, False, False, True]
    batch = LatentSamples(dataset, "train", features, device=torch.device("cpu")).read(rows)
    assert masked(batch, "complete") is batch
    left = masked(batch, "orion")
    assert batch["ego_trajectory_mask"][:, 0].all()
    assert left["ego_trajectory_mask"].any(dim=1).tolist() == known
    assert (left["ego_trajectory"] != 0).flatten(1).any(dim=1).tolist() == known
    assert torch.equal(left["ego_trajectory"][2], batch["ego_trajectory"][2])


@pytest.mark.parametrize(
    ("student", "losses", "message"),
    [
        ({"width": 16}, {"mimic": {}}, r"student\.width: Extra inputs"),
        ({**SIZES, "heads": 3}, {"mimic": {}}, "no multiple of heads"),
        ({}, {"mimic": {"weight": "much"}}, r"losses\.mimic\.weight"),
    ],
)
def test_options_that_it_does_not_have_are_refused(student, losses, message):
    with pytest.raises(RequestError, match=message):
        OrionLiteSystem(student, losses)


def test_a_dataset_without_the_teachers_projections_is_refused(write, tmp_path):
    bare = write(tmp_path / "bare.zarr", without=("ego_token",))
    with pytest.raises(RequestError, match="what vision_tokens are derived from"):
        system_of().build(LatentDataset.open(bare))
