"""Checkpoints: the recorded weights written as the released file is, with its copies and adapters."""

import dataclasses
import json
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from cache_schema.errors import CheckpointError, RequestError
from pipeline.importers.orion_lite.query_recovery import read_teacher
from pipeline.teachers.orion.checkpoints.convert import convert
from pipeline.teachers.orion.checkpoints.reader import (
    MERGED_AT_ONCE,
    digest,
    merge_adapter,
    read_weights,
)
from pipeline.teachers.orion.images import ImagePreprocessing
from pipeline.teachers.orion.presets import OrionPreset
from pipeline.teachers.orion.recording import recorded_sizes
from pipeline.teachers.weights import HASHED_LATER, Fingerprint
from tests.recorded_progress import RecordedProgress

QUERY = "lm_head.base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def stored(golden):
    return load_file(golden / "orion" / "state_dict.safetensors")


@pytest.fixture(scope="module")
def config(golden, stored):
    meta = json.loads((golden / "orion" / "meta.json").read_text())
    return recorded_sizes(meta, stored, load_file(golden / "orion" / "inputs.safetensors")["input_ids"])


@pytest.fixture
def save(tmp_path):
    def write(state, **beside):
        path = tmp_path / "Orion.pth"
        torch.save({"meta": {}, "state_dict": state, **beside}, path)
        return path

    return write


def test_a_released_file_gives_the_model_s_tensors(stored, config, save):
    weights = dict(read_weights(save(stored, optimizer={"state": {}}), config))
    low_rank = stored[f"{QUERY}.lora_B.default.weight"] @ stored[f"{QUERY}.lora_A.default.weight"]
    torch.testing.assert_close(
        weights["language_model.model.layers.0.self_attn.q_proj.weight"],
        stored[f"{QUERY}.base_layer.weight"] + low_rank,
        rtol=0,
        atol=1e-6,
    )
    lanes = "map_head.instance_embedding_lane.weight"
    assert torch.equal(weights[lanes], stored[lanes][:6])
    assert torch.equal(weights["planner.ego_fut_decoder.4.bias"], stored["ego_fut_decoder.4.bias"])
    assert sum(name.startswith("planner.") for name in weights) == 44
    assert list(weights) == sorted(weights)


def test_adapters_merge_by_hand():
    frozen = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    a = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    b = torch.tensor([[2.0, 0.0], [1.0, 4.0]])
    assert merge_adapter(frozen, a, b).tolist() == [[3.0, 0.0], [6.0, 11.0]]


@pytest.mark.parametrize(
    ("outputs", "inputs", "rank"),
    [(1, 5, 1), (8, 3, 2), (9, MERGED_AT_ONCE // 4 + 1, 5), (3, MERGED_AT_ONCE + 7, 16)],
)
def test_a_merge_by_blocks_has_the_bits_of_whole_passes_in_order_of_the_ranks(outputs, inputs, rank):
    draw = torch.Generator().manual_seed(outputs)
    frozen, a, b = (
        torch.randn(shape, generator=draw) for shape in ((outputs, inputs), (rank, inputs), (outputs, rank))
    )
    whole = torch.zeros(outputs, inputs)
    for index in range(rank):
        whole = whole + b[:, index, None] * a[index]
    torch.set_num_threads(2)
    merged = merge_adapter(frozen, a, b)
    assert torch.equal((frozen + whole).view(torch.int32), merged.view(torch.int32))


def test_a_prefix_of_parallel_training_is_dropped(stored, config, save):
    prefixed = {f"module.{name}": tensor for name, tensor in stored.items()}
    plain = digest(read_weights(save(stored), config))
    assert digest(read_weights(save(prefixed), config)) == plain


def test_one_error_names_everything_that_does_not_fit(stored, config, save):
    state = dict(stored)
    del state["pts_bbox_head.reference_points.weight"]
    state["pts_bbox_head.surprise.weight"] = torch.zeros(2)
    state["map_head.query_embedding.weight"] = torch.zeros(3, 32)
    state["img_backbone.pos_embed"] = state["img_backbone.pos_embed"].half()
    state["map_head.query_pos.0.bias"] = state["map_head.query_pos.0.bias"] + 1
    with pytest.raises(CheckpointError) as caught:
        read_weights(save(state), config)
    message = str(caught.value)
    assert "5 of its tensors" in message
    assert "missing: pts_bbox_head.reference_points.weight [12, 3]" in message
    assert "unexpected: pts_bbox_head.surprise.weight [2]" in message
    assert "misshapen: map_head.query_embedding.weight is [3, 32] torch.float32, not [8, 32]" in message
    assert "misshapen: img_backbone.pos_embed is [1, 197, 32] torch.float16" in message
    assert "differs from its other copy query_pos.0.bias: map_head.query_pos.0.bias" in message


def test_a_copy_without_its_original_is_unexpected(stored, config, save):
    state = stored | {"map_head.cls_branches.6.9.weight": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"unexpected: map_head\.cls_branches\.6\.9\.weight"):
        read_weights(save(state), config)


def test_files_that_are_no_checkpoints(config, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_weights(tmp_path / "missing.pth", config)
    torn = tmp_path / "torn.pth"
    torn.write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(CheckpointError, match=r"is not a whole file of torch\.save"):
        read_weights(torn, config)
    code = tmp_path / "code.pth"
    torch.save({"state_dict": {"a": tmp_path}}, code)
    with pytest.raises(CheckpointError, match="holds other objects than tensors"):
        read_weights(code, config)
    other = tmp_path / "other.pth"
    torch.save({"state_dict": {"epoch": 3}}, other)
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_weights(other, config)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_weights(tmp_path, config)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 38000000000\n"
PAGE = b"\n<!DOCTYPE html>\n<html><body>Log in to download Orion.pth</body></html>"


@pytest.mark.parametrize(("content", "named"), [(POINTER, "Git LFS"), (PAGE, "a web page")])
def test_what_a_download_leaves_in_the_place_of_weights(stored, config, save, tmp_path, content, named):
    for file in (tmp_path / "Orion.pth", tmp_path / "teacher_heads.safetensors"):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=named):
            read_teacher(file, config)
    convert(save(stored), tmp_path / "folder", config=config, shard_bytes=100_000)
    for file in (tmp_path / "folder").iterdir():
        whole = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=named) as caught:
            list(read_weights(tmp_path / "folder", config))
        assert str(file) in caught.value.happened
        file.write_bytes(whole)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["map_head.cls_branches.0.0.bias", f"{QUERY}.lora_A.default.weight"])
