"""Comparison of this port of ORION with recorded vectors, frame by frame and stage by stage.

A recording is a folder: ``meta.json`` (sizes and frames), ``state_dict.safetensors`` (weights under the
released names), ``inputs.safetensors`` and ``outputs.safetensors`` (tensors called ``FRAME.STAGE``). Every
size is read from it.

In float32 the memory runs on from frame to frame, and every stage has to agree within an absolute tolerance.
In 16 bits rounding may change which queries are the best, and the rows of all later stages would be those of
other queries: so every frame starts from the recorded memory, and what a frame keeps of its queries, which
are rows of stages that are compared, is not compared again. Then a stage has to agree within a relative error
that follows from its roundings, see ``tolerance``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Group
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cache_schema.errors import RequestError
from cache_schema.progress import SILENT
from cache_schema.terminal import table
from pipeline.teachers.orion.checkpoints.reader import merged
from pipeline.teachers.orion.checkpoints.tensors import PLANNER_PREFIX, build
from pipeline.teachers.orion.network.config import DETECTION_RANGE_M
from pipeline.teachers.orion.network.memory import OrionMemory
from pipeline.teachers.orion.precision import PrecisionConfig
from pipeline.teachers.orion.recording import capture_activations, recorded_sizes, stages
from pipeline.teachers.orion.stream import complete
from pipeline.teachers.orion.tolerance import HISTORY_TOKENS, derived_tolerance
from pipeline.teachers.precision import compute_exact_float32

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cache_schema.progress import Progress
    from pipeline.teachers.orion.network.config import OrionConfig
    from pipeline.teachers.orion.network.memory import QueryMemory

POSITIONS = {"all_bbox_preds": 3, "memory_reference_point": None, "pts_one2one": None}
"""Recorded tensors that hold positions, and how many of their last numbers do; None for all.

They are compared as fractions of the detection range, which is what the network computes. In metres 1e-4
would ask for more than float32 holds: two kilometres from a town's origin it resolves 1.2e-4 m."""

CHOSEN = ("memory_embedding", "memory_reference_point")
"""Parts of a head's memory whose rows are those of the queries with the best scores."""

_NEEDED = ("img", "lidar2img", "timestamp", "ego_pose", "ego_pose_inv", "command", "can_bus", "noise")
"""Inputs of every frame."""

_REMEMBERED = (
    *(f"state.{head}.{name}" for head in ("det", "map") for name in CHOSEN),
    HISTORY_TOKENS,
)
"""Outputs of every frame that the next one starts from in 16 bits; the rest follows from the inputs."""

DETECTION_SIZE_M = torch.tensor(DETECTION_RANGE_M[3:]) - torch.tensor(DETECTION_RANGE_M[:3])

Tensors = dict[str, Tensor]

PlannerForward = Callable[[Tensor, Tensor], Tensors]
"""Planning token (B, D) and noise (B, 1, latent) to the planner's stages; one is ``ego_fut_preds_all``."""


@dataclass(frozen=True)
class ParityRow:
    """One stage of one frame."""

    frame: int
    stage: str
    difference: float | None
    """In float32 the largest absolute difference, positions as fractions of the detection range; in 16 bits
    the relative error. None where the stage is recorded, but not computed here or not compared."""
    tolerance: float
    """Largest difference that passes."""

    @property
    def passes(self) -> bool:
        """Whether it is not compared or within the tolerance; NaN is beyond it."""
        return self.difference is None or self.difference <= self.tolerance


@dataclass(frozen=True)
class ParityReport:
    """All stages of all frames, in the order in which they are computed."""

    rows: tuple[ParityRow, ...]
    computed: str
    """Precision and device."""

    @property
    def failures(self) -> tuple[ParityRow, ...]:
        """Rows beyond their tolerance."""
        return tuple(row for row in self.rows if not row.passes)

    @property
    def passes(self) -> bool:
        """Whether something was compared, and all of it agrees."""
        return not self.failures and any(row.difference is not None for row in self.rows)

    def __rich__(self) -> Group:
        """Show it as a table and a line."""
        stages = table("frame", "stage", "difference", "tolerance", "")
        for row in self.rows:
            numbers = ("not compared", "")
            if row.difference is not None:
                numbers = f"{row.difference:.1e}", f"{row.tolerance:.1e}"
            stages.add_row(str(row.frame), row.stage, *numbers, "" if row.passes else "beyond tolerance")
        return Group(
            stages,
            f"{len(self.failures)} of {len(self.rows)} rows beyond their tolerance, computed in "
            f"{self.computed}; positions are compared as fractions of the detection range",
        )


