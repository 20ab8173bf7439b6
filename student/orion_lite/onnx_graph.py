"""A trained student as an ONNX graph, compared with PyTorch before it is kept."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from cache_schema.errors import CheckpointError, RequestError
from cache_schema.vocabulary.orion import EGO_TOKEN, PLANNING_TOKEN, SCENE_QUERIES
from student.orion_lite.folded import FoldedStudent

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from torch.onnx import ONNXProgram

    from student.loading.dataset import Dataset
    from student.orion_lite.model import OrionLite

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Largest difference from PyTorch, as a fraction of the largest value of an output."""
FRAMES = 3
"""Frames of the dataset that the graph is traced with and compared on, together and one alone."""

INPUTS = (SCENE_QUERIES, EGO_TOKEN)
OUTPUTS = (PLANNING_TOKEN, "offsets")


def export_onnx(model: nn.Module, dataset: Dataset, file: Path, description: str) -> str:
    """Write a student as a graph from the features that a latent dataset stores to a plan; an ``Export``.

    Inputs are ``scene_queries`` (batch, query, channel) and ``ego_token`` (batch, channel) in float32; the
    teacher's projections are part of the graph. Outputs are ``planning_token`` (batch, channel) and
    ``offsets`` (batch, command, step, xy) in metres. The planner is deterministic. The description becomes
    the metadata ``teachonce``. Weights of more than 1.5 GB, as at the released sizes, are stored beside the
    graph in ``NAME.onnx.data``.

    Raises:
        CheckpointError: The graph does not compute what the student, which it takes over, computes.
        RequestError: A package is not installed, or the dataset holds no frame.
    """
    _check_installed()
    folded = FoldedStudent(cast("OrionLite", model))
    inputs = _first_frames(dataset)
    program = trace(folded, inputs)
    program.model.metadata_props["teachonce"] = description
    difference = save_checked(program, folded, inputs, file)
    return f"onnxruntime and PyTorch differ by {difference:.1e} (relative)"


def trace(folded: FoldedStudent, inputs: tuple[Tensor, ...]) -> ONNXProgram:
    """Return the graph of a student, for any number of frames."""
    batch = torch.export.Dim("batch")
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        # The exporter's messages are for its developers.
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            program = torch.onnx.export(
                folded,
                inputs,
                dynamo=True,
                input_names=list(INPUTS),
                output_names=list(OUTPUTS),
                dynamic_shapes={name: {0: batch} for name in INPUTS},
                verbose=False,
            )
        finally:
            logging.disable(before)
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # lines of source code, with paths of this machine
    return program


def save_checked(
    program: ONNXProgram, folded: FoldedStudent, inputs: tuple[Tensor, ...], file: Path
) -> float:
    """Write a graph, run the file, and return the largest relative difference from the student.

    They are compared on all frames of the inputs together, and on the last one alone.

    Raises:
        CheckpointError: They differ by more than ``TOLERANCE``.
    """
    program.save(file)
    last = tuple(values[-1:] for values in inputs)
    difference = max(_difference(file, folded, frames) for frames in (inputs, last))
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"the graph differs from the student by {difference:.1e} of its largest output",
            expected=f"at most {TOLERANCE:.0e}",
            repair="install the versions of onnx, onnxscript and onnxruntime that constraints.txt names",
        )
    return difference


def _check_installed() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(
            f"an ONNX graph cannot be written without {', '.join(missing)}",
            expected=f"the packages {', '.join(PACKAGES)}",
            repair="pip install 'teachonce[export]', or export to .safetensors",
        )


def _first_frames(dataset: Dataset) -> tuple[Tensor, ...]:
    """Return the inputs of ``FRAMES`` frames of the first clip, repeated where it is shorter."""
    if not dataset.clips:
        raise RequestError(
            f"{dataset} has no committed clip",
            expected="a frame to compare the graph on",
            repair="extract a clip, or name another dataset of this teacher",
        )
    clip = dataset.clips[0]
    frames = np.arange(FRAMES) % dataset.clip(clip).frames
    return tuple(torch.from_numpy(dataset.read(clip, name)[frames]).float() for name in INPUTS)


def _difference(file: Path, folded: FoldedStudent, inputs: tuple[Tensor, ...]) -> float:
    """Return the largest difference of any output, as a fraction of the output's largest value."""
    from onnxruntime import InferenceSession

    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    given = {name: values.numpy() for name, values in zip(INPUTS, inputs, strict=True)}
    outputs = session.run(list(OUTPUTS), given)
    with torch.no_grad():
        expected = [values.numpy() for values in folded(*inputs)]
    differences = [
        float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        for ours, theirs in zip(outputs, expected, strict=True)
    ]
    return max(differences) if np.isfinite(differences).all() else float("nan")