def test_a_weight_that_is_not_finite_is_named(stored, config, save, name, value):
    damaged = stored[name].clone()
    damaged.view(-1)[1] = value
    copies = {name.replace("branches.0", f"branches.{layer}"): damaged for layer in range(6)}
    weights = read_weights(save(stored | copies), config)
    with pytest.raises(CheckpointError) as caught:
        list(weights)
    assert f"not finite: {name}, in 1 of {damaged.numel():,} values" in caught.value.happened


def test_a_converted_weight_that_is_not_finite_is_named(stored, config, save, tmp_path):
    convert(save(stored), tmp_path / "folder", config=config)
    (file,) = (tmp_path / "folder").glob("*.safetensors")
    weights = load_file(file)
    name = sorted(weights)[5]
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=f"not finite: {name}, in 1 of"):
        list(read_weights(tmp_path / "folder", config))


def test_a_converted_folder_has_the_same_digest(stored, config, save, tmp_path):
    path = save(stored)
    out = tmp_path / "converted"
    reported = RecordedProgress()
    convert(path, out, config=config, shard_bytes=200_000, progress=reported)
    assert reported.totals == [sum(reported.amounts)] == [len(dict(read_weights(path, config)))]
    assert digest(read_weights(out, config)) == digest(read_weights(path, config))
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 3
    assert max(file.stat().st_size for file in out.glob("*.safetensors")) < 300_000
    assert not out.with_name("converted.partial").exists()
    (tmp_path / "plain").write_text("")
    assert {file.stat().st_mode for file in out.iterdir()} == {(tmp_path / "plain").stat().st_mode}
    with pytest.raises(RequestError, match="exists already"):
        convert(path, out, config=config)
    wider = dataclasses.replace(config, width=64, language=dataclasses.replace(config.language, layers=3))
    with pytest.raises(CheckpointError, match=r"for other sizes: language\.layers 2, width 32\n") as caught:
        read_weights(out, wider)
    assert caught.value.expected == "language.layers 3, width 64"


def test_teachers_of_a_file_and_of_its_conversion_are_the_same(stored, config, save, tmp_path):
    images = ImagePreprocessing(resized=(64, 36), crop_top=4, network=(64, 64))
    preset = OrionPreset(name="recorded", config=config, images=images)
    path = save(stored)
    preset.convert(path, tmp_path / "converted")
    reported = RecordedProgress()
    one, other = (
        preset.load(weights, device="cpu", progress=reported) for weights in (path, tmp_path / "converted")
    )
    assert sum(reported.totals) == sum(reported.amounts) == 2 * len(dict(read_weights(path, config)))
    assert one.identity == other.identity
    assert one.identity.weights.startswith("sha256:")
    for teacher in (one, other):
        planner = teacher.assets()["teacher_planner"]
        assert len(planner) == 44
        assert all(torch.equal(tensor, stored[name]) for name, tensor in planner.items())
        assert torch.equal(
            teacher.model.map_head.output_projection.bias, stored["map_head.output_projection.bias"]
        )


def test_a_conversion_that_fails_leaves_no_folder(stored, config, save, tmp_path):
    state = dict(stored)
    del state["position_encoder.0.weight"]
    with pytest.raises(CheckpointError, match=r"missing: position_encoder\.0\.weight"):
        convert(save(state), tmp_path / "converted", config=config)
    assert not (tmp_path / "converted").exists()


def test_a_converted_folder_with_damage_is_refused(stored, config, save, tmp_path):
    out = tmp_path / "converted"
    convert(save(stored), out, config=config)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    del index["weight_map"]["language_model.model.norm.weight"]
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"missing: language_model\.model\.norm\.weight"):
        read_weights(out, config)
    index["weight_map"]["language_model.model.norm.weight"] = "model.safetensors"
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    whole = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(whole[:-1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        list(read_weights(out, config))


def test_the_digest_sees_every_bit():
    weights = {"a": torch.zeros(2, 2), "b": torch.ones(3)}
    first = digest(weights.items())
    weights["b"][2] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    assert digest(weights.items()) != first
    assert digest({"a": torch.zeros(4), "b": torch.ones(3)}.items()) != first


def test_the_digest_holds_few_weights_at_a_time():
    alive = weakref.WeakSet()
    fingerprint = Fingerprint()
    most = 0
    for number in range(12):
        weight = torch.zeros(2**20)
        alive.add(weight)
        fingerprint.add(f"weight {number}", weight)
        del weight
        most = max(most, len(alive))
    assert str(fingerprint) == digest((f"weight {number}", torch.zeros(2**20)) for number in range(12))
    assert most <= HASHED_LATER + 1


def test_a_weight_that_cannot_be_hashed_is_an_error_and_no_digest():
    fingerprint = Fingerprint()
    fingerprint.add("a", torch.zeros(2))
    fingerprint.add("b", torch.zeros(2, device="meta"))
    with pytest.raises((NotImplementedError, TypeError, RuntimeError), match="meta"):
        str(fingerprint)
