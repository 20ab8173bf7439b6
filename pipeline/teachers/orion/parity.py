"""Comparison of this port of ORION with recorded vectors, frame by frame and stage by stage.

A recording is a folder: ``meta.json`` (sizes and frames), ``state_dict.safetensors`` (weights under the
released names), ``inputs.safetensors`` and ``outputs.safetensors`` (tensors called ``FRAME.STAGE``). Every
size is read from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from pipeline.teachers.orion.recording import capture_activations, recorded_sizes, stages

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

_NEEDED = ("img", "lidar2img", "timestamp", "ego_pose", "ego_pose_inv", "command", "can_bus", "noise")
"""Inputs of every frame."""

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
    """Largest absolute difference, positions as fractions of the detection range; None where the stage is
    recorded but not computed here."""


@dataclass(frozen=True)
class ParityReport:
    """All stages of all frames, in the order in which they are computed."""

    rows: tuple[ParityRow, ...]
    tolerance: float
    """Largest difference that passes."""

    @property
    def failures(self) -> tuple[ParityRow, ...]:
        """Rows beyond the tolerance; NaN is beyond it."""
        return tuple(
            row for row in self.rows if row.difference is not None and not row.difference <= self.tolerance
        )

    @property
    def passes(self) -> bool:
        """Whether something was compared, and all of it agrees."""
        return not self.failures and any(row.difference is not None for row in self.rows)

    def __rich__(self) -> Group:
        """Show it as a table and a line."""
        stages = table("frame", "stage", "largest difference", "")
        for row in self.rows:
            difference = "not computed" if row.difference is None else f"{row.difference:.1e}"
            verdict = "beyond tolerance" if row in self.failures else ""
            stages.add_row(str(row.frame), row.stage, difference, verdict)
        return Group(
            stages,
            f"{len(self.failures)} of {len(self.rows)} rows beyond {self.tolerance:g}; "
            "positions are compared as fractions of the detection range",
        )


@torch.inference_mode()
def replay(
    recording: Path,
    *,
    tolerance: float = 1e-4,
    planner: Callable[[Tensors], PlannerForward] | None = None,
    progress: Progress = SILENT,
) -> ParityReport:
    """Run the recorded weights over the recorded frames and compare every stage.

    Args:
        recording: Folder as described above.
        tolerance: Largest absolute difference that passes.
        planner: Makes a planner from its weights, which are under the released names. Without it the stages
            behind the planning token are not computed.
        progress: Counts frames.

    Raises:
        RequestError: The folder is not a recording.
        CheckpointError: Its weights do not fit its sizes.
    """
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
    except (OSError, ValueError, KeyError, TypeError, StopIteration, SafetensorError) as error:
        raise RequestError(
            f"{recording} is not a recording that can be replayed: {type(error).__name__}: {error}",
            expected="a folder with meta.json and state_dict, inputs and outputs as .safetensors",
            repair="give the folder of a whole recording",
        ) from error
    weights = dict(merged(stored, config, recording / "state_dict.safetensors"))
    planner_weights = {name: weights.pop(name) for name in list(weights) if name.startswith(PLANNER_PREFIX)}
    model = build(config)
    model.load_state_dict(weights, assign=True)
    plan = (
        planner({k.removeprefix(PLANNER_PREFIX): v for k, v in planner_weights.items()}) if planner else None
    )

    progress.expect(len(frames))
    rows: list[ParityRow] = []
    memory = OrionMemory.empty(config, slots=1, device="cpu")
    clip = None
    for index, frame in enumerate(frames):
        given, recorded = _of_frame(inputs, index), _of_frame(outputs, index)
        with capture_activations(model) as activations:
            output, memory = model(
                given["img"][None],
                given["lidar2img"],
                given["ego_pose"],
                given["ego_pose_inv"],
                given["timestamp"],
                torch.cat((given["command"][:, None].double(), given["can_bus"]), dim=-1),
                torch.tensor([frame["scene_token"] == clip]),
                memory,
            )
        clip = frame["scene_token"]
        computed = stages(model, output, activations)
        if plan is not None:
            computed |= _trajectory(plan(output.planning_token, given["noise"]), given["command"])
        computed |= _memory_stages(memory, recorded, config)
        rows += [
            ParityRow(index, stage, _difference(stage, ours, recorded[stage]))
            for stage, ours in computed.items()
            if stage in recorded
        ]
        rows += [ParityRow(index, stage, None) for stage in sorted(recorded.keys() - computed.keys())]
        progress.advance()
    return ParityReport(tuple(rows), tolerance)


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
        "state.det.memory_scene_query": memory.history.tokens,
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


def _matching(ours: Tensor, theirs: Tensor) -> Tensor:
    """For each row of ``theirs`` the nearest row of ``ours`` that is not taken yet."""
    distances = torch.cdist(ours.double(), theirs.double())
    order = []
    for distance in distances.T:
        order.append(int(distance.argmin()))
        distances[order[-1]] = torch.inf
    return torch.tensor(order)


def _difference(stage: str, ours: Tensor, recorded: Tensor) -> float:
    """Largest absolute difference; infinite where shapes differ."""
    if stage == "map_dec" or stage.startswith("state."):
        # Recorded with lanes that only training used, and with entries that the next frame drops unread.
        recorded = recorded[tuple(slice(length) for length in ours.shape)]
    if ours.shape != recorded.shape:
        return torch.inf
    difference = (ours.double() - recorded.double()).abs()
    name = stage.split(".")[-1]
    if name in POSITIONS:
        positions = difference[..., : POSITIONS[name]].unflatten(-1, (-1, 3))
        positions /= DETECTION_SIZE_M  # in place, as a view
    return difference.max().item()
