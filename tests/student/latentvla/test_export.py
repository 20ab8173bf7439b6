"""Students as graphs that onnxruntime runs."""

import re

import numpy as np
import pytest
import torch

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import RequestError
from student.runs.export import export
from student.runs.trained import load_trained
from student.training.train import train
from tests.student.latentvla.sizes import small

STATES = ("vis_pooled", "act_hidden")


@pytest.fixture(scope="module")
def dataset_path(write, tmp_path_factory):
    """With as few codes as follow each other: exporting takes as long as a graph is large."""
    return write(tmp_path_factory.mktemp("few") / "few.zarr", positions=2)


@pytest.fixture(scope="module")
def runs(dataset_path, tmp_path_factory):
    """Folder of runs, each trained when it is first asked for."""
    folder = tmp_path_factory.mktemp("runs")

    def run(name):
        if not (folder / name).exists():
            train(
                dataset_path, folder / name, small(name, epochs=1, student__decision__layers=1), trackers=()
            )
        return folder / name

    return run


@pytest.mark.parametrize(("name", "states"), [("latentvla-fused", STATES), ("latentvla-distilled", ())])
def test_a_graph_drives_as_the_student_does_for_any_number_of_frames(
    name, states, runs, dataset_path, tmp_path
):
    onnxruntime = pytest.importorskip("onnxruntime")
    exported = export(runs(name), tmp_path / "student.onnx", dataset=dataset_path)
    difference = float(re.search(r"differ by (\S+) ", exported.remark)[1])
    assert 0 < difference <= 1e-4
    session = onnxruntime.InferenceSession(exported.file, providers=["CPUExecutionProvider"])
    dataset, student = LatentDataset.open(dataset_path), load_trained(runs(name), dataset_path).model
    kinds = {"camera_strip": np.uint8, "command": np.int64}
    for frames in (1, 2, 12):
        given = {
            feature: dataset.read("clip-c", feature)[:frames].astype(kinds.get(feature, np.float32))
            for feature in ("camera_strip", "command", "can_bus", *states)
        }
        offsets, *logits = session.run(None, given)
        inputs = {feature: torch.from_numpy(values) for feature, values in given.items()}
        with torch.no_grad():
            expected = student(
                *(inputs[feature] for feature in ("camera_strip", "command", "can_bus")),
                states=tuple(inputs[feature] for feature in states) or None,
            )
        x, y, _ = expected.plan.trajectory.unbind(-1)
        assert offsets.shape == (frames, 6, 6, 2)
        for plan in offsets.cumsum(axis=2).swapaxes(0, 1):  # of every command
            np.testing.assert_allclose(plan, torch.stack([-y, x], -1), rtol=1e-4, atol=1e-4)
        if "distilled" in name:
            np.testing.assert_allclose(logits[0], expected.code_logits, rtol=1e-4, atol=1e-4)
            assert np.ptp(logits[0], axis=-1).min() > 0
        else:
            assert not logits


def test_an_ablation_is_not_exported(runs, dataset_path, tmp_path):
    pytest.importorskip("onnxscript")
    with pytest.raises(RequestError, match="noise in place"):
        export(runs("latentvla-fused-noise"), tmp_path / "student.onnx", dataset=dataset_path)
    assert not list(tmp_path.iterdir())
