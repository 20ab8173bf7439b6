"""Latent actions that were learned: one safetensors file, whose header says what it is.

Dimension letters: B batch, H rows and W columns of images, N action tokens.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from cache_schema.errors import CheckpointError
from cache_schema.format.features import Record
from cache_schema.format.manifest import DataIdentity
from cache_schema.storage.atomic_io import sha256_of, write_durably
from pipeline.teachers.latent_action_vlm.making.actions_config import ActionsConfig
from pipeline.teachers.latent_action_vlm.making.checks import Checks
from pipeline.teachers.latent_action_vlm.making.clips.observations import Observer
from pipeline.teachers.latent_action_vlm.making.latent_action_model import EgoModel, EnvironmentModel
from pipeline.teachers.latent_action_vlm.making.training_loop import KEY
from pipeline.teachers.weights import refuse_placeholder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

OWN = "observer."
"""Begins the names of an observer's weights, where they are random."""


class ActionsDescription(Record):
    """What a file of latent actions says of itself."""

    kind: Literal["latent-actions-1"] = "latent-actions-1"
    config: ActionsConfig
    gap_s: float
    """Seconds of a transition."""
    observation_weights: str
    """Digest or seed of what images were seen through."""
    condition_mean: tuple[float, ...]
    condition_std: tuple[float, ...]
    """By which the numbers of conditions were scaled."""
    data: DataIdentity
    """Of the clips that it was learned from."""
    clips: int
    tensors: str
    """sha256 over names, shapes and bytes of all tensors."""
    checks: Checks


class LearnedActions:
    """A trained latent action model, and what it sees images through.

    Args:
        file: What ``train_actions`` wrote.
        dinov2: Folder of the DINOv2 that it was trained with, if it was.
        device: Where it runs.

    Raises:
        CheckpointError: The file is damaged or something else, or the DINOv2 is another.
    """

    def __init__(self, file: Path, *, dinov2: Path | None = None, device: str = "cpu") -> None:
        description, tensors = _read(file)
        config = description.config
        self.description, self.config, self.device = description, config, device
        self.sha256 = sha256_of(file)
        self.observer = Observer(config.observation, config.image_size, folder=dinov2, seed=config.seed)
        if config.observation == "dinov2" and self.observer.weights != description.observation_weights:
            raise CheckpointError(
                f"{dinov2} holds other weights than those that {file} was trained with",
                expected=description.observation_weights,
                repair="give the folder of that DINOv2",
            )
        network = config.network(self.observer.width)
        kept = config.stage2_environment == "frozen-encoder"
        self.model = EgoModel(network, EnvironmentModel(network) if kept else None)
        own = {name: value for name, value in tensors.items() if name.startswith(OWN)}
        try:
            self.model.load_state_dict({name: tensors[name] for name in tensors.keys() - own.keys()})
            if own:
                self.observer.load_state_dict({key.removeprefix(OWN): value for key, value in own.items()})
        except RuntimeError as error:
            raise _no_actions(file, str(error).splitlines()[0]) from error
        self.observer.to(device)
        self.model.requires_grad_(False).eval().to(device)

    @torch.no_grad()
    def observe(self, images: Tensor) -> Tensor:
        """Return features (B, P, D) of images (B, H, W, 3) uint8."""
        return self.observer(images.to(self.device))

    @torch.no_grad()
    def codes(self, features: Tensor) -> Tensor:
        """Return the ego codes (B, N) of features (B, 2, P, D) of earlier and later frames."""
        return self.model.encode_ego(features).codes


def write_actions(
    file: Path, model: EgoModel, observer: Observer, described: Mapping[str, Any]
) -> ActionsDescription:
    """Write a trained model; what a file of its name held is replaced.

    Args:
        file: Where it is to be.
        model: Of stage 2.
        observer: What it sees images through; published weights are not written again.
        described: All of the description but ``tensors``.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if observer.kind == "random-dinov2":
        tensors |= {f"{OWN}{name}": value.cpu().contiguous() for name, value in observer.state_dict().items()}
    description = ActionsDescription.model_validate({**described, "tensors": _digest(tensors)})
    write_durably(file, save(tensors, {KEY: description.model_dump_json()}))
    return description


def _read(file: Path) -> tuple[ActionsDescription, dict[str, Tensor]]:
    refuse_placeholder(file)
    try:
        with safe_open(file, "pt") as stored:
            header = (stored.metadata() or {}).get(KEY, "{}")
            description = ActionsDescription.model_validate_json(header)
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _no_actions(file, str(error)) from error
    except ValidationError as error:
        raise _no_actions(file, str(error.errors()[0]["msg"])) from error
    if _digest(tensors) != description.tensors:
        raise _no_actions(file, "its tensors are not those that were written")
    return description, tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return f"sha256:{digest.hexdigest()}"


def _no_actions(file: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{file} cannot be read as latent actions: {why}",
        expected="actions.safetensors of a folder in which `teachonce train-actions` has ended",
        repair="give that file, or copy it again",
    )
