"""What can be chosen of an InternVL3, and what is refused."""

import pytest

from cache_schema.errors import RequestError
from cache_schema.vocabulary.attention import CAPABILITIES
from pipeline.teachers import TEACHERS, load_teacher, teacher_preset

PRESETS = [name for name in TEACHERS if name.startswith("internvl3")]
TEACHING = [name for name in PRESETS if not name.endswith(("vision", "pixels"))]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_named_as_in_the_table_and_promise_features(name):
    preset = teacher_preset(name)
    assert (preset.name, preset.kind) == (name, "questions")
    assert preset.features


@pytest.mark.parametrize(
    ("name", "groups", "length"),
    [("internvl3-8b", 23, 5), ("internvl3-14b", 23, 25), ("internvl3-38b", 23, 41), ("internvl3-tiny", 2, 3)],
)
def test_groups_of_layers(name, groups, length):
    preset = teacher_preset(name)
    found = preset.options.layers_read(preset.sizes.language.layers).groups
    assert len(found) == groups
    assert {group.last - group.first + 1 for group in found} == {length}
    shapes = {spec.name: spec.shape for spec in preset.features}
    assert shapes["attention_groups"] == (groups, None, None)


def test_the_student_of_the_other_size():
    preset = teacher_preset("internvl3-8b", {"student_layers": "28"})
    assert {
        group.last - group.first for group in preset.options.layers_read(preset.sizes.language.layers).groups
    } == {0}


def test_sizes_of_images():
    shapes = {spec.name: spec.shape for spec in teacher_preset("internvl3-1b-vision").features}
    assert shapes["image_embeddings"] == (None, 256, 896)
    shapes = {spec.name: spec.shape for spec in teacher_preset("internvl3-1b-pixels").features}
    assert shapes["image_pixels"] == (None, 448, 448, 3)


def test_options_are_typed():
    given = {"signals": "planning, perception", "layout": "released", "stored": "float32", "end": "-1"}
    options = teacher_preset("internvl3-tiny", {**given, "max_tokens": "99", "share_prefix": "false"}).options
    assert options.signals == ("perception", "planning")
    assert (options.layout, options.stored, options.end) == ("released", "float32", -1)
    assert (options.max_tokens, options.share_prefix) == (99, False)
    assert options.student_layers == 3
    assert teacher_preset("internvl3-tiny").options.signals == CAPABILITIES


@pytest.mark.parametrize("name", ["internvl3-tiny", "internvl3-tiny-vision"])
def test_an_unknown_option_is_refused_with_all_that_there_are(name):
    with pytest.raises(RequestError, match="no option 'signal'") as refused:
        teacher_preset(name, {"signal": "perception"})
    assert "layout" in refused.value.expected
    assert ("signals" in refused.value.expected) == (name == "internvl3-tiny")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("signals", "perception,prediction"),
        ("signals", ""),
        ("layout", "mine"),
        ("stored", "int8"),
        ("student_layers", "0"),
        ("student_layers", "many"),
        ("max_tokens", "0"),
        ("max_tokens", "40000"),
        ("start", "3"),
        ("end", "-9"),
    ],
)
def test_values_that_do_not_fit_are_refused(option, value):
    with pytest.raises(RequestError) as refused:
        teacher_preset("internvl3-tiny", {option: value})
    assert refused.value.expected
    assert refused.value.repair


def test_what_changes_values_changes_the_identity_or_the_features():
    plain = load_teacher("internvl3-tiny", None, device="cpu")
    changes = {
        "layout": "released",
        "student_layers": "4",
        "start": "1",
        "end": "-1",
        "share_prefix": "false",
    }
    for option, value in changes.items():
        other = load_teacher("internvl3-tiny", None, device="cpu", options={option: value})
        assert other.identity != plain.identity, option
    for option, value in {"signals": "reasoning", "stored": "float32"}.items():
        other = load_teacher("internvl3-tiny", None, device="cpu", options={option: value})
        assert other.features != plain.features, option


@pytest.mark.parametrize("name", ["internvl3-8b", "internvl3-1b-vision"])
def test_real_models_need_their_weights(name):
    with pytest.raises(RequestError, match="needs its weights") as refused:
        load_teacher(name, None, device="cpu")
    assert f"InternVL3-{name[10:12].upper()}" in refused.value.expected


@pytest.mark.parametrize("name", ["internvl3-tiny", "internvl3-tiny-vision"])
def test_quantisation_and_unknown_precisions_are_refused(name):
    with pytest.raises(RequestError, match="does not come quantised as nf4"):
        load_teacher(name, None, device="cpu", quantize="nf4")
    with pytest.raises(RequestError, match="there is no precision 'fp8'"):
        load_teacher(name, None, device="cpu", precision="fp8")


def test_compiling_is_not_claimed():
    teacher = load_teacher("internvl3-tiny", None, device="cpu", compile=True)
    assert not getattr(teacher, "compiled", False)


def test_nothing_is_converted(tmp_path):
    with pytest.raises(RequestError, match="need not be converted"):
        teacher_preset("internvl3-8b").convert(tmp_path, tmp_path / "x")


@pytest.mark.parametrize("name", ["internvl3-tiny", "internvl3-tiny-vision"])
def test_random_weights_are_recorded_and_the_same_every_time(name):
    one, other = (load_teacher(name, None, device="cpu") for _ in range(2))
    assert one.identity == other.identity
    assert one.identity.weights == "random:0"
    for weight, same in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert weight.equal(same)
