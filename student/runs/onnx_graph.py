"""A trained network as an ONNX graph, compared with PyTorch before it is kept."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch

from cache_schema.errors import CheckpointError, RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn
    from torch.onnx import ONNXProgram

    from student.loading.dataset import Dataset

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Largest difference from PyTorch, as a fraction of the largest value of an output."""
FRAMES = 3
"""Frames of the dataset that a graph is traced with and compared on, together and one alone."""


def write_graph(
    network: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], file: Path, description: str
) -> str:
    """Write a network as a graph, and say how exact it is.

    The description becomes the metadata ``teachonce``. Weights of more than 1.5 GB are stored beside the
    graph in ``NAME.onnx.data``.

    Args:
        network: In evaluation mode. It is called with the inputs in their order, and returns the outputs.
        inputs: Name -> (B, ...) of a few frames; the graph takes any number.
        outputs: Their names, floating-point numbers all.
        file: To write.
        description: Of the run, as JSON.

    Raises:
        CheckpointError: The graph does not compute what the network computes.
    """
    program = trace(network, inputs, outputs)
    program.model.metadata_props["teachonce"] = description
    difference = save_checked(program, network, inputs, file)
    return f"onnxruntime and PyTorch differ by {difference:.1e} (relative)"


def check_installed() -> None:
    """Check that graphs can be written.

    Raises:
        RequestError: A package is not installed.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(
            f"an ONNX graph cannot be written without {', '.join(missing)}",
            expected=f"the packages {', '.join(PACKAGES)}",
            repair="pip install 'teachonce[export]', or export to .safetensors",
        )


def first_frames(dataset: Dataset, features: Iterable[str]) -> dict[str, Tensor]:
    """Return features of ``FRAMES`` frames of the first clip, repeated where it is shorter.

    Floating-point numbers come as float32, integers as int64 but for bytes.

    Raises:
        RequestError: The dataset holds no frame.
    """
    if not dataset.clips:
        raise RequestError(
            f"{dataset} has no committed clip",
            expected="a frame to compare the graph on",
            repair="extract a clip, or name another dataset of this teacher",
        )
    clip = dataset.clips[0]
    frames = np.arange(FRAMES) % dataset.clip(clip).frames
    return {name: _as_read(torch.from_numpy(dataset.read(clip, name)[frames])) for name in features}


def trace(network: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> ONNXProgram:
    """Return the graph of a network, for any number of frames."""
    batch = torch.export.Dim("batch")
    before, fast = logging.root.manager.disable, torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings():
        # The exporter's messages are for its developers.
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        # Of attention's own kernels, ONNX knows nothing.
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            program = torch.onnx.export(
                network,
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                verbose=False,
            )
        finally:
            logging.disable(before)
            torch.backends.mha.set_fastpath_enabled(fast)
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # lines of source code, with paths of this machine
    return program


def save_checked(program: ONNXProgram, network: nn.Module, inputs: Mapping[str, Tensor], file: Path) -> float:
    """Write a graph, run the file, and return the largest relative difference from the network.

    They are compared on all frames of the inputs together, and on the last one alone.

    Raises:
        CheckpointError: They differ by more than ``TOLERANCE``.
    """
    program.save(file)
    last = {name: values[-1:] for name, values in inputs.items()}
    difference = max(_difference(file, network, frames) for frames in (inputs, last))
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"the graph differs from the student by {difference:.1e} of its largest output",
            expected=f"at most {TOLERANCE:.0e}",
            repair="install the versions of onnx, onnxscript and onnxruntime that constraints.txt names",
        )
    return difference


def _as_read(values: Tensor) -> Tensor:
    if values.is_floating_point():
        return values.float()
    return values if values.dtype in (torch.bool, torch.uint8) else values.long()


def _difference(file: Path, network: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """Return the largest difference of any output, as a fraction of the output's largest value."""
    from onnxruntime import InferenceSession

    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {name: values.numpy() for name, values in inputs.items()})
    with torch.no_grad():
        expected = [values.numpy() for values in network(*inputs.values())]
    differences = [
        float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        for ours, theirs in zip(outputs, expected, strict=True)
    ]
    return max(differences) if np.isfinite(differences).all() else float("nan")
