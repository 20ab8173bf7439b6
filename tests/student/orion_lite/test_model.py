import json

import numpy as np
import pytest
import torch

from cache_schema.errors import CheckpointError
from cache_schema.format.features import FeatureSpec
from cache_schema.vocabulary import orion
from cache_schema.vocabulary.orion import PLANNER_PARTS
from student.orion_lite.config import OrionLiteConfig
from student.orion_lite.model import OrionLite
from student.orion_lite.planner import Planner, PlannerConfig
from student.orion_lite.teacher_heads import TeacherHeads
from tests.paths import GOLDEN
from tests.tokens import vision_tokens

MANIFEST = json.loads((GOLDEN / "orion_lite_student_manifest.json").read_text())
TINY = OrionLiteConfig(hidden=16, layers=2, heads=2, feedforward=32)
PLANNER = PlannerConfig(token_width=32, latent=4)
SEGMENTS = (("scene", 5), ("history", 2), ("map", 4))


def heads_of(asset, segments=SEGMENTS, *, width=32, queries=6):
    """Return the heads of a dataset that stores queries of these segments."""
    axes = ("query", "channel")
    rows = sum(length for _, length in segments)
    stored = FeatureSpec(
        name="scene_queries",
        shape=(rows, queries),
        axes=axes,
        dtype="float16",
        role="input",
        segments=segments,
    )
    ego = FeatureSpec(name="ego_token", shape=(width,), axes=("channel",), dtype="float16", role="input")
    return TeacherHeads(orion.vision_tokens(stored, ego), asset)


def tiny(seed=0, segments=SEGMENTS, width=32, queries=6):
    """Return a student in evaluation mode, its heads, and scene queries and ego tokens of three frames."""
    generator = torch.Generator().manual_seed(seed)
    asset = {
        "scene.weight": torch.randn(width, queries, generator=generator),
        "scene.bias": torch.randn(width, generator=generator),
        "map.weight": torch.randn(width, queries, generator=generator),
        "map.bias": torch.randn(width, generator=generator),
    }
    torch.manual_seed(seed)
    model = OrionLite(TINY, PLANNER, heads_of(asset, segments, width=width, queries=queries)).eval()
    scene_queries = torch.randn(3, sum(length for _, length in segments), queries, generator=generator)
    ego_token = torch.randn(3, width, generator=generator)
    return model, asset, scene_queries, ego_token


def test_released_sizes_have_the_released_names_shapes_and_count():
    with torch.device("meta"):
        model = OrionLite(OrionLiteConfig())
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert shapes == MANIFEST
    assert len(shapes) == 161
    sizes = {name: value.numel() for name, value in model.state_dict().items()}
    planner = [name for name in sizes if name.startswith(PLANNER_PARTS)]
    assert len(planner) == 44
    assert sum(sizes.values()) == 528_803_378
    assert sum(sizes[name] for name in planner) == 419_618_354
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize(("layers", "total"), [(2, 461_616_690), (4, 495_210_034), (16, 696_770_098)])
def test_other_depths_have_the_known_size(layers, total):
    with torch.device("meta"):
        model = OrionLite(OrionLiteConfig(layers=layers))
    assert sum(weight.numel() for weight in model.parameters()) == total


def test_the_teachers_heads_stay_out_of_the_weights():
    model, *_ = tiny()
    with_heads = model.state_dict().keys()
    assert with_heads == OrionLite(TINY, PLANNER).state_dict().keys()


@pytest.mark.parametrize("tokens", [529, 513, 7])
@pytest.mark.parametrize("frames", [1, 3])
def test_any_number_of_tokens_gives_one_planning_token_and_six_trajectories(frames, tokens):
    model, *_ = tiny()
    predicted = model.predict(model.embed_tokens(torch.randn(frames, tokens, 32)))
    assert predicted.planning_token.shape == (frames, 32)
    assert predicted.offsets.shape == (frames, 6, 6, 2)


