"""ORION on a GPU: with fake tensors, which have devices and no memory; and on a real GPU."""

import contextlib
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.teachers.orion.images import _per_channel
from pipeline.teachers.orion.network.backbone import Attention, rotary_table
from pipeline.teachers.orion.network.kernels.gated_norm import gated_norm
from pipeline.teachers.orion.precision import PrecisionConfig
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM
from pipeline.teachers.precision import TYPES, attention_in_fixed_order
from tests.fake_gpu import fake_gpu

WAITS = {"_local_scalar_dense", "nonzero", "item", "unique_consecutive", "masked_select", "equal"}
"""Operators whose result the host has to wait for."""


class Operators(TorchDispatchMode):
    """Records what waits for a GPU, what mixes it with the host, and which products may round to TF32."""

    def __init__(self):
        super().__init__()
        self.computed = 0
        self.waits = []
        self.mixed = []
        self.products = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if name in ("linear", "matmul", "einsum"):
            self.products[name, torch.get_float32_matmul_precision()] += 1
        devices = {x.device.type for x in given if x.device.type != "cpu" or x.ndim}
        if devices - {"cpu"}:
            self.computed += 1
            arrived = [
                x for x in tree_leaves(result) if isinstance(x, torch.Tensor) and x.device.type == "cpu"
            ]
            if name in WAITS or (arrived and not kwargs.get("non_blocking")):
                self.waits.append(name)
            if len(devices) > 1:
                self.mixed.append(name)
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


@pytest.fixture
def no_fake_stays_cached():
    yield
    _per_channel.cache_clear()


@pytest.mark.usefixtures("no_fake_stays_cached")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    ("device", "mode"),
    [("meta", contextlib.nullcontext), ("cuda:0", fake_gpu)],  # meta tensors cannot be waited for either
)
def test_a_step_on_a_gpu_mixes_no_devices_and_waits_for_nothing(device, mode, precision, frame_of, together):
    with mode():
        begun = together([frame_of("a", 0), frame_of("", 0)])
        frames = [begun, together([frame_of("a", 1), frame_of("b", 0)])]
        teacher = ORION_TINY_RANDOM.load(None, device=device, precision=precision)
        state = teacher.begin(2)
        with Operators() as operators:
            for frame in frames:
                features, state = teacher.step(frame, state)
    assert operators.computed
    assert operators.waits == []
    assert operators.mixed == []
    assert {str(values.device) for values in features.values()} == {device}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_tensor_cores_compute_linear_maps_and_attention_of_the_heads(precision, tiny, frame_of):
    teacher = ORION_TINY_RANDOM.load(None, device="cpu")
    PrecisionConfig(precision).prepare_heads(teacher.model, "cuda:0")
    with Operators() as operators, Attentions() as attentions:
        output, _ = teacher.forward(frame_of("a", 0), teacher.begin(1))
    assert torch.get_float32_matmul_precision() == "highest"
    config = teacher.config
    decoders = config.detection.decoder.layers + config.lanes.decoder.layers
    # Three small decoders, of which that of futures attends twice.
    unmasked = decoders + 4
    others = config.backbone.depth + config.language.layers
    rounded = precision != "fp32"
    core = torch.float16 if rounded else torch.float32
    assert attentions.seen == Counter([(core, True)] * decoders + [(core, False)] * unmasked) + Counter(
        {(torch.float32, False): others}
    )
    # Rays are no linear map, and poses no product of a library.
    assert operators.products["einsum", "highest"]
    assert not operators.products["einsum", "high"]
    assert not {"matmul", "bmm"} & {name for name, _ in operators.products}
    assert bool(operators.products["linear", "high"]) == rounded
    exact, _ = tiny.forward(frame_of("a", 0), tiny.begin(1))
    error = (output.planning_token - exact.planning_token).norm() / exact.planning_token.norm()
    assert (1e-6 < error < 1e-2) if rounded else error == 0


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", TYPES)
def test_a_gpu_norms_gated_channels_in_one_pass_as_a_cpu_does(precision, compiled):
    hidden, width, eps = 170, 192, 1e-6
    drawn = torch.Generator().manual_seed(0)
    gate, value = (torch.randn(3, 7, width, generator=drawn) for _ in range(2))
    scale, shift = (torch.randn(hidden, generator=drawn) for _ in range(2))
    given = [x.to(TYPES[precision]) for x in (gate, value, scale, shift)]
    exact = gated_norm(*(x.double() for x in given), eps)
    norm = torch.compile(gated_norm, fullgraph=True) if compiled else gated_norm
    found = norm(*(x.cuda() for x in given), eps).cpu()
    assert found.dtype == TYPES[precision]
    assert not found[..., hidden:].any()
    assert (found - exact).norm() <= torch.finfo(found.dtype).eps * exact.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(
    ("grid", "window", "heads", "head_width"),
    [(6, 4, 3, 16), (8, 4, 2, 16), (40, 16, 2, 64), (20, 16, 1, 32)],
)
def test_a_gpu_attends_within_windows_in_one_kernel_as_a_cpu_does(
    grid, window, heads, head_width, precision, compiled
):
    width, number = heads * head_width, TYPES[precision]
    attention = Attention(width, heads, window).requires_grad_(False)
    drawn = torch.Generator().manual_seed(0)
    for weight in attention.parameters():
        weight.copy_((torch.randn(weight.shape, generator=drawn) / width**0.5).to(number))
    x = (3 * torch.randn(2, grid, grid, width, generator=drawn)).to(number)
    rotation = [table.to(number) for table in rotary_table(grid, window, head_width)]
    exact = attention.double().mix(x.double(), [table.double() for table in rotation])
    on_gpu = attention.to("cuda", number)
    mix = torch.compile(on_gpu.mix, fullgraph=True) if compiled else on_gpu.mix
    with torch.inference_mode():
        first, second = (mix(x.cuda(), [table.cuda() for table in rotation]) for _ in range(2))
    assert first.equal(second)
    # Queries, keys, weights, values and the sum are rounded in sequence.
    assert (first.cpu().double() - exact).norm() <= 5 * torch.finfo(number).eps * exact.norm()


