"""A trained student as an ONNX graph, checked against PyTorch before it appears."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import CheckpointError, RequestError
from cache_schema.storage.atomic_io import new_file
from student.orion_lite.build import build_student
from student.orion_lite.folded import FoldedStudent
from student.runs.checkpoint import read_checkpoint
from student.runs.weights import load_strictly

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor
    from torch.onnx import ONNXProgram

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Largest difference from PyTorch, as a fraction of the largest value of an output."""
FRAMES = 3
"""Frames of the dataset that the graph is traced with and checked on, together and one alone."""

INPUTS = ("scene_queries", "ego_token")
OUTPUTS = ("planning_token", "offsets")


def export_onnx(run: Path, dataset_path: str | Path, target: Path) -> float:
    """Write the newest checkpoint as a graph from what a latent dataset stores to what a car drives by.

    Inputs are ``scene_queries`` (batch, query, channel) and ``ego_token`` (batch, channel) in float32; the
    teacher's projections are part of the graph. Outputs are ``planning_token`` (batch, channel) and
    ``offsets`` (batch, command, step, xy) in metres. The planner is deterministic. Metadata as in ``export``.
    Weights of more than 1.5 GB, as at the released sizes, lie beside the graph in ``NAME.onnx.data``.

    Args:
        run: Folder of a training run.
        dataset_path: A latent dataset by the student's teacher, for its projections and a few frames.
        target: File to write; it must not exist.

    Returns:
        The largest relative difference between the graph in onnxruntime and the student in PyTorch.

    Raises:
        CheckpointError: The run has no readable checkpoint, or the graph says something else than the
            student; no file is left.
        IdentityError: The dataset is by another teacher.
        RequestError: A package is not installed, the dataset lacks something, or the file is there already
            or cannot be written.
    """
    _check_installed()
    dataset = LatentDataset.open(dataset_path)
    checkpoint, weights = read_checkpoint(run)
    checkpoint.check_reads(dataset)
    student = build_student(dataset, checkpoint.config)
    load_strictly(student, weights)
    folded = FoldedStudent(student)
    inputs = _first_frames(dataset)

    with new_file(target) as file:
        program = trace(folded, inputs)
        program.model.metadata_props["teachonce"] = checkpoint.model_dump_json()
        return save_checked(program, folded, inputs, file)


def trace(folded: FoldedStudent, inputs: tuple[Tensor, ...]) -> ONNXProgram:
    """Make a graph of a student, for any number of frames."""
    batch = torch.export.Dim("batch")
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        # What the exporter says on its way is for those who work on it.
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
        node.metadata_props.clear()  # lines of source code, with the paths of this machine
    return program


def save_checked(
    program: ONNXProgram, folded: FoldedStudent, inputs: tuple[Tensor, ...], file: Path
) -> float:
    """Write a graph, run the file, and return its largest relative difference from the student.

    Args:
        program: The graph of ``folded``.
        folded: The student.
        inputs: Frames to compare them on, together and the last one alone.
        file: Where to write.

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


def _first_frames(dataset: LatentDataset) -> tuple[Tensor, ...]:
    """The inputs of ``FRAMES`` frames of the first clip, repeated where it is shorter."""
    if not dataset.clips:
        raise RequestError(
            f"{dataset.path} has no committed clip",
            expected="a frame to check the graph with",
            repair="extract a clip, or name another dataset of this teacher",
        )
    clip = dataset.clips[0]
    frames = np.arange(FRAMES) % dataset.clip(clip).frames
    return tuple(torch.from_numpy(dataset.read(clip, name)[frames]).float() for name in INPUTS)


def _difference(file: Path, folded: FoldedStudent, inputs: tuple[Tensor, ...]) -> float:
    """Largest difference of any output, as a fraction of the output's largest value."""
    from onnxruntime import InferenceSession

    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    given = {name: values.numpy() for name, values in zip(INPUTS, inputs, strict=True)}
    said = session.run(list(OUTPUTS), given)
    with torch.no_grad():
        expected = [values.numpy() for values in folded(*inputs)]
    differences = [
        float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        for ours, theirs in zip(said, expected, strict=True)
    ]
    return max(differences) if np.isfinite(differences).all() else float("nan")
