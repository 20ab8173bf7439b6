"""A trained student as a policy that a server drives with: perception in front, the student behind it.

Both compute a row for every slot at every step, busy or not, so that a drive has the same bits whatever its
neighbours do. For a clip that is replayed they are those of a dataset that was extracted with as many slots,
where it had the same one, and of the student's plans for batches of as many samples: kernels round otherwise
for another size of a batch, and for another row of it.

Dimension letters: B slots, T step (of 0.5 s).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save

from cache_schema.errors import RequestError
from cache_schema.storage.atomic_io import sha256_bytes
from cache_schema.vocabulary.driving import GROUND_TRUTH
from cache_schema.vocabulary.observation import OBSERVED
from student.device import allow_tf32, sent
from student.loading.decode import decoded_values
from student.policy import policy_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from cache_schema.vocabulary.observation import Observation
    from cache_schema.vocabulary.perception import Perception
    from student.policy import DrivingSystem
    from student.runs.trained import TrainedStudent
    from student.system import System


class Seen(NamedTuple):
    """An observation that is ready to be planned from."""

    inputs: Any
    """Of the perception."""
    observed: Mapping[str, np.ndarray]
    """Feature -> what the observation itself says, as datasets hold it."""


class StudentPolicy:
    """Plans for B drives at once; implements ``student.serving.policy.Policy``.

    ``begin`` and ``step`` belong to one thread.

    Args:
        perception: Computes what the student reads besides the ego's state.
        system: Of the student, or the teacher in its place.
        model: Its trained network, in evaluation mode; it is moved to the device.
        slots: Drives that advance together.
        device: Where the student computes.
        identity: Names and digests of the student; see ``identity_of``.

    Raises:
        RequestError: The system does not drive, or the perception lacks a feature that it reads.
    """

    def __init__(
        self,
        perception: Perception,
        system: System | DrivingSystem,
        model: nn.Module,
        *,
        slots: int,
        device: torch.device,
        identity: Mapping[str, str] = {},
    ) -> None:
        policy = policy_of(system, model)
        specs = {spec.name: spec for spec in GROUND_TRUTH if spec.name in OBSERVED}
        specs |= {spec.name: spec for spec in perception.features}
        if lacking := [name for name in policy.features if name not in specs]:
            raise RequestError(
                f"the student reads {', '.join(lacking)}, which nothing computes while it drives",
                expected=f"some of {', '.join(specs)}",
                repair="serve a student that reads only these, or with the perception that it needs",
            )
        allow_tf32(False)
        self.slots = slots
        self.identity = {**identity, **perception.identity}
        self.seconds: dict[str, float] = {}
        """What the last step took: its ``vision`` and its ``student``."""
        self._perception, self._plan, self._device = perception, policy.plan, device
        self._specs = {name: specs[name] for name in policy.features}
        self._observed = [name for name in policy.features if name in OBSERVED]
        model.to(device).eval()

    def prepare(self, observation: Observation) -> Seen:
        """Check an observation, and decode its images. Called by several threads at once.

        Raises:
            ClipError: An image is not a whole JPEG of 1600x900.
            RequestError: A camera is missing, or a number is not what it should be.
        """
        observation.check()
        observed = {
            name: np.asarray(getattr(observation, OBSERVED[name]), self._specs[name].dtype)
            for name in self._observed
        }
        return Seen(self._perception.prepare(observation), observed)

    def begin(self) -> Any:
        """Return the state of all slots before their first step, which is no slower than the next ones.

        For that a step of idle slots is computed and forgotten: what does not fit into a GPU's memory, or
        has to be compiled, shows before anybody drives.
        """
        state = self._perception.begin(self.slots)
        self.step([None] * self.slots, state)
        return state

    @torch.inference_mode()
    def step(self, inputs: Sequence[Seen | None], state: Any) -> tuple[np.ndarray, Any]:
        """Plan for one observation a slot.

        Args:
            inputs: (B) what ``prepare`` returned; None for an idle slot, whose memory stays as it is.
            state: Of all slots. A slot's memory is cleared when the clip of its observations changes.

        Returns:
            Positions (B, T, 2) float32 in metres, LiDAR frame (x right, y forward), and the new state. Rows
            of idle slots mean nothing.
        """
        if len(inputs) != self.slots:
            raise ValueError(f"{len(inputs)} inputs for {self.slots} slots")
        begun = time.perf_counter()
        batch = self._perception.collate([None if row is None else row.inputs for row in inputs])
        computed, state = self._perception.step(batch, state)
        features = {
            name: self._stacked(name, inputs)
            if name in OBSERVED
            else decoded_values(spec, computed[name].to(self._device))
            for name, spec in self._specs.items()
        }
        self._synchronize()
        seen = time.perf_counter()
        positions = self._plan(features).positions.float().cpu().numpy()
        self.seconds = {"vision": seen - begun, "student": time.perf_counter() - seen}
        return positions, state

    def _stacked(self, name: str, inputs: Sequence[Seen | None]) -> Tensor:
        """Return what observations say, (B, *shape); zeros for idle slots."""
        spec = self._specs[name]
        idle = np.zeros(spec.fixed_shape, spec.dtype)
        rows = np.stack([idle if row is None else row.observed[name] for row in inputs])
        return sent(decoded_values(spec, torch.from_numpy(rows)), self._device)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def identity_of(trained: TrainedStudent) -> dict[str, str]:
    """Return what a student is, by names and digests: for those that it drives for, and for its records."""
    checkpoint = trained.checkpoint
    weights = {name: value.contiguous() for name, value in trained.model.state_dict().items()}
    return {
        "system": checkpoint.config.system,
        "student": f"sha256:{sha256_bytes(save(weights))}",
        "trained": f"{checkpoint.epoch} epochs, {checkpoint.step} steps",
        "trained_on": str(checkpoint.trained_on),
    }
