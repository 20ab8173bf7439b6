"""What other numbers than float32 cost, and that they are where they belong."""

import dataclasses
import json
from collections import Counter

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from safetensors.torch import load_file

from cache_schema.errors import RequestError
from pipeline.teachers.orion.checkpoints.tensors import random_weights
from pipeline.teachers.orion.images import ImagePreprocessing
from pipeline.teachers.orion.precision import Fp8Linear, PrecisionConfig, fp8_rows
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM, OrionPreset
from pipeline.teachers.orion.recording import recorded_sizes

MID = dataclasses.replace(
    ORION_TINY_RANDOM,
    config=dataclasses.replace(
        ORION_TINY_RANDOM.config,
        language=dataclasses.replace(
            ORION_TINY_RANDOM.config.language, width=512, mlp_width=1376, layers=4, heads=8
        ),
    ),
)
PRESETS = {"tiny": ORION_TINY_RANDOM, "mid": MID}
QUERY = "language_model.model.layers.0.self_attn.q_proj"


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.fixture(scope="module", params=PRESETS)
def preset(request):
    return PRESETS[request.param]


@pytest.fixture(scope="module")
def exact(preset, frame_of):
    teacher = preset.load(None, device="cpu")
    return teacher.forward(frame_of("a", 0), teacher.begin(1))[0].planning_token


@pytest.mark.parametrize(
    ("precision", "quantize", "least", "most"),
    [
        # Half the spacing of the numbers is 5e-4 in fp16 and 4e-3 in bf16, and some ten roundings add up.
        ("fp16", None, 2e-4, 4e-3),
        ("bf16", None, 2e-3, 3e-2),
        # One product is off by 0.009 in int8, by 0.037 in fp8 and by 0.092 in nf4.
        ("fp16", "int8", 6e-3, 4e-2),
        ("fp16", "fp8", 0.025, 0.15),
        ("bf16", "fp8", 0.025, 0.15),
        ("fp32", "nf4", 0.06, 0.35),
        ("fp16", "nf4", 0.06, 0.35),
        ("bf16", "nf4", 0.06, 0.35),
    ],
)
def test_what_a_planning_token_loses(preset, exact, frame_of, precision, quantize, least, most):
    teacher = preset.load(None, device="cpu", precision=precision, quantize=quantize)
    output, _ = teacher.forward(frame_of("a", 0), teacher.begin(1))
    assert output.planning_token.dtype == torch.float32
    assert least < relative(output.planning_token, exact) < most


def test_the_heads_compute_in_float32_and_only_they():
    teacher = ORION_TINY_RANDOM.load(None, device="cpu", precision="bf16")
    half = {name for name, weight in teacher.model.named_parameters() if weight.dtype == torch.bfloat16}
    whole = {name for name, weight in teacher.model.named_parameters() if weight.dtype == torch.float32}
    assert {name.partition(".")[0] for name in half} == {"img_backbone", "language_model"}
    whole.remove("img_backbone.pos_embed")  # it is rounded once it has been resized
    assert {name.partition(".")[0] for name in whole} == {
        "ray_positions",
        "query_positions",
        "pts_bbox_head",
        "map_head",
    }


@pytest.mark.parametrize(
    ("quantize", "kind"), [("int8", Linear8bitLt), ("nf4", Linear4bit), ("fp8", Fp8Linear)]
)
def test_the_language_model_s_linear_layers_are_quantised_and_only_they(quantize, kind):
    teacher = ORION_TINY_RANDOM.load(None, device="cpu", precision="fp16", quantize=quantize)
    kinds = {name: type(module) for name, module in teacher.model.named_modules()}
    quantised = {name for name in kinds if kinds[name] is kind}
    assert Counter(name.rpartition(".")[2] for name in quantised) == dict.fromkeys(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), 2
    )
    assert all(name.startswith("language_model.model.layers.") for name in quantised)
    assert kinds["map_head.output_projection"] is torch.nn.Linear
    assert teacher.model.language_model.model.embed_tokens.weight.dtype == torch.float16


