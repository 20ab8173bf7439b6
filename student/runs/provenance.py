"""What exactly made a run: ``run.json`` in its folder.

It identifies the dataset by a digest over all of it, and holds the configuration with its seed and, for every
time the run was started, the code, the machine, the libraries and the options.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from cache_schema.format.manifest import TeacherIdentity
from cache_schema.storage.atomic_io import write_durably
from student.runs.config import RunConfig

if TYPE_CHECKING:
    from student.loading.dataset import Dataset

NAME = "run.json"
LIBRARIES = ("torch", "accelerate", "numpy", "safetensors", "tensorstore", "zarr")
"""Libraries that decide numbers, or transport them."""
VARIABLES = (
    "ATEN_",
    "CUBLAS",
    "CUDNN_",
    "DNNL_",
    "KMP_",
    "MKL_",
    "NCCL_",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_",
    "ONEDNN_",
    "OPENBLAS_",
    "PYTORCH_",
    "TORCHDYNAMO_",
    "TORCHINDUCTOR_",
    "TORCH_",
)
"""Beginnings of the names of environment variables that torch and its libraries follow in what they compute,
and that cannot be taken back once these are loaded."""


class TrainedOn(BaseModel):
    """The dataset behind a run: its teacher, and what every clip holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: TeacherIdentity
    clips: int
    digest: str
    """sha256 over the manifest's identity and the digests of all clips: equal digests, equal datasets."""
    joined: tuple[TrainedOn, ...] = ()
    """The other datasets, where several were joined."""

    @classmethod
    def of(cls, dataset: Dataset) -> TrainedOn:
        """Fingerprint a dataset, and those that are joined with it, as they are now."""
        first, *others = (
            cls(teacher=one.manifest.teacher, clips=len(one.clips), digest=one.fingerprint)
            for one in dataset.datasets
        )
        return first.model_copy(update={"joined": tuple(others)})

    @property
    def teachers(self) -> tuple[TeacherIdentity, ...]:
        """The teachers of all datasets, in order."""
        return self.teacher, *(other.teacher for other in self.joined)

    def __str__(self) -> str:
        mine = f"{self.clips} clips ({self.digest[:12]}) by {self.teacher.name} ({self.teacher.weights})"
        return " with ".join((mine, *map(str, self.joined)))


class Start(BaseModel):
    """One time that a run was started."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    """Steps that were done before."""
    at: str
    """UTC."""
    teachonce: str
    """Version of this package."""
    commit: str | None
    """Git commit of the code, with ``+changes`` where files differ from it; None outside a checkout."""
    machine: str
    device: str
    processes: int
    resident: str
    python: str
    libraries: dict[str, str]
    environment: dict[str, str] = {}
    """Variables that were set and that libraries may have followed: see ``VARIABLES``."""


class Provenance(BaseModel):
    """Everything that made a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trained_on: TrainedOn
    config: RunConfig
    recipe: str = ""
    """The preset that the configuration came from, and what was changed of it; empty if it is unknown."""
    starts: tuple[Start, ...]


def record_start(
    run: Path,
    trained_on: TrainedOn,
    config: RunConfig,
    *,
    recipe: str = "",
    step: int = 0,
    device: torch.device,
    processes: int = 1,
    resident: str = "none",
) -> None:
    """Add to ``run.json`` that the run goes on from ``step``, here and now."""
    start = Start(
        step=step,
        at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        teachonce=importlib.metadata.version("teachonce"),
        commit=_commit(),
        machine=f"{platform.platform()}, {platform.machine()}",
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        processes=processes,
        resident=resident,
        python=platform.python_version(),
        libraries={name: importlib.metadata.version(name) for name in LIBRARIES},
        environment={name: os.environ[name] for name in sorted(os.environ) if name.startswith(VARIABLES)},
    )
    earlier = _starts(run / NAME) if step else ()
    record = Provenance(trained_on=trained_on, config=config, recipe=recipe, starts=(*earlier, start))
    write_durably(run / NAME, record.model_dump_json(indent=1).encode())


def _starts(path: Path) -> tuple[Start, ...]:
    try:
        return Provenance.model_validate_json(path.read_bytes()).starts
    except (OSError, ValidationError):
        # Only history is lost: what the run depends on is in its checkpoint, and is compared there.
        return ()


def _commit() -> str | None:
    here = Path(__file__).parent

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *command], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # Installed inside another project's checkout, this file is not part of that project.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"
