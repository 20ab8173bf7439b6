"""Tiny sizes of everything, for networks that are built a hundred times."""

from student.latentvla.config import LatentVlaConfig
from student.latentvla.model import Sizes
from student.runs.config import RunConfig
from student.runs.presets import changed, preset

PLANNER = {
    "widths": (4, 4, 8, 8),
    "blocks": (1, 1, 1, 1),
    "bev_pixels": 64,
    "fusion_blocks": 1,
    "fusion_heads": 2,
    "width": 16,
    "layers": 1,
    "heads": 2,
    "inner": 16,
    "boxes": 3,
    "bev_channels": 4,
}
DECISION = {"layers": 2, "width": 16, "heads": 2, "inner": 32}
SIZES = Sizes(image=(32, 128), steps=6, codes=(5, 7), states=12)


def options(**more) -> dict:
    return {
        "planner": PLANNER,
        "decision": DECISION,
        "visual_embeddings": 3,
        "action_embeddings": 2,
        "embedding_heads": 2,
        **more,
    }


def config(**more) -> LatentVlaConfig:
    return LatentVlaConfig.model_validate(options(**more))


def small(name: str, **changes) -> RunConfig:
    """Return a preset at these sizes, for two epochs, with fields changed by name, dots as ``__``."""
    tiny = {
        "epochs": 2,
        **{f"student.planner.{field}": value for field, value in PLANNER.items()},
        **{f"student.decision.{field}": value for field, value in DECISION.items()},
    }
    named = {field.replace("__", "."): value for field, value in changes.items()}
    return changed(preset(f"{name}-tiny"), tiny | named)