def test_nf4_multiplies_in_the_precision_asked_for_and_stays_readable():
    teacher = MID.load(None, device="cpu", quantize="nf4")
    linear = teacher.model.get_submodule(QUERY)
    x = torch.randn(1, 7, 512, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        product = linear(x)
    ((_, weight),) = random_weights({f"{QUERY}.weight": (512, 512)}, seed=0)
    stored = dequantize_4bit(linear.weight.data, linear.weight.quant_state)
    assert linear.weight.quant_state.quant_type == "nf4"
    # fp4 would be off by more.
    assert relative(stored, weight) < 0.1
    torch.testing.assert_close(product, x @ stored.T, rtol=0, atol=1e-5)


def test_fp8_keeps_a_scale_a_row_and_zero_rows():
    x = torch.tensor([[448.0, -1.0, 3.0], [0.0, 0.0, 0.0], [1e-9, 5e-10, -1e-9]])
    rows, scale = fp8_rows(x)
    # 4 bits of a significand: 3 / 448 * 448 is a float8, as halves are.
    torch.testing.assert_close(rows.float() * scale, x, rtol=0, atol=0)
    # A relative error of up to 1/16 is spread evenly: its root mean square is 1/16 / sqrt(3) of a binade's
    # top, sqrt(2) times as much for two factors.
    draw = torch.Generator().manual_seed(0)
    weight, inputs = (torch.randn(size, generator=draw) for size in ((256, 512), (2, 7, 512)))
    product = Fp8Linear(weight, torch.float32)(inputs)
    assert product.shape == (2, 7, 256)
    assert 0.02 < relative(product, inputs @ weight.T) < 0.0625 / 3**0.5 * 2**0.5


def test_adapters_are_merged_before_anything_is_quantised_and_the_digest_is_of_floats(golden, tmp_path):
    stored = load_file(golden / "orion" / "state_dict.safetensors")
    inputs = load_file(golden / "orion" / "inputs.safetensors")
    config = recorded_sizes(
        json.loads((golden / "orion" / "meta.json").read_text()), stored, inputs["input_ids"]
    )
    images = ImagePreprocessing(resized=(64, 36), crop_top=4, network=(64, 64))
    preset = OrionPreset(name="recorded", config=config, images=images)
    torch.save(stored, tmp_path / "Orion.pth")
    plain, four = (
        preset.load(tmp_path / "Orion.pth", device="cpu", quantize=quantize) for quantize in (None, "nf4")
    )
    merged = plain.model.get_submodule(QUERY).weight
    weight = four.model.get_submodule(QUERY).weight
    quantised = dequantize_4bit(weight.data, weight.quant_state)
    frozen = stored[f"{QUERY.replace('language_model', 'lm_head.base_model.model', 1)}.base_layer.weight"]
    assert relative(quantised, merged) < 0.12
    assert relative(quantised, frozen) > 2 * relative(quantised, merged)
    assert four.identity.weights == plain.identity.weights


def test_the_identity_records_the_precision():
    identities = {
        choice: ORION_TINY_RANDOM.load(None, device="cpu", precision=choice[0], quantize=choice[1]).identity
        for choice in (
            ("fp32", None),
            ("fp16", None),
            ("bf16", None),
            ("fp16", "nf4"),
            ("fp16", "int8"),
            ("fp16", "fp8"),
        )
    }
    assert identities["fp32", None].precision == "fp32"
    assert identities["bf16", None].precision == "bf16 backbone and language model, fp32 heads"
    assert identities["fp16", None].quantization is None
    assert identities["fp16", "nf4"].quantization == "nf4"
    assert len({identity.model_dump_json() for identity in identities.values()}) == len(identities)
    on_gpu = PrecisionConfig("fp16").description("cuda:1")
    assert on_gpu == "fp16 backbone and language model, TF32 heads, fp16 in their attention"
    assert PrecisionConfig("fp32").description("cuda") == "fp32"


def test_what_does_not_exist_or_does_not_go_together():
    with pytest.raises(RequestError, match="no precision 'fp8'"):
        PrecisionConfig("fp8")
    with pytest.raises(RequestError, match="no quantisation 'int4'"):
        PrecisionConfig("fp16", "int4")
    with pytest.raises(RequestError, match="int8 does not go with fp32") as caught:
        ORION_TINY_RANDOM.load(None, device="cpu", quantize="int8")
    assert "fp16" in caught.value.expected
