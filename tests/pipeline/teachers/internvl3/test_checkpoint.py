"""Both kinds of checkpoints: names and shapes of the real models, values of the recorded ones."""

import copy
import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from cache_schema.errors import CheckpointError
from pipeline.teachers.internvl3 import presets
from pipeline.teachers.internvl3.model.checkpoint import (
    load_weights,
    open_checkpoint,
    sources,
    transformers_names,
)
from pipeline.teachers.internvl3.model.network import build, configuration, shapes
from pipeline.teachers.internvl3.model.sizes import check_sizes
from tests.pipeline.teachers.internvl3.conftest import RECORDED, make_folder, remote_config

KEYS = json.loads((RECORDED / "internvl3_keys.json").read_text())
REAL = {"InternVL3-1B": presets.INTERNVL3_1B_VISION, "InternVL3-8B": presets.INTERNVL3_8B}


def every_layer(model: dict, naming: str) -> dict[str, tuple[int, ...]]:
    """All names and shapes, of which the recorded ones hold layer 0 only."""
    found = {}
    for name, shape in model[naming]["shapes_with_layer_0_standing_for_all"].items():
        language = "language_model" in name
        layers = model["language_layers"] if language else model["vision_layers"]
        numbers = range(layers) if re.search(r"\.layers?\.0\.", name) else [0]
        found |= {re.sub(r"(\.layers?)\.0\.", rf"\1.{n}.", name): tuple(shape) for n in numbers}
    assert len(found) == model[naming]["keys"]
    return found


@pytest.mark.parametrize("name", REAL)
def test_the_real_models(name):
    sizes, model = REAL[name].sizes, KEYS[name]
    wanted = shapes(sizes)
    assert wanted == every_layer(model, "transformers")
    assert sum(torch.Size(shape).numel() for shape in wanted.values()) == model["parameters"]
    for naming in ("remote_code", "transformers"):
        stored = every_layer(model, naming)
        found = sources(stored, wanted, name)
        assert found.keys() == wanted.keys()
        assert {stored_name for stored_name, *_ in found.values()} == stored.keys()
    # As the first copies of the -hf repositories have them, without the leading "model.".
    older = {
        re.sub(r"^model\.language_model\.", "language_model.model.", name)
        .removeprefix("model.")
        .replace("lm_head.", "language_model.lm_head."): shape
        for name, shape in every_layer(model, "transformers").items()
    }
    assert sources(older, wanted, name).keys() == wanted.keys()


@pytest.mark.parametrize(
    ("preset", "vision_layers", "parameters"),
    [(presets.INTERNVL3_14B, 24, 15.1e9), (presets.INTERNVL3_38B, 45, 38.4e9)],
)
def test_larger_models_have_the_published_numbers_of_weights(preset, vision_layers, parameters):
    wanted = shapes(preset.sizes)
    assert abs(sum(torch.Size(shape).numel() for shape in wanted.values()) / parameters - 1) < 0.01
    assert sum(name.endswith("lambda_1") for name in wanted) == vision_layers
    model = build(preset.sizes, preset.options.layers_read(preset.sizes.language.layers).depth)
    assert len(model.language_model.layers) == preset.sizes.language.layers - 1
    names = {name for name, _ in model.named_parameters()}
    large = preset is presets.INTERNVL3_38B
    assert ("vision_tower.encoder.layer.0.attention.q_norm.weight" in names) == large
    assert ("vision_tower.encoder.layer.0.attention.q_proj.bias" in names) != large
    assert ("vision_tower.encoder.layer.0.layernorm_before.bias" in names) != large


def test_names_of_the_large_vision_tower():
    layer = "vision_model.encoder.layers.44"
    ours = "model.vision_tower.encoder.layer.44"
    assert transformers_names(f"{layer}.attn.q_norm.weight") == (f"{ours}.attention.q_norm.weight",)
    assert transformers_names(f"{layer}.attn.proj.bias") == (f"{ours}.attention.projection_layer.bias",)
    assert transformers_names(f"{layer}.attn.qkv.weight") == tuple(
        f"{ours}.attention.{part}_proj.weight" for part in "qkv"
    )


def hf_config(recorded) -> dict:
    return {
        **configuration(recorded.student_sizes).to_diff_dict(),
        "architectures": ["InternVLForConditionalGeneration"],
    }


def origin(folder, sizes) -> str:
    return load_weights(None, open_checkpoint(folder, sizes), "cpu", torch.float32)


def test_both_kinds_of_folders_are_one_model(recorded, student_folder, tmp_path):
    sizes = recorded.student_sizes
    wanted = load_file(RECORDED / "student_hf_names.safetensors")
    config = hf_config(recorded)
    config["tie_word_embeddings"] = True  # as in the real ones, which do not say otherwise
    other = make_folder(tmp_path / "hf", config, RECORDED / "student_hf_names.safetensors")
    for folder in (student_folder, other):
        found = dict(open_checkpoint(folder, sizes).tensors())
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert origin(student_folder, sizes) == origin(other, sizes)


def test_shards_and_types(recorded, student_folder, tmp_path):
    """In several files it is the same; in bfloat16 the digest is of the same numbers in float32."""
    sizes = recorded.student_sizes
    folder = tmp_path / "shards"
    shutil.copytree(student_folder, folder)
    stored = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(stored)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    index = {name: file for file, held in files.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))

    def write(dtype):
        for file, held in files.items():
            save_file({name: stored[name].to(dtype) for name in held}, folder / file)

    write(torch.float32)
    assert origin(folder, sizes) == origin(student_folder, sizes)
    write(torch.bfloat16)
    rounded = open_checkpoint(folder, sizes)
    assert all(tensor.dtype == torch.bfloat16 for _, tensor in rounded.tensors())
    save_file(
        {name: tensor.bfloat16().float() for name, tensor in stored.items()}, tmp_path / "model.safetensors"
    )
    config = json.loads((folder / "config.json").read_text())
    whole = make_folder(tmp_path / "whole", config, tmp_path / "model.safetensors")
    assert origin(folder, sizes) == origin(whole, sizes) != origin(student_folder, sizes)

    (folder / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"b\.safetensors cannot be read"):
        open_checkpoint(folder, sizes)