@torch.inference_mode()
def replay(
    recording: Path,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    tolerance: float | None = None,
    planner: Callable[[Tensors], PlannerForward] | None = None,
    progress: Progress = SILENT,
) -> ParityReport:
    """Run the recorded weights over the recorded frames and compare every stage.

    Args:
        recording: Folder as described above.
        device: Where the port runs.
        precision: Of backbone and language model, as a teacher has it. The planner runs in float32.
        tolerance: Largest difference that passes, of every stage; None for what the module derives.
        planner: Makes a planner from its weights, which are under the released names. Without it the stages
            behind the planning token are not computed.
        progress: Counts frames.

    Raises:
        RequestError: The folder is not a recording.
        CheckpointError: Its weights do not fit its sizes.
    """
    placement = PrecisionConfig(precision)
    try:
        meta = json.loads((recording / "meta.json").read_text())
        stored, inputs, outputs = (
            load_file(recording / f"{name}.safetensors") for name in ("state_dict", "inputs", "outputs")
        )
        config = recorded_sizes(meta, stored, inputs["input_ids"])
        frames = meta["frames"]
        needed = {f"{index}.{name}" for index in range(len(frames)) for name in _NEEDED}
        if needed - inputs.keys():
            raise ValueError(f"inputs lack {', '.join(sorted(needed - inputs.keys()))}")
        remembered = {f"{index}.{name}" for index in range(len(frames)) for name in _REMEMBERED}
        if precision != "fp32" and remembered - outputs.keys():
            raise ValueError(f"outputs lack {', '.join(sorted(remembered - outputs.keys()))}")
    except (OSError, ValueError, KeyError, TypeError, StopIteration, SafetensorError) as error:
        raise RequestError(
            f"{recording} is not a recording that can be replayed: {type(error).__name__}: {error}",
            expected="a folder with meta.json and state_dict, inputs and outputs as .safetensors",
            repair="give the folder of a whole recording",
        ) from error
    weights = dict(merged(stored, config, recording / "state_dict.safetensors"))
    planner_weights = {name: weights.pop(name) for name in list(weights) if name.startswith(PLANNER_PREFIX)}
    compute_exact_float32()
    model = build(config)
    for name, weight in weights.items():
        placement.place(model, name, weight, device)
    complete(model, placement, device)
    plan = (
        planner({k.removeprefix(PLANNER_PREFIX): v.to(device) for k, v in planner_weights.items()})
        if planner
        else None
    )

    def allowed(stage: str) -> float:
        return derived_tolerance(stage, config, placement, device) if tolerance is None else tolerance

    progress.expect(len(frames))
    rows: list[ParityRow] = []
    memory = OrionMemory.empty(config, slots=1, device=device)
    clip = None
    for index, frame in enumerate(frames):
        given, recorded = _of_frame(inputs, index), _of_frame(outputs, index)
        given["img2lidar"] = torch.linalg.inv(given["lidar2img"])  # on the host, as the teacher does
        given = {name: value.to(device) for name, value in given.items()}
        with capture_activations(model) as activations:
            output, memory = model(
                given["img"][None],
                given["img2lidar"],
                given["ego_pose"],
                given["ego_pose_inv"],
                given["timestamp"],
                torch.cat((given["command"][:, None].double(), given["can_bus"]), dim=-1),
                torch.tensor([frame["scene_token"] == clip], device=device),
                memory,
            )
        clip = frame["scene_token"]
        computed = stages(model, output, activations)
        if plan is not None:
            computed |= _trajectory(plan(output.planning_token, given["noise"]), given["command"])
        memory = _moved(memory, "cpu")
        computed |= _memory_stages(memory, recorded, config)
        if precision != "fp32":
            computed = {stage: ours for stage, ours in computed.items() if not stage.endswith(CHOSEN)}
            memory = _as_recorded(memory, recorded)
        memory = _moved(memory, device)
        rows += [
            ParityRow(
                index, stage, _difference(stage, ours.cpu(), recorded[stage], precision), allowed(stage)
            )
            for stage, ours in computed.items()
            if stage in recorded
        ]
        rows += [
            ParityRow(index, stage, None, allowed(stage))
            for stage in sorted(recorded.keys() - computed.keys())
        ]
        progress.advance()
    return ParityReport(tuple(rows), f"{placement.description(device)} on {device}")


