"""Attention of the teacher, against the recorded set and against transformers itself."""

import dataclasses

import pytest
import torch

from cache_schema.errors import ClipError
from tests.pipeline.teachers.internvl3.conftest import close

CAPABILITIES = ("perception", "reasoning", "planning")


def run(teacher, samples, state=None):
    """Features of samples that follow each other in one slot."""
    state = teacher.begin(1) if state is None else state
    found = []
    for sample in samples:
        features, state = teacher.step(teacher.collate([teacher.prepare(sample)]), state)
        found.append({name: value[0] for name, value in features.items()})
    return found


def whole(first, own):
    """The map (L, N, N) of a question, from what is stored of it and of its prefix."""
    prefix, to_prefix, among = (
        first["attention_groups_prefix"],
        own["attention_groups_to_prefix"],
        own["attention_groups"],
    )
    length, rows = prefix.shape[-1], among.shape[-1]
    found = among.new_zeros(len(among), length + rows, length + rows)
    found[:, :length, :length] = prefix
    found[:, length:, :length] = to_prefix
    found[:, length:, length:] = among
    return found


@pytest.mark.parametrize("share_prefix", [True, False])
def test_recorded_maps(recorded, teacher_folders, share_prefix):
    signals = dict(zip(("p", "r", "d"), zip(CAPABILITIES, recorded.meta["slots"], strict=True), strict=True))
    compared = 0
    for layout in ("intended", "released"):
        for letter, (capability, number) in signals.items():
            options = {"signals": capability, "layout": layout, "share_prefix": share_prefix}
            teacher = recorded.teacher(number, **options).load(teacher_folders[number], device="cpu")
            for sample in recorded.meta["samples"]:
                key, name = sample["key"], {"p": "p.first", "r": "r.groups", "d": "d.penult"}[letter]
                if sample["layout"] != layout or f"{key}.{name}" not in recorded.maps:
                    continue
                (found,) = run(teacher, [recorded.sample(sample)])
                maps = {
                    "p": lambda found=found: found["attention_first"],
                    "d": lambda found=found: found["attention_penultimate"],
                    "r": lambda found=found: whole(found, found),
                }[letter]()
                assert close(maps, recorded.maps[f"{key}.{name}"]) < 1e-5, (key, name)
                compared += 1
    assert compared == len([name for name in recorded.maps if ".student" not in name])


@pytest.fixture(scope="module")
def teacher(recorded, teacher_folders):
    return recorded.teacher(0).load(teacher_folders[0], device="cpu")


@pytest.fixture
def asked(recorded):
    """Three questions about two images and one about one, in one clip."""
    first, one = recorded.about(0, 2), recorded.about(1, 2)
    return [
        first,
        dataclasses.replace(first, question="Should the ego vehicle brake now, and why?", answer="No."),
        dataclasses.replace(one, question="<image>And here?"),
        dataclasses.replace(first, answer="Nothing at all."),
    ]


def test_what_questions_share_is_stored_once(teacher, asked):
    found = run(teacher, asked)
    assert [int(row["prefix_sample"]) for row in found] == [0, 0, 2, 3]
    assert [row["attention_groups_prefix"].shape[-1] > 0 for row in found] == [True, False, True, True]
    assert found[1]["attention_groups_prefix"].shape == (len(found[1]["attention_groups"]), 0, 0)
    # The prefix ends behind the last image.
    end = int(found[0]["image_runs"][-1, 1]) + 1
    assert found[0]["attention_groups_prefix"].shape[-1] == end
    assert found[1]["attention_groups_to_prefix"].shape[-1] == end
    assert torch.equal(found[0]["attention_groups_prefix"], found[3]["attention_groups_prefix"])


def test_sharing_a_prefix_changes_nothing_but_rounding(recorded, teacher, teacher_folders, asked):
    alone = recorded.teacher(0, share_prefix=False).load(teacher_folders[0], device="cpu")
    assert teacher.identity != alone.identity
    shared, repeated = run(teacher, asked), run(alone, asked)
    for place, (one, other) in enumerate(zip(shared, repeated, strict=True)):
        assert int(other["prefix_sample"]) == place
        assert other["attention_groups_prefix"].shape[-1] == 0
        assert other["attention_groups_to_prefix"].shape[-1] == 0
        first = shared[int(one["prefix_sample"])]
        assert close(whole(first, one), other["attention_groups"]) < 1e-6
        for name in ("attention_first", "attention_penultimate"):
            assert close(one[name], other[name]) < 1e-6
        assert torch.equal(one["token_ids"], other["token_ids"])


def test_a_question_s_values_do_not_depend_on_those_before(teacher, asked):
    together = run(teacher, asked)
    (by_itself,) = run(teacher, [asked[1]])
    for name in (
        "attention_first",
        "attention_penultimate",
        "attention_groups",
        "attention_groups_to_prefix",
    ):
        assert torch.equal(together[1][name], by_itself[name])


def test_other_clips_and_other_files_share_nothing(teacher, asked, tmp_path):
    found = run(teacher, [asked[0], dataclasses.replace(asked[1], clip="another")])
    assert [int(row["prefix_sample"]) for row in found] == [0, 0]
    assert found[1]["attention_groups_prefix"].shape[-1] > 0
    swapped = dataclasses.replace(asked[1], images=asked[1].images[::-1])
    found = run(teacher, [asked[0], swapped])
    assert int(found[1]["prefix_sample"]) == 1


def test_text_before_an_image_leaves_no_prefix(teacher, asked):
    found = run(teacher, [dataclasses.replace(asked[0], question="Look: <image><image>What moves?")] * 2)
    assert [int(row["prefix_sample"]) for row in found] == [0, 1]
    assert found[1]["attention_groups_to_prefix"].shape[-1] == 0


