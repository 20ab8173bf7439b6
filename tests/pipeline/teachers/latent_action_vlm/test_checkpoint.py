"""Folders that are read, and folders that are refused before the first frame."""

from pathlib import Path

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from cache_schema.errors import CheckpointError, RequestError
from pipeline.teachers.latent_action_vlm.presets import AUTOVLA_3B, LATENTVLA_3B, LATENTVLA_TINY
from pipeline.teachers.latent_action_vlm.prompt import EgoState
from tests.pipeline.teachers.latent_action_vlm.folders import (
    FIRST_CODE,
    config,
    released,
    released_name,
    weights,
    write_folder,
)

PRESET = LATENTVLA_TINY.configured({"first_code": str(FIRST_CODE)})


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return weights()


@pytest.fixture(scope="module")
def today(tensors, tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("folders") / "today", tensors)


def load(folder: Path, preset=PRESET, **options):
    return preset.load(folder, device="cpu", **options)


def test_the_release_and_todays_files_are_the_same_teacher(today, tensors, tmp_path):
    old = {released_name(name): tensor for name, tensor in tensors.items()}
    assert {"visual.blocks.0.attn.qkv.weight", "model.layers.0.mlp.up_proj.weight"} < {*old}
    folder = write_folder(tmp_path / "old", old, described=released(config()), files=3)
    ours, theirs = load(today), load(folder)
    assert ours.identity == theirs.identity
    assert ours.identity.weights.startswith("sha256:")
    named = theirs.model.state_dict()
    assert all(torch.equal(named[name], tensor) for name, tensor in tensors.items())


def test_what_transformers_saves_is_read(today, tmp_path):
    teacher = load(today)
    saved = tmp_path / "saved"
    Qwen2_5_VLForConditionalGeneration.from_pretrained(today).save_pretrained(saved)
    (saved / "tokenizer.json").write_bytes((today / "tokenizer.json").read_bytes())
    assert load(saved).identity == teacher.identity


def test_one_weight_more_or_less_is_another_identity(today, tensors, tmp_path):
    name = "model.language_model.norm.weight"
    changed = {**tensors, name: tensors[name] * 1.001}
    assert load(write_folder(tmp_path / "a", changed)).identity.weights != load(today).identity.weights


def test_a_head_of_its_own_is_used(tensors, tmp_path):
    head = torch.randn(tensors["model.language_model.embed_tokens.weight"].shape)
    described = {**config(), "tie_word_embeddings": False}
    untied = write_folder(tmp_path / "a", {**tensors, "lm_head.weight": head}, described=described)
    assert torch.equal(load(untied).model.lm_head.weight, head)
    with pytest.raises(CheckpointError, match=r"missing: lm_head\.weight"):
        load(write_folder(tmp_path / "b", tensors, described=described))


def test_the_tokenizer_of_the_folder_writes_the_prompt(today):
    teacher = load(today)
    ids = teacher.prompt.ids(EgoState(0))
    assert ids[:1] == (256,)
    assert ids.count(260) == 3 * 8
    assert [token for token in teacher.identity.prompt if token == -200] == [-200] * 3


def test_a_vocabulary_without_free_rows_is_refused(tensors, tmp_path):
    with pytest.raises(CheckpointError, match=r"has 300 rows, and codes are tokens 290 to 305"):
        load(write_folder(tmp_path / "a", tensors), PRESET.configured({"first_code": "290"}))
    with pytest.raises(CheckpointError, match=r"has 300 rows, and codes are tokens 151665 to 151680"):
        load(tmp_path / "a", LATENTVLA_3B)
    with pytest.raises(CheckpointError, match=r"tokens 151665 to 153712"):
        load(tmp_path / "a", AUTOVLA_3B)


def test_ids_that_the_tokenizer_uses_are_refused_unless_they_are_the_codes(tensors, tmp_path):
    used = write_folder(tmp_path / "a", tensors, more_tokens=("<extra>",) * 1)
    with pytest.raises(CheckpointError, match=r"has '<extra>' at 262, where code 0 should be"):
        load(used, PRESET.configured({"first_code": "262"}))
    actions = tuple(f"<action_{code}>" for code in range(16))
    named = write_folder(tmp_path / "b", tensors, more_tokens=actions)
    with pytest.raises(CheckpointError, match=r"has '<action_0>' at 262"):
        load(named, PRESET.configured({"first_code": "262"}))
    assert load(named, PRESET.configured({"first_code": "262", "code_token": "<action_{}>"}))
    with pytest.raises(CheckpointError, match=r"has '<action_1>' at 263, where code 0 should be"):
        load(named, PRESET.configured({"first_code": "263", "code_token": "<action_{}>"}))


def test_a_folder_of_something_else_is_refused(today, tensors, tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read(.|\n)*Qwen2\.5-VL"):
        load(tmp_path)
    other = write_folder(tmp_path / "a", tensors, described={"model_type": "qwen2_vl"})
    with pytest.raises(CheckpointError, match="a model of type 'qwen2_vl'"):
        load(other)
    vision = {**config()["vision_config"], "patch_size": 16}
    other = write_folder(tmp_path / "b", tensors, described={**config(), "vision_config": vision})
    with pytest.raises(CheckpointError, match=r"\(16, 2, 2\)"):
        load(other)
    (other / "config.json").write_bytes((today / "config.json").read_bytes())
    (other / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        load(other)


def test_a_tokenizer_of_another_model_is_refused(today, tensors, tmp_path):
    described = {**config(), "image_token_id": 258}
    with pytest.raises(
        RequestError, match=r"3 tokens of images, as the model knows them(.|\n)*24: 8 an image"
    ):
        load(write_folder(tmp_path / "a", tensors, described=described))


def test_weights_that_do_not_fit_are_all_named(tensors, tmp_path):
    norm, bias = "model.language_model.norm.weight", "model.visual.blocks.0.attn.proj.bias"
    broken = {name: tensor for name, tensor in tensors.items() if name != norm}
    broken |= {bias: torch.zeros(3), "model.layers.7.odd": torch.zeros(2)}
    with pytest.raises(CheckpointError) as caught:
        load(write_folder(tmp_path / "a", broken))
    for fault in (
        f"missing: {norm}",
        f"misshapen: {bias} is [3], not [32]",
        "unexpected: model.layers.7.odd",
    ):
        assert fault in str(caught.value)
    twice = {**tensors, "model.norm.weight": tensors[norm].clone()}
    with pytest.raises(CheckpointError, match=f"stored twice: {norm}"):
        load(write_folder(tmp_path / "b", twice))
    with pytest.raises(CheckpointError, match=f"not finite: {norm}"):
        load(write_folder(tmp_path / "c", {**tensors, norm: tensors[norm] * torch.nan}))


def test_a_damaged_or_missing_file_is_named(today, tensors, tmp_path):
    folder = write_folder(tmp_path / "a", tensors, files=2)
    second = folder / "model-1.safetensors"
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors cannot be read"):
        load(folder)
    second.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="pointer of Git LFS"):
        load(folder)
    second.unlink()
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors cannot be read"):
        load(folder)


def test_what_these_presets_do_not_have_is_refused(today, tmp_path):
    with pytest.raises(RequestError, match=r"latentvla-3b needs a checkpoint"):
        LATENTVLA_3B.load(None, device="cpu")
    with pytest.raises(RequestError, match="no precision 'fp8'"):
        load(today, precision="fp8")
    with pytest.raises(RequestError, match="does not come quantised as nf4"):
        load(today, quantize="nf4")
    with pytest.raises(RequestError, match="need not be converted"):
        LATENTVLA_3B.convert(today, tmp_path / "x")