def test_folded_queries_equal_whole_vision_tokens_and_so_do_their_gradients():
    model, asset, scene_queries, ego_token = tiny()
    model.double()
    spec = FeatureSpec(
        name="scene_queries",
        shape=(11, 6),
        axes=("query", "channel"),
        dtype="float32",
        role="input",
        segments=(("scene", 5), ("history", 2), ("map", 4)),
    )
    heads = {name: value.numpy() for name, value in asset.items()}
    tokens = vision_tokens(scene_queries.numpy(), ego_token.numpy(), heads, spec)
    assert tokens.shape == (3, 12, 32)
    np.testing.assert_array_equal(tokens[:, 7], ego_token.numpy())

    folded = model(scene_queries.double(), ego_token.double())
    (folded_grad,) = torch.autograd.grad(folded.offsets.square().sum(), [model.input_proj.weight])
    whole = model.predict(model.embed_tokens(torch.from_numpy(tokens).double()))
    (whole_grad,) = torch.autograd.grad(whole.offsets.square().sum(), [model.input_proj.weight])
    # The vision tokens were rounded to float32 on the way.
    torch.testing.assert_close(folded.planning_token, whole.planning_token, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(folded.offsets, whole.offsets, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(folded_grad, whole_grad, rtol=1e-4, atol=1e-5 * whole_grad.abs().max().item())


def test_folding_holds_at_released_token_counts_which_are_stored_fifteen_times_smaller():
    with torch.device("meta"):
        model = OrionLite(OrionLiteConfig())
    torch.manual_seed(0)
    model.input_proj, model.norm_input = torch.nn.Linear(4096, 1024), torch.nn.LayerNorm(1024)
    segments = (("scene", 256), ("history", 16), ("map", 256))
    asset = {f"{head}.weight": 0.02 * torch.randn(4096, 256) for head in ("scene", "map")}
    asset |= {f"{head}.bias": 0.02 * torch.randn(4096) for head in ("scene", "map")}
    model.heads = heads_of(asset, segments, width=4096, queries=256)
    spec = FeatureSpec(
        name="scene_queries",
        shape=(528, 256),
        axes=("query", "channel"),
        dtype="float16",
        role="input",
        segments=segments,
    )
    queries, ego = torch.randn(1, 528, 256).half(), torch.randn(1, 4096).half()
    tokens = vision_tokens(
        queries.numpy(), ego.numpy(), {name: value.numpy() for name, value in asset.items()}, spec
    )
    assert tokens.shape == (1, 529, 4096)
    assert round(tokens.astype(np.float16).nbytes / (queries.nbytes + ego.nbytes), 1) == 15.6
    with torch.no_grad():
        folded = model.embed_queries(queries.float(), ego.float())
        whole = model.embed_tokens(torch.from_numpy(tokens))
    torch.testing.assert_close(folded, whole, rtol=1e-4, atol=1e-4)


def test_a_batch_equals_its_frames_one_at_a_time():
    model, _, scene_queries, ego_token = tiny()
    noise = torch.randn(3, 1, 4)
    whole = model(scene_queries, ego_token, noise=noise)
    for b in range(3):
        one = slice(b, b + 1)
        single = model(scene_queries[one], ego_token[one], noise=noise[one])
        torch.testing.assert_close(whole.planning_token[one], single.planning_token, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(whole.offsets[one], single.offsets, rtol=1e-5, atol=1e-5)


def test_decoder_self_attention_never_learns_its_query_and_key_rows():
    model, _, scene_queries, ego_token = tiny()
    model(scene_queries, ego_token).planning_token.square().sum().backward()
    for layer in model.transformer_decoder.layers:
        gradient = layer.self_attn.in_proj_weight.grad  # rows: query, key, value
        assert gradient[:32].abs().max() < 1e-6 * gradient[32:].abs().max()
    assert all(
        model.get_parameter(name).grad is not None
        for name in ("planning_query", "input_proj.weight", "output_proj.weight")
    )


def test_decoder_weights_start_xavier_uniform():
    torch.manual_seed(0)
    wide = OrionLite(OrionLiteConfig(hidden=256, heads=4, layers=1), PlannerConfig(token_width=32))
    bound = (6 / 512) ** 0.5
    assert 0.9 * bound < wide.planning_query.abs().max().item() <= bound
    fused = wide.transformer_decoder.layers[0].self_attn.in_proj_weight.abs().max().item()
    assert fused <= (6 / 1024) ** 0.5


def test_the_planner_is_taken_whole_or_not_at_all():
    torch.manual_seed(5)
    teacher = Planner(PLANNER).state_dict()
    model, *_ = tiny()
    model.load_planner(teacher)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in teacher.items())

    model, *_ = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    del teacher["predict_model.linear1.bias"]
    with pytest.raises(CheckpointError, match=r"missing: predict_model\.linear1\.bias"):
        model.load_planner(teacher)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_tokens_are_projected_in_the_order_that_the_dataset_declares():
    asset = {f"{name}.weight": torch.full((4, 2), value) for name, value in (("scene", 1.0), ("map", 2.0))}
    asset |= {f"{name}.bias": torch.zeros(4) for name in ("scene", "map")}
    heads = heads_of(asset, (("scene", 2), ("history", 1), ("map", 1)), width=4, queries=2)
    features = {"scene_queries": torch.ones(1, 4, 2), "ego_token": torch.full((1, 4), 7.0)}
    layer = torch.nn.Linear(4, 1)
    torch.nn.init.ones_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    # Three scene tokens of four times 1 + 1, the ego token, and a map token of four times 2 + 2.
    assert heads.project(features, layer)[0, :, 0].tolist() == [8.0, 8.0, 8.0, 28.0, 16.0]
    assert [segment.length for segment in heads.segments] == [3, 1, 1]
