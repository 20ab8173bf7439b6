"""ORION on a GPU: with fake tensors, which have devices and no memory; and on a real GPU."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.teachers.orion.presets import ORION_TINY

WAITS = {"_local_scalar_dense", "nonzero", "item", "unique_consecutive", "masked_select", "equal"}
"""Operators whose result the host has to wait for."""


class Operators(TorchDispatchMode):
    """Records what a GPU computes: what waits for it, and whether float32 products may round to TF32."""

    def __init__(self):
        super().__init__()
        self.waits = []
        self.products = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if any(x.is_cuda for x in given):
            left = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor) and not x.is_cuda]
            if name in WAITS or (left and not kwargs.get("non_blocking")):
                self.waits.append(name)
            if name in ("mm", "addmm", "bmm", "baddbmm") and given[0].dtype == torch.float32:
                self.products[name, torch.get_float32_matmul_precision()] += 1
        return result


class Attentions(TorchFunctionMode):
    """Records types and masks of attention."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.seen[args[0].dtype, kwargs.get("attn_mask") is not None] += 1
        return func(*args, **kwargs)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_step_on_a_gpu_mixes_no_devices_and_waits_for_nothing(precision, frame_of, together):
    frames = [together([frame_of("a", 0), frame_of("", 0)]), together([frame_of("a", 1), frame_of("b", 0)])]
    with FakeTensorMode(allow_non_fake_inputs=True):
        teacher = ORION_TINY.load(None, device="cuda", precision=precision)
        state = teacher.begin(2)
        with Operators() as operators, Attentions() as attentions:
            for frame in frames:
                features, state = teacher.step(frame, state)
    assert operators.waits == []
    assert {values.device.type for values in features.values()} == {"cuda"}
    assert torch.get_float32_matmul_precision() == "highest"
    config = ORION_TINY.config
    blocks, layers = config.backbone.depth, config.language.layers
    decoders = config.detection.decoder.layers + config.lanes.decoder.layers
    half = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    unmasked = Counter({half: blocks + layers})
    # Three small decoders, of which that of futures attends twice.
    unmasked[torch.float32 if precision == "fp32" else torch.float16] += decoders + 4
    assert attentions.seen == Counter(
        {
            **{(dtype, False): 2 * times for dtype, times in unmasked.items()},
            (torch.float32, True): 2 * decoders,
        }
    )
    rounded = {kind: times for (kind, allowed), times in operators.products.items() if allowed == "high"}
    exact = {kind: times for (kind, allowed), times in operators.products.items() if allowed == "highest"}
    # Batched products are of poses and rays; all linear maps of the heads are plain ones.
    assert exact.get("bmm")
    assert "bmm" not in rounded
    if precision == "fp32":
        assert not rounded
    else:
        assert not {"mm", "addmm"} & exact.keys()


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_two_runs_on_a_gpu_give_the_same_bits(precision, compiled, frame_of):
    def run():
        teacher = ORION_TINY.load(None, device="cuda", precision=precision, compile=compiled)
        state, said = teacher.begin(1), []
        for index in range(3):
            features, state = teacher.step(frame_of("a", index), state)
            said.append({name: values.cpu() for name, values in features.items()})
        return said

    for first, second in zip(run(), run(), strict=True):
        assert all(first[name].equal(second[name]) for name in first)