def test_a_prefix_outlasts_a_question_that_has_none(teacher, asked):
    between = dataclasses.replace(asked[0], question="Look: <image><image>What moves?")
    found = run(teacher, [asked[0], between, asked[1]])
    assert [int(row["prefix_sample"]) for row in found] == [0, 1, 0]
    (alone,) = run(teacher, [asked[1]])
    assert torch.equal(found[2]["attention_groups"], alone["attention_groups"])


def test_a_question_without_images(teacher, asked):
    (found,) = run(teacher, [dataclasses.replace(asked[0], images=())])
    length = len(found["token_ids"])
    assert found["image_runs"].shape == (0, 2)
    assert found["attention_first"].shape == (length, 0)
    assert found["attention_groups"].shape[1:] == (length, length)


def test_maps_are_of_one_causal_attention(teacher, asked):
    first, second, *_ = run(teacher, asked)
    maps = whole(first, second)
    assert torch.equal(maps, maps.tril())
    assert (maps.sum(-1) - 1).abs().max() < 1e-6
    assert (maps >= 0).all()


def test_half_precision_stores_what_float32_does(recorded, teacher, teacher_folders, asked):
    half = recorded.teacher(0, stored="float16").load(teacher_folders[0], device="cpu")
    for one, other in zip(run(teacher, asked), run(half, asked), strict=True):
        for name in ("attention_first", "attention_penultimate", "attention_groups"):
            assert other[name].dtype == torch.float16
            assert torch.equal(one[name].half(), other[name])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_other_precisions(recorded, teacher, teacher_folders, asked, precision):
    rounded = recorded.teacher(0).load(teacher_folders[0], device="cpu", precision=precision)
    assert rounded.identity.precision != teacher.identity.precision
    assert rounded.identity.weights == teacher.identity.weights
    one, other = run(teacher, asked), run(rounded, asked)
    maps = whole(other[0], other[1])
    assert torch.equal(maps, maps.tril())
    assert 0 < close(maps, whole(one[0], one[1])) < 0.05


@pytest.mark.parametrize("signals", ["perception", "planning", "reasoning", "perception,planning"])
def test_only_layers_that_are_read_are_built(recorded, teacher_folders, asked, signals):
    depth = 1 if signals == "perception" else recorded.meta["teachers"][0]["L"] - 1
    chosen = recorded.teacher(0, signals=signals).load(teacher_folders[0], device="cpu")
    assert len(chosen.model.language_model.layers) == depth
    names = {name for name, _ in chosen.model.named_parameters()}
    assert "language_model.norm.weight" not in names
    assert not any(weight.is_meta for weight in chosen.model.parameters())
    (found,) = run(chosen, asked[:1])
    assert {*found} == {spec.name for spec in chosen.features}
    assert ("prefix_sample" in found) == ("reasoning" in signals)


def test_the_identity_does_not_depend_on_what_is_read(recorded, teacher, teacher_folders):
    first = recorded.teacher(0, signals="perception").load(teacher_folders[0], device="cpu")
    assert first.identity.weights == teacher.identity.weights
    assert "attention" not in first.identity.architecture
    found = {
        str(student): list(range(first, last + 1))
        for student, first, last in teacher.identity.architecture["attention"]["groups"]
    }
    assert found == recorded.meta["layer_groups"]


def test_heads_are_dropped_at_once(teacher, asked):
    seen = []
    hooks = [
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
        for layer in (layer.self_attn for layer in teacher.model.language_model.layers)
    ]
    run(teacher, asked[:1])
    for hook in hooks:
        hook.remove()
    assert seen
    assert all(weights is None for _, weights in seen)


def test_idle_slots_and_several_clips_at_once(teacher, asked):
    others = [dataclasses.replace(sample, clip="another") for sample in asked]
    state, found = teacher.begin(3), []
    for inputs in ((asked[0], None, None), (asked[1], None, others[0]), (None, None, others[1])):
        batch = [None if sample is None else teacher.prepare(sample) for sample in inputs]
        features, state = teacher.step(teacher.collate(batch), state)
        assert all(len(value) == 3 for value in features.values())
        found.append(features)
    for sample, step, slot in ((asked[0], 0, 0), (others[0], 1, 2)):
        (alone,) = run(teacher, [sample])
        assert all(torch.equal(alone[name], value[slot]) for name, value in found[step].items())
    assert [int(step["prefix_sample"][2]) for step in found[1:]] == [0, 0]


def test_a_question_that_is_too_long_is_named(recorded, teacher_folders, asked):
    length = len(run(recorded.teacher(0).load(teacher_folders[0], device="cpu"), asked[:1])[0]["token_ids"])
    exact, short = (
        recorded.teacher(0, max_tokens=limit).load(teacher_folders[0], device="cpu")
        for limit in (length, length - 1)
    )
    exact.prepare(asked[0])
    with pytest.raises(ClipError) as refused:
        short.prepare(asked[0])
    for part in ("clip", str(asked[0].question_id), str(length), str(length - 1), "max_tokens"):
        assert part in str(refused.value)


def test_an_image_that_changed_is_refused(teacher, asked, tmp_path):
    image = asked[0].images[0]
    other = tmp_path / "other.png"
    other.write_bytes(asked[2].images[0].file.read_bytes())
    changed = dataclasses.replace(image, file=other, sha256="0" * 64)
    with pytest.raises(ClipError, match="changed"):
        teacher.prepare(dataclasses.replace(asked[0], images=(changed,)))