def test_the_two_embeddings_are_not_tied(recorded, student_folder):
    from transformers import InternVLForConditionalGeneration

    model = InternVLForConditionalGeneration(configuration(recorded.student_sizes))
    weights = dict(open_checkpoint(student_folder, recorded.student_sizes).tensors())
    model.load_state_dict(weights)
    assert not torch.equal(model.lm_head.weight, model.model.language_model.embed_tokens.weight)
    arguments = recorded.student_sizes.arguments()
    assert arguments["tie_word_embeddings"] is arguments["text_config"]["tie_word_embeddings"] is False


def change(folder, changes) -> None:
    file = folder / "model.safetensors"
    stored = load_file(file)
    changes(stored)
    save_file(stored, file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda stored: stored.pop("mlp1.1.bias"), r"missing: model\.multi_modal_projector\.linear_1\.bias"),
        (lambda stored: stored.pop("language_model.lm_head.weight"), r"missing: lm_head\.weight"),
        (lambda stored: stored.update(extra=torch.ones(2)), r"unexpected: extra \[2\]"),
        (
            lambda stored: stored.update({"mlp1.1.bias": torch.ones(3)}),
            r"misshapen: mlp1\.1\.bias is \[3\]",
        ),
        (
            lambda stored: stored.update({"multi_modal_projector.linear_1.bias": stored["mlp1.1.bias"] + 0}),
            "stored twice",
        ),
        (lambda stored: stored.update({"mlp1.1.bias": stored["mlp1.1.bias"].long()}), "type I64"),
    ],
)
def test_tensors_that_do_not_fit_are_named(recorded, student_folder, tmp_path, changes, message):
    folder = tmp_path / "changed"
    shutil.copytree(student_folder, folder)
    change(folder, changes)
    with pytest.raises(CheckpointError, match=message) as refused:
        open_checkpoint(folder, recorded.student_sizes)
    assert str(folder) in str(refused.value)


def test_a_weight_that_is_not_finite_is_named(recorded, student_folder, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(student_folder, folder)
    change(folder, lambda stored: stored["language_model.lm_head.weight"].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=r"not finite: language_model\.lm_head\.weight"):
        recorded.student().load(folder, device="cpu")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"<html>", None])
def test_damaged_files_are_refused(recorded, student_folder, tmp_path, file, content):
    folder = tmp_path / "damaged"
    shutil.copytree(student_folder, folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError):
        open_checkpoint(folder, recorded.student_sizes)


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("llm_config", "num_hidden_layers", 99),
        ("llm_config", "model_type", "internlm2"),
        ("llm_config", "rope_theta", 1e4),
        ("llm_config", "rope_scaling", {"type": "yarn", "factor": 4.0}),
        ("llm_config", "use_sliding_window", True),
        ("vision_config", "norm_type", "rms_norm"),
        ("vision_config", "qkv_bias", False),
        (None, "ps_version", "v1"),
        (None, "downsample_ratio", 0.25),
        (None, "select_layer", -2),
    ],
)
def test_other_models_are_refused(recorded, tmp_path, where, key, value):
    config = copy.deepcopy(remote_config(recorded.student_sizes))
    (config[where] if where else config)[key] = value
    with pytest.raises(CheckpointError, match="is of another model"):
        check_sizes(config, recorded.student_sizes, tmp_path / "config.json")


def test_other_models_of_transformers_are_refused(recorded, tmp_path):
    config = hf_config(recorded)
    check_sizes(config, recorded.student_sizes, tmp_path)
    check_sizes(
        configuration(presets.INTERNVL3_38B.sizes).to_diff_dict(), presets.INTERNVL3_38B.sizes, tmp_path
    )
    for key, value in (("image_token_id", 1), ("vision_feature_layer", -2), ("downsample_ratio", 0.25)):
        with pytest.raises(CheckpointError, match="is of another model"):
            check_sizes({**config, key: value}, recorded.student_sizes, tmp_path)
    with pytest.raises(CheckpointError, match="another model"):
        check_sizes(config, presets.INTERNVL3_8B.sizes, tmp_path)


@pytest.mark.parametrize("config", [{}, {"llm_config": {}}, {"llm_config": {}, "vision_config": {}}, []])
def test_what_describes_no_model_is_refused(recorded, tmp_path, config):
    with pytest.raises(CheckpointError):
        check_sizes(config, recorded.student_sizes, tmp_path)


def test_a_tokenizer_of_another_size_is_refused(recorded, student_folder):
    sizes = replace(recorded.student_sizes, image_token=7)
    with pytest.raises(CheckpointError, match="<IMG_CONTEXT>"):
        open_checkpoint(student_folder, sizes)


@pytest.mark.parametrize(
    "name", ["language_model.lm_head.weight", "mlp1.3.bias", "language_model.model.norm.weight"]
)
def test_every_weight_is_part_of_the_digest(recorded, student_folder, tmp_path, name):
    folder = tmp_path / "changed"
    shutil.copytree(student_folder, folder)
    change(folder, lambda stored: stored[name].view(-1)[0].add_(1))
    assert origin(folder, recorded.student_sizes) != origin(student_folder, recorded.student_sizes)
