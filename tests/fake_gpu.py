"""A GPU that is not there: its tensors have shapes and a device, and no values.

Tensors of the host and of the GPU cannot be mixed up, and whatever would make the host wait for the GPU is
noted. Gradients need a real one.
"""

import contextlib
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim", "_unique2"}
"""Operators whose result the host needs, so that it would wait for a GPU."""
COPYING = {"_to_copy", "copy_"}
INDEXING = {"index", "index_put", "index_put_"}
"""Operators that take their indexes from the host, too, and wait until they are copied."""


class FakeGpu(TorchDispatchMode):
    """Notes what happens.

    ``called`` are the operators that ran, ``waits`` those that the host would wait for, ``events`` the
    streams that events were recorded on, ``adamw`` what the optimiser was given.
    """

    def __init__(self):
        super().__init__()
        self.called, self.waits, self.events, self.adamw = [], [], [], []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), operator.overloadpacket.__name__
        self.called.append(name)
        pinned = kwargs.get("pin_memory") or name == "_pin_memory"
        if pinned:  # nothing can be pinned without a GPU, so that the memory only says that it is
            kwargs["pin_memory"] = False
            made = args[0].clone() if name == "_pin_memory" else operator(*args, **kwargs)
            made.is_said_to_be_pinned = True
            return made
        if name == "_fused_adamw_":  # in place, and not known to fake tensors
            given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
            assert {value.device.type for value in given} == {"cuda"}
            self.adamw.append({**kwargs, "weights": len(args[0])})
            return None
        if name == "upsample_bicubic2d":  # what it is made of asks for a driver
            return args[0].new_empty((*args[0].shape[:2], *args[1]))
        if name == "_local_scalar_dense":
            self.waits.append(name)
            return 0
        made = operator(*args, **kwargs)
        indexes = args[1] if name in INDEXING and args[0].device.type == "cuda" else ()
        sent = any(index is not None and index.device.type == "cpu" for index in indexes)
        if sent or name in WAITING or (name in COPYING and not self._goes_on(name, made, args, kwargs)):
            self.waits.append(f"{name} {[getattr(value, 'shape', value) for value in args]}")
        return made

    @staticmethod
    def _goes_on(name, made, args, kwargs):
        source = args[1] if name == "copy_" else args[0]
        if made.device.type == source.device.type:
            return True
        on_host = source if source.device.type == "cpu" else made
        non_blocking = kwargs.get("non_blocking") or True in args[2:]
        return bool(non_blocking) and getattr(on_host, "is_said_to_be_pinned", False)


class WithoutDriver(TorchFunctionMode):
    """Takes the way round methods that ask for a driver, though their operators would not."""

    ROUND: ClassVar = {
        torch.Tensor.__invert__: torch.bitwise_not,
        torch.Tensor.contiguous: torch.clone,
        torch.Tensor.copy_: torch.ops.aten.copy_.default,
        torch.Tensor.numpy: lambda values: np.zeros(values.shape),
    }

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.__getitem__ and args[0].device.type == "cuda":
            return _indexed(*args)
        if function is torch.Tensor.__setitem__ and args[0].device.type == "cuda":
            part, given = _indexed(*args[:2]), args[2]
            set_to = torch.ops.aten.copy_ if isinstance(given, torch.Tensor) else torch.ops.aten.fill_
            return set_to(part, given)
        return self.ROUND.get(function, function)(*args, **(kwargs or {}))


def _indexed(values, index):
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [part for part in parts if not isinstance(part, torch.Tensor)]:
        at = [part is Ellipsis for part in parts].index(True)
        given = sum(part is not None for part in parts) - 1
        parts[at : at + 1] = [slice(None)] * (values.dim() - given)
    places, axis = [], 0
    for part in parts:
        if isinstance(part, int):
            values = values.select(axis, part)
            continue
        if part is None:
            values = values.unsqueeze(axis)
        elif isinstance(part, slice):
            values = torch.ops.aten.slice(values, axis, part.start, part.stop, part.step or 1)
        places.append(part if isinstance(part, torch.Tensor) else None)
        axis += 1
    return torch.ops.aten.index(values, places) if any(p is not None for p in places) else values


@contextlib.contextmanager
def fake_gpu():
    """Let ``cuda:N`` stand for GPUs that are not there."""
    gpu = FakeGpu()

    class Event:
        def __init__(self, *, blocking=False):
            assert blocking  # or whoever waits keeps a core busy

        def record(self, stream):
            gpu.events.append(stream)

        def synchronize(self):
            """Return at once."""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch.cuda, "current_stream", torch.device)
        patch.setattr(torch.cuda, "set_device", lambda _: None)
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        with fake, gpu, WithoutDriver(), torch.no_grad(), enable_python_dispatcher():
            yield gpu
