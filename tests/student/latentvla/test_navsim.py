"""Checkpoints as NAVSIM's trainer writes them."""

import pickle

import pytest
import torch

from cache_schema.errors import CheckpointError
from student.latentvla.config import TransFuserConfig
from student.latentvla.planner.latent_transfuser import LatentTransFuser
from student.latentvla.planner.navsim import load_navsim

PREFIX = "agent._transfuser_model."
TINY = TransFuserConfig(
    widths=(4, 4, 4, 8), blocks=(1, 1, 1, 1), bev_pixels=64, width=8, heads=2, inner=8, boxes=3
)


@pytest.fixture
def planner():
    return LatentTransFuser(TINY, image_size=(64, 256), state=8, steps=8)


def written(path, tensors, **more):
    torch.save({"state_dict": tensors, "epoch": 3, "optimizer_states": [], **more}, path)
    return path


def named(planner):
    return {PREFIX + name: value + 1 for name, value in planner.state_dict().items()}


def test_all_tensors_are_loaded_by_their_names(planner, tmp_path):
    wanted = {name: value + 1 for name, value in planner.state_dict().items()}
    load_navsim(planner, written(tmp_path / "epoch.ckpt", named(planner)))
    loaded = planner.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in wanted.items())


def test_a_tensor_too_few_or_of_another_shape_is_refused_and_nothing_is_loaded(planner, tmp_path):
    tensors = named(planner)
    del tensors[PREFIX + "_bev_downscale.bias"]
    tensors[PREFIX + "_status_encoding.weight"] = torch.zeros(8, 10)
    before = {name: value.clone() for name, value in planner.state_dict().items()}
    with pytest.raises(CheckpointError, match="2 tensors do not fit") as refused:
        load_navsim(planner, written(tmp_path / "epoch.ckpt", tensors))
    assert "missing: _bev_downscale.bias (8,)" in str(refused.value)
    assert "_status_encoding.weight is (8, 10) and should be (8, 8)" in str(refused.value)
    after = planner.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


class Malice:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no checkpoint", "cannot be read"),
        (pickle.dumps({"state_dict": Malice()}, protocol=2), "cannot be read"),
        ({"weights": {}}, "has no state_dict"),
        ({"state_dict": {"agent._ego_mlp.weight": torch.zeros(1)}}, "agent._ego_mlp.weight"),
        ({"state_dict": {}}, "has 0 tensors"),
    ],
    ids=["text", "code", "others", "another agent", "empty"],
)
def test_what_is_no_such_checkpoint_is_refused_and_not_executed(content, message, planner, tmp_path, capsys):
    file = tmp_path / "epoch.ckpt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(CheckpointError, match=message):
        load_navsim(planner, file)
    assert "executed" not in capsys.readouterr().out


def test_weights_that_are_no_numbers_are_refused(planner, tmp_path):
    tensors = named(planner)
    tensors[PREFIX + "_bev_downscale.bias"] = torch.full((8,), torch.nan)
    with pytest.raises(CheckpointError, match="not finite"):
        load_navsim(planner, written(tmp_path / "epoch.ckpt", tensors))
