"""What a teacher's step returned, copied to host memory.

Dimension letters: B slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np


class HostOutputs:
    """The outputs of one step, in memory that no later step overwrites.

    The copy begins at once, because a teacher may overwrite its tensors at its next step. From a GPU it is
    not waited for: it runs in order of the current stream of the tensor's device, before that step.

    Args:
        outputs: For every feature a tensor (B, *shape), or a sequence of B tensors.
        slots: B.

    Raises:
        RequestError: There is not one row a slot.
    """

    def __init__(self, outputs: Mapping[str, Tensor | Sequence[Tensor]], slots: int) -> None:
        for name, value in outputs.items():
            if len(value) != slots:
                raise RequestError(
                    f"the teacher returned {len(value)} rows of {name!r} for {slots} slots",
                    expected="one row a slot, idle or not",
                    repair="correct the teacher's step; its protocol is in pipeline/teachers/protocol.py",
                )
        tensors = [t for v in outputs.values() for t in ([v] if isinstance(v, Tensor) else v)]
        self.gpus = {tensor.device for tensor in tensors if tensor.is_cuda}
        self._values = {
            name: _copy(value) if isinstance(value, Tensor) else [_copy(row) for row in value]
            for name, value in outputs.items()
        }
        self._copied: list[torch.cuda.Event] = []
        for gpu in self.gpus:
            event = torch.cuda.Event(blocking=True)  # the waiting thread sleeps
            event.record(torch.cuda.current_stream(gpu))
            self._copied.append(event)

    def wait(self) -> None:
        """Wait until everything has arrived."""
        for event in self._copied:
            event.synchronize()

    def of_slot(self, slot: int) -> dict[str, np.ndarray | list[np.ndarray]]:
        """Return one sample of every feature, as ``ClipWriter.append`` takes it: (1, *shape), or [value]."""
        return {
            name: value[slot : slot + 1].numpy() if isinstance(value, Tensor) else [value[slot].numpy()]
            for name, value in self._values.items()
        }


def _copy(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()  # NumPy has no bfloat16
    # Without waiting, torch copies from a GPU to pinned memory. Only of CUDA an event says when that is done.
    return tensor.detach().to("cpu", non_blocking=tensor.is_cuda, copy=True)
