"""ORION as a teacher: slots, memory, promises. The tiny preset is the real code with small numbers."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import FeatureError, RequestError
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import CodeIdentity, DataIdentity, Manifest
from pipeline.teachers import teacher_preset
from pipeline.teachers.orion.checkpoints.tensors import random_weights
from pipeline.teachers.orion.network.detection_head import DetectionOutput
from pipeline.teachers.orion.presets import ORION_7B, ORION_TINY_RANDOM, OrionPreset
from pipeline.teachers.orion.stream import features_of
from pipeline.teachers.weights import random_origin

TOLERANCE = {"lane_points": 1e-3, "agent_xy": 1e-3}
"""Metres of a 100 m range, 1e-5 of it; everything else is of order 1 and must agree to 1e-5."""


def exact_features(teacher, frames, state):
    """What ``step`` returns, before it is rounded to the types it is stored in."""
    output, state = teacher.forward(frames, state)
    return features_of(output), state


def alone(teacher, frames):
    state = teacher.begin(1)
    results = []
    for frame in frames:
        features, state = exact_features(teacher, frame, state)
        results.append(features)
    return results


def agree(features, slot, expected):
    for name, tensor in expected.items():
        torch.testing.assert_close(features[name][slot], tensor[0], rtol=0, atol=TOLERANCE.get(name, 1e-5))


def test_clips_that_advance_together_get_the_features_of_each_alone(tiny, frame_of, together):
    # Slot 0 takes clip d when a ends; slot 1 idles from frame 5 on; slot 2 is one long clip.
    lengths = {"a": 3, "b": 5, "c": 8, "d": 5}
    slots = (["a"] * 3 + ["d"] * 5, ["b"] * 5 + [""] * 3, ["c"] * 8)
    expected = {clip: alone(tiny, [frame_of(clip, i) for i in range(n)]) for clip, n in lengths.items()}
    state = tiny.begin(3)
    done = dict.fromkeys(lengths, 0)
    for clips in zip(*slots, strict=True):
        features, state = exact_features(
            tiny, together([frame_of(clip, done.get(clip, 0)) for clip in clips]), state
        )
        for slot, clip in enumerate(clips):
            if clip:
                agree(features, slot, expected[clip][done[clip]])
                done[clip] += 1
    assert done == lengths


def test_the_memory_matters_and_a_new_clip_clears_it(tiny, frame_of):
    first, second = frame_of("a", 0), frame_of("a", 1)
    with_memory = alone(tiny, [first, second])[1]["planning_token"]
    fresh = alone(tiny, [second])[0]["planning_token"]
    after_other_clip = alone(tiny, [frame_of("z", 0), second])[1]["planning_token"]
    assert (with_memory - fresh).abs().max() > 1e-3
    torch.testing.assert_close(after_other_clip, fresh, rtol=0, atol=0)


def test_a_gap_clears_the_memory_of_its_slot_alone(tiny, frame_of, together):
    _, state = exact_features(tiny, together([frame_of("a", 0), frame_of("b", 0)]), tiny.begin(2))
    late = frame_of("a", 1, seconds=2.0)
    features, _ = exact_features(tiny, together([late, frame_of("b", 1)]), state)
    agree(features, 0, alone(tiny, [late])[0])
    agree(features, 1, alone(tiny, [frame_of("b", 0), frame_of("b", 1)])[1])


def test_a_step_leaves_the_old_memory_as_it_was(tiny, frame_of):
    _, state = exact_features(tiny, frame_of("a", 0), tiny.begin(1))
    once, _ = exact_features(tiny, frame_of("a", 1), state)
    again, _ = exact_features(tiny, frame_of("a", 1), state)
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_features_are_as_promised(tiny, frame_of, together):
    features, _ = tiny.step(together([frame_of("a", 0), frame_of("b", 0)]), tiny.begin(2))
    assert list(features) == [spec.name for spec in tiny.features]
    for spec in tiny.features:
        value = features[spec.name]
        assert tuple(value.shape) == (2, *spec.shape)
        assert value.isfinite().all()
        assert value.dtype == torch.float16
        assert value[0].std() > 1e-2, f"{spec.name} is constant"


def test_a_step_rounds_the_output_as_the_dataset_would(tiny, frame_of):
    exact, _ = exact_features(tiny, frame_of("a", 0), tiny.begin(1))
    rounded, state = tiny.step(frame_of("a", 0), tiny.begin(1))
    for name, values in rounded.items():
        np.testing.assert_array_equal(values.numpy(), exact[name].numpy().astype(np.float16))
    assert state.memory.history.tokens.dtype == torch.float32


def test_what_is_too_large_to_be_stored_is_refused_by_name(frame_of, tmp_path):
    teacher = ORION_TINY_RANDOM.load(None, device="cpu", precision="fp16")
    teacher.model.pts_bbox_head.can_bus_embed[2].bias[7] = 1e5  # the largest float16 is 65504
    outputs, _ = teacher.step(frame_of("a", 0), teacher.begin(1))
    manifest = Manifest(
        features=teacher.features,
        teacher=teacher.identity,
        data=DataIdentity(name="synthetic", licence="Apache-2.0", frame_rate_hz=10),
        code=CodeIdentity(teachonce="0", libraries={}),
    )
    with DatasetWriter(tmp_path / "a.zarr", manifest, {}) as dataset:
        clip = dataset.clip(ClipInfo(name="a", frames=2, split="train"))
        with pytest.raises(FeatureError, match=r"clip 'a', feature 'ego_token', frame 0: 1 of 128 values"):
            clip.append({name: values.numpy() for name, values in outputs.items()})


def test_the_released_model_promises_what_the_dataset_is_made_of():
    promised = {spec.name: (spec.shape, spec.role) for spec in ORION_7B.features}
    assert promised == {
        "scene_queries": ((528, 256), "input"),
        "ego_token": ((4096,), "input"),
        "planning_token": ((4096,), "target"),
        "lane_points": ((300, 11, 2), "target"),
        "lane_logits": ((300, 6), "target"),
        "agent_xy": ((900, 2), "target"),
        "agent_class_scores": ((900, 9), "target"),
        "agent_offsets": ((900, 6, 2), "target"),
    }
    assert ORION_7B.features[0].segments == (("scene", 256), ("history", 16), ("map", 256))
    assert ORION_7B.config.vision_tokens == 529


def test_assets_turn_scene_queries_into_what_the_language_model_reads(tiny, frame_of):
    heads = tiny.assets()["teacher_heads"]
    read = []
    hook = tiny.model.language_model.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    features, _ = exact_features(tiny, frame_of("a", 0), tiny.begin(1))
    hook.remove()
    queries, scene = features["scene_queries"], 16 + 4  # scene and history
    before = queries[:, :scene] @ heads["scene.weight"].T + heads["scene.bias"]
    road = queries[:, scene:] @ heads["map.weight"].T + heads["map.bias"]
    rebuilt = torch.cat((before, features["ego_token"][:, None], road), dim=1)
    torch.testing.assert_close(rebuilt, read[0], rtol=0, atol=1e-5)


def test_the_planner_is_an_asset(tiny):
    planner = tiny.assets()["teacher_planner"]
    width = tiny.config.language.width
    assert len(planner) == 44
    assert planner["predict_model.gru.weight_hh_l3"].shape == (3 * width // 4, width // 4)
    assert planner["future_distribution.encoder.conv1.weight"].shape == (2 * (width + 12), width + 12, 1)


def test_the_identity_records_weights_and_sizes(tiny):
    identity = tiny.identity
    assert identity.weights == "random:0"
    assert identity.prompt == tiny.config.language.prompt
    assert identity.architecture["detection"]["learned_queries"] == 20
    assert identity.preprocessing["network"] == [96, 96]
    assert type(identity).model_validate_json(identity.model_dump_json()) == identity


def test_the_likeliest_future_is_the_one_with_the_highest_logit():
    futures = torch.arange(2 * 3 * 2 * 2.0).view(1, 2, 3, 2, 2)  # two objects, three alternatives, two steps
    logits = torch.tensor([[[0.0, 2.0, 1.0], [-1.0, -3.0, -0.5]]])
    empty = torch.empty(0)
    output = DetectionOutput(empty, empty, empty, empty, empty, futures, logits)
    assert output.likeliest_future.tolist() == [[[[4, 5], [6, 7]], [[20, 21], [22, 23]]]]


def test_random_weights_are_the_same_everywhere_and_for_every_subset():
    shapes = {
        "a.weight": (2, 3),
        "head.reference_points.weight": (4, 3),
        "norm.weight": (2,),
        "b.bias": (2,),
    }
    drawn = dict(random_weights(shapes, seed=7))
    assert torch.equal(drawn["a.weight"], dict(random_weights({"a.weight": (2, 3)}, seed=7))["a.weight"])
    assert not torch.equal(drawn["a.weight"], dict(random_weights(shapes, seed=8))["a.weight"])
    assert drawn["norm.weight"].tolist() == [1, 1]
    assert drawn["b.bias"].tolist() == [0, 0]
    assert drawn["a.weight"].abs().max() <= 1  # uniform of variance 1/3
    assert drawn["head.reference_points.weight"].min() >= 0
    # An identity records no more than "random:7", so these numbers must never change.
    expected = torch.tensor(
        [[0.226904392, -0.815208316, 0.175004959], [-0.228531837, -0.0774712563, -0.183936596]]
    )
    assert torch.equal(drawn["a.weight"], expected)


def test_weights_that_a_gpu_draws_have_another_origin():
    assert [random_origin(0, device) for device in ("cpu", "cuda", "cuda:1")] == [
        "random:0",
        "random:0@cuda",
        "random:0@cuda",
    ]


@pytest.mark.gpu
def test_a_gpu_draws_weights_of_the_same_distributions():
    shapes = {"a.weight": (512, 300), "head.reference_points.weight": (400, 3), "norm.weight": (2,)}
    drawn = dict(random_weights(shapes, seed=7, device="cuda"))
    alone = dict(random_weights({"a.weight": (512, 300)}, seed=7, device="cuda"))
    assert {tensor.device.type for tensor in drawn.values()} == {"cuda"}
    assert torch.equal(drawn["a.weight"], alone["a.weight"])
    assert not torch.equal(drawn["a.weight"].cpu(), dict(random_weights(shapes, seed=7))["a.weight"])
    assert drawn["a.weight"].abs().max() <= math.sqrt(3 / 300)
    assert drawn["a.weight"].var().item() * 300 == pytest.approx(1, rel=0.01)
    assert 0 <= drawn["head.reference_points.weight"].min() < 0.01
    preset = dataclasses.replace(ORION_TINY_RANDOM, random_device="cuda")
    teacher = preset.load(None, device="cuda")
    assert teacher.identity.weights == "random:0@cuda"
    assert {weight.device.type for weight in teacher.assets()["teacher_planner"].values()} == {"cpu"}


def test_fp32_is_no_tensorfloat_whatever_the_environment_says():
    torch.set_float32_matmul_precision("high")  # as TORCH_ALLOW_TF32_CUBLAS_OVERRIDE does
    torch.backends.cudnn.allow_tf32 = True  # as cuDNN does by itself
    teacher_preset("orion-tiny").load(None, device="cpu")
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.cudnn.conv.fp32_precision == "ieee"
    assert torch.backends.cudnn.rnn.fp32_precision == "ieee"


def test_the_released_model_asks_for_its_checkpoint():
    with pytest.raises(RequestError, match="orion-7b needs a checkpoint"):
        teacher_preset("orion-7b").load(None, device="cpu")


def test_a_preset_refuses_images_of_another_size():
    with pytest.raises(ValueError, match="640x640"):
        OrionPreset(name="mixed", config=ORION_7B.config, images=ORION_TINY_RANDOM.images)


def test_full_token_width_and_counts_on_tiny_everything_else(frame_of):
    tiny = ORION_TINY_RANDOM.config
    released = ORION_7B.config
    config = dataclasses.replace(
        tiny,
        width=256,
        detection=dataclasses.replace(released.detection, decoder=tiny.detection.decoder, small_ffn_width=8),
        lanes=dataclasses.replace(released.lanes, decoder=tiny.lanes.decoder),
        language=dataclasses.replace(tiny.language, width=4096, layers=1, mlp_width=8, max_positions=600),
    )
    preset = dataclasses.replace(ORION_TINY_RANDOM, config=config)
    teacher = preset.load(None, device="cpu")
    features, _ = teacher.step(frame_of("a", 0), teacher.begin(1))
    assert features["scene_queries"].shape == (1, 528, 256)
    assert features["agent_offsets"].shape == (1, 900, 6, 2)
    assert features["lane_points"].shape == (1, 300, 11, 2)