@pytest.mark.gpu
def test_a_single_query_attends_in_fixed_order():
    drawn = torch.Generator().manual_seed(0)
    query = torch.randn(8, 32, 1, 128, generator=drawn).cuda().half()
    key, value = (torch.randn(8, 32, 597, 128, generator=drawn).cuda().half() for _ in range(2))
    with attention_in_fixed_order():
        first, *others = (F.scaled_dot_product_attention(query, key, value) for _ in range(50))
    assert all(first.equal(other) for other in others)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_two_runs_on_a_gpu_give_the_same_bits(precision, compiled, frame_of):
    def run():
        teacher = ORION_TINY_RANDOM.load(None, device="cuda", precision=precision, compile=compiled)
        state, said = teacher.begin(1), []
        for index in range(3):
            features, state = teacher.step(frame_of("a", index), state)
            said.append({name: values.cpu() for name, values in features.items()})
        return said

    for first, second in zip(run(), run(), strict=True):
        assert all(first[name].equal(second[name]) for name in first)


def test_positions_are_resized_once_in_float32(frame_of, monkeypatch):
    resized = []
    resize = F.interpolate

    def noted(x, *args, mode, **kwargs):
        if mode == "bicubic":
            resized.append(x.dtype)
        return resize(x, *args, mode=mode, **kwargs)

    monkeypatch.setattr(F, "interpolate", noted)
    teacher = ORION_TINY_RANDOM.load(None, device="cpu", precision="bf16")
    state = teacher.begin(1)
    for index in range(2):
        _, state = teacher.step(frame_of("a", index), state)
    assert resized == [torch.float32]
