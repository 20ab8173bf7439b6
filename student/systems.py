"""The systems that there are, and their presets: readable tables of dotted strings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_schema.errors import RequestError
from cache_schema.plugins import resolve

if TYPE_CHECKING:
    from student.system import System

SYSTEMS = {
    "orion-lite": "student.orion_lite.system:OrionLiteSystem",
    "drive-kd": "student.drive_kd.system:DriveKdSystem",
    "latentvla": "student.latentvla.system:LatentVlaSystem",
}
"""Name of a system -> where it is defined."""

PRESETS = {
    "orion-lite": "student.orion_lite.presets:ORION_LITE",
    "orion-lite-plus": "student.orion_lite.presets:ORION_LITE_PLUS",
    "orion-lite-mse": "student.orion_lite.presets:MSE",
    "orion-lite-huber": "student.orion_lite.presets:HUBER",
    "orion-lite-kl": "student.orion_lite.presets:KL",
    "orion-lite-trajectory": "student.orion_lite.presets:TRAJECTORY",
    "orion-lite-mimic": "student.orion_lite.presets:MIMIC",
    "orion-lite-2-layers": "student.orion_lite.presets:LAYERS_2",
    "orion-lite-4-layers": "student.orion_lite.presets:LAYERS_4",
    "orion-lite-8-layers": "student.orion_lite.presets:LAYERS_8",
    "orion-lite-16-layers": "student.orion_lite.presets:LAYERS_16",
    "demo": "student.orion_lite.presets:DEMO",
    "demo-trajectory": "student.orion_lite.presets:DEMO_TRAJECTORY",
    "demo-mimic": "student.orion_lite.presets:DEMO_MIMIC",
    "drive-kd": "student.drive_kd.presets:DRIVE_KD",
    "drive-kd-single-perception": "student.drive_kd.presets:SINGLE_PERCEPTION",
    "drive-kd-single-reasoning": "student.drive_kd.presets:SINGLE_REASONING",
    "drive-kd-single-planning": "student.drive_kd.presets:SINGLE_PLANNING",
    "drive-kd-ce": "student.drive_kd.presets:CE",
    "drive-kd-sum": "student.drive_kd.presets:SUM",
    "drive-kd-cosine": "student.drive_kd.presets:COSINE",
    "drive-kd-tiny": "student.drive_kd.presets:TINY",
    "drive-kd-tiny-single-perception": "student.drive_kd.presets:TINY_SINGLE_PERCEPTION",
    "drive-kd-tiny-single-reasoning": "student.drive_kd.presets:TINY_SINGLE_REASONING",
    "drive-kd-tiny-single-planning": "student.drive_kd.presets:TINY_SINGLE_PLANNING",
    "drive-kd-tiny-ce": "student.drive_kd.presets:TINY_CE",
    "drive-kd-tiny-sum": "student.drive_kd.presets:TINY_SUM",
    "drive-kd-tiny-cosine": "student.drive_kd.presets:TINY_COSINE",
    "latent-transfuser": "student.latentvla.presets:LATENT_TRANSFUSER",
    "latentvla-fused": "student.latentvla.presets:FUSED",
    "latentvla-fused-zero": "student.latentvla.presets:FUSED_ZERO",
    "latentvla-fused-noise": "student.latentvla.presets:FUSED_NOISE",
    "latentvla-distilled": "student.latentvla.presets:DISTILLED",
    "latentvla-distilled-kl-only": "student.latentvla.presets:DISTILLED_KL_ONLY",
    "latentvla-distilled-labels": "student.latentvla.presets:DISTILLED_LABELS",
    "latentvla-distilled-parallel": "student.latentvla.presets:DISTILLED_PARALLEL",
    "latent-transfuser-tiny": "student.latentvla.presets:TRANSFUSER_TINY",
    "latentvla-fused-tiny": "student.latentvla.presets:FUSED_TINY",
    "latentvla-fused-zero-tiny": "student.latentvla.presets:FUSED_ZERO_TINY",
    "latentvla-fused-noise-tiny": "student.latentvla.presets:FUSED_NOISE_TINY",
    "latentvla-distilled-tiny": "student.latentvla.presets:DISTILLED_TINY",
    "latentvla-distilled-kl-only-tiny": "student.latentvla.presets:DISTILLED_KL_ONLY_TINY",
    "latentvla-distilled-labels-tiny": "student.latentvla.presets:DISTILLED_LABELS_TINY",
    "latentvla-distilled-parallel-tiny": "student.latentvla.presets:DISTILLED_PARALLEL_TINY",
}
"""Name of a preset -> where it is defined."""


def named_system(name: str) -> type[System]:
    """Return a system by its name, or the user's own by ``package.module:Class``.

    Raises:
        RequestError: There is none of that name.
    """
    return resolve(SYSTEMS, name, kind="system", needs="training_step")


def system_of_run(recorded: str, named: str | None) -> type[System]:
    """Return the system of a run, importing nothing that only the run's files name.

    ``recorded`` is its name in the run's files, ``named`` as the user gives it, if they do.

    Raises:
        RequestError: The run's system is not of this package, or the user named another.
    """
    if named is None and recorded not in SYSTEMS:
        raise RequestError(
            f"the run was made with the system {recorded!r}, which is not part of this package",
            expected=f"one of {', '.join(SYSTEMS)}: what a run's files name is never imported by itself",
            repair=f"if you trust that code, add --system {recorded}",
        )
    if named is not None and named != recorded:
        raise RequestError(
            f"the run was made with the system {recorded!r}, not with {named!r}",
            expected="the system that the run was trained with",
            repair=f"give --system {recorded}, or another run",
        )
    return named_system(recorded)