def _of_frame(tensors: Mapping[str, Tensor], frame: int) -> Tensors:
    prefix = f"{frame}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _trajectory(planned: Tensors, command: Tensor) -> Tensors:
    """The planner's stages, and the positions (steps, 2) of the commanded mode."""
    return planned | {"traj": planned["ego_fut_preds_all"][0, int(command)].cumsum(dim=0)}


def _memory_stages(memory: OrionMemory, recorded: Tensors, config: OrionConfig) -> Tensors:
    """The memory after a frame, under its recorded names; times are recorded as negative."""
    return {
        "state.det.memory_canbus": memory.signals.signals,
        HISTORY_TOKENS: memory.history.tokens,
        "state.det.scene_memory_timestamp": -memory.history.times[..., None],
        "state.det.sample_time": -memory.timestamp,
        **_query_memory_stages("state.det", memory.objects, recorded, config.detection.kept),
        **_query_memory_stages("state.map", memory.lanes, recorded, config.lanes.kept),
    }


def _query_memory_stages(head: str, queries: QueryMemory, recorded: Tensors, kept: int) -> Tensors:
    """A head's memory, each frame's ``kept`` entries ordered as recorded: near ties of a score may swap."""
    points = queries.points.squeeze(2)
    ours = torch.cat((queries.contents, points.flatten(2)), dim=-1)[0]
    names = (f"{head}.memory_embedding", f"{head}.memory_reference_point")
    theirs = torch.cat([recorded[name].flatten(2) for name in names], dim=-1)[0, : len(ours)]
    blocks = zip(ours.split(kept), theirs.split(kept), strict=True)
    order = torch.cat([_matching(*block) + kept * index for index, block in enumerate(blocks)])
    return {
        f"{head}.memory_embedding": queries.contents[:, order],
        f"{head}.memory_reference_point": points[:, order],
        f"{head}.memory_egopose": queries.poses[:, order],
        f"{head}.memory_timestamp": -queries.times[:, order, None],
    }


def _moved(memory: Any, device: str) -> Any:
    """A memory, or a part of one, with all its tensors on a device."""
    parts = vars(memory).items()
    moved = {k: v.to(device) if isinstance(v, Tensor) else _moved(v, device) for k, v in parts}
    return replace(memory, **moved)


def _as_recorded(memory: OrionMemory, recorded: Tensors) -> OrionMemory:
    """A memory with the recorded queries and history tokens; its poses and times are those of frames."""

    def queries(ours: QueryMemory, head: str) -> QueryMemory:
        contents, points = (recorded[f"state.{head}.{name}"][:, : ours.times.shape[1]] for name in CHOSEN)
        return replace(ours, contents=contents, points=points.reshape(ours.points.shape))

    tokens = recorded[HISTORY_TOKENS][:, : memory.history.times.shape[1]]
    return replace(
        memory,
        objects=queries(memory.objects, "det"),
        lanes=queries(memory.lanes, "map"),
        history=replace(memory.history, tokens=tokens),
    )


def _matching(ours: Tensor, theirs: Tensor) -> Tensor:
    """For each row of ``theirs`` the nearest row of ``ours`` that is not taken yet."""
    distances = torch.cdist(ours.double(), theirs.double())
    order = []
    for distance in distances.T:
        order.append(int(distance.argmin()))
        distances[order[-1]] = torch.inf
    return torch.tensor(order)


def _difference(stage: str, ours: Tensor, recorded: Tensor, precision: str) -> float:
    """Largest absolute difference, in 16 bits the relative error; infinite where shapes differ."""
    if stage == "map_dec" or stage.startswith("state."):
        # Recorded with lanes that only training used, and with entries that the next frame drops unread.
        recorded = recorded[tuple(slice(length) for length in ours.shape)]
    if ours.shape != recorded.shape:
        return torch.inf
    ours, recorded = ours.double(), recorded.double()
    name = stage.split(".")[-1]
    if name in POSITIONS:
        ours, recorded = (_as_fractions(values, POSITIONS[name]) for values in (ours, recorded))
    difference = ours - recorded
    if precision == "fp32":
        return difference.abs().max().item()
    error, size = difference.norm().item(), recorded.norm().item()
    return error / size if size else torch.inf if error else error


def _as_fractions(values: Tensor, positions: int | None) -> Tensor:
    """Values (..., n) whose last numbers are positions, with these as fractions of the detection range."""
    values = values.clone()
    values[..., :positions].unflatten(-1, (-1, 3)).div_(DETECTION_SIZE_M)  # in place, as a view
    return values
