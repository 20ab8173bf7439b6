"""The card that lies beside a trained teacher's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.teachers.orion.training.measure import HeldOut
    from pipeline.teachers.orion.training.train import TeacherTraining


def card(settings: TeacherTraining, figures: HeldOut, digest: str, hardware: str) -> str:
    """Return the card of some weights, as Markdown."""
    low, high = figures.ratio_interval
    stages = "; ".join(
        f"{stage.steps} steps of {stage.batch} "
        + (f"windows of {stage.length} frames" if stage.length else "images")
        for stage in settings.stages
    )
    return f"""# orion-tiny

The architecture of ORION with small sizes, trained from random weights on synthetic clips. It knows the
synthetic world, and nothing of real roads.

| | |
|---|---|
| Digest | `{digest}` |
| Script | `python -m pipeline.teachers.orion.training` |
| Data | {settings.clips} synthetic clips, and {settings.weaving} in which the ego weaves; seed \
{settings.data_seed}, {settings.windows} windows of {settings.length} frames each |
| Training | {stages}; seed {settings.seed} |
| Hardware | {hardware} |
| Licence | CC0-1.0 |

On {figures.clips} held-out clips (seed {settings.data_seed + 1}, {figures.frames} frames with a whole \
trajectory):

| | |
|---|---|
| L2 up to 3 s | {figures.l2:.3f} m |
| of constant velocity | {figures.l2_constant_velocity:.3f} m |
| of standing still | {figures.l2_standing_still:.3f} m |
| Ratio to constant velocity | {figures.ratio:.3f} (95 % interval over clips {low:.3f} to {high:.3f}) |
| Average precision of vehicles within 30 m, at 2 m | {figures.vehicle_precision:.3f} |
| Average precision of lanes, at 2 m | {figures.lane_precision:.3f} |
"""
