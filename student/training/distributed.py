"""The processes of a run, and the precision they compute in: one, or as many as ``torchrun`` started."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import ProjectConfiguration

from cache_schema.errors import RequestError
from student.device import allow_tf32, chosen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from student.runs.config import TrainingConfig


def join_processes(
    config: TrainingConfig, *, device: str, trackers: Sequence[str], logs: Path
) -> Accelerator:
    """Join the other processes of the run, if there are any.

    The device is "cpu", "cuda" or "cuda:N"; with several processes each takes a GPU of its own. Trackers that
    write files do so in ``logs``.

    Raises:
        RequestError: fp16 without a GPU, or other processes that cannot be joined.
    """
    wanted = chosen(device)
    if config.precision == "fp16" and wanted.type == "cpu":
        raise RequestError(
            "fp16 was asked for on a CPU",
            expected="a GPU, whose float16 is fast",
            repair="use --set precision=bf16 or --set precision=fp32, or a machine with a GPU",
        )
    # accelerate keeps one state a process, and the next run may want another precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    try:
        accelerator = Accelerator(
            cpu=wanted.type == "cpu",
            mixed_precision="no" if config.precision == "fp32" else config.precision,
            log_with=list(trackers) or None,
            project_config=ProjectConfiguration(logging_dir=str(logs)),
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
    except torch.distributed.DistError as error:
        raise RequestError(
            f"this process cannot join the others of its run: {str(error).splitlines()[0]}",
            expected="as many processes as WORLD_SIZE says, which meet at MASTER_ADDR and MASTER_PORT",
            repair="start all of them with torchrun, on a port that is free",
        ) from error
    # What autocast leaves in float32 may use TensorFloat-32 where the network computes in 16 bits.
    allow_tf32(config.precision != "fp32")
    return accelerator


def compile_whole(model: nn.Module, device: torch.device, backend: str = "inductor") -> None:
    """Compile a module as one graph, with a backend of torch.compile.

    In place, and so below what exchanges gradients between processes, which is no part of a graph. On a GPU a
    pass is one CUDA graph: to launch its kernels one by one takes longer than they run.
    """
    # A recurrent layer would end the graph; this takes it as the products and sums of its steps.
    torch._dynamo.config.allow_rnn = True  # ty: ignore[invalid-assignment]  # its type is inferred
    # Dynamo asks every input for its gradient, which torch warns of for the outputs of another graph.
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
    graphs = backend == "inductor" and device.type == "cuda"
    options = {"triton.cudagraphs": True} if graphs else None
    model.compile(fullgraph=True, backend=backend, options=options)


def loss_scale(accelerator: Accelerator, share: float) -> Callable[[Tensor], Tensor]:
    """Return what a loss is multiplied by before it is differentiated.

    The loss is the mean of a share of the step's samples over all processes. Gradients of processes are
    averaged, so that each counts as many times as there are processes; in fp16 they are scaled up as well.
    """

    def scaled(loss: Tensor) -> Tensor:
        loss = loss * (share * accelerator.num_processes)
        return loss if accelerator.scaler is None else accelerator.scaler.scale(loss)

    return scaled


def mean_over_processes(accelerator: Accelerator, values: Tensor) -> Tensor:
    """Return the mean of a tensor over all processes, on its own device; of one process the tensor itself."""
    if accelerator.num_processes == 1:
        return values
    # Processes with GPUs exchange what is there.
    return accelerator.reduce(values.to(accelerator.device), "mean").to(values.device)
