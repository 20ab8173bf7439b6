"""The teacher on synthetic frames; its oracle is the library's own forward pass over whole sequences."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2_5_VLConfig

from cache_schema.errors import ClipError, RequestError
from pipeline.bench2drive.source import Bench2Drive, DrivingSample
from pipeline.teachers import teacher_preset
from pipeline.teachers.latent_action_vlm.images import patches
from pipeline.teachers.latent_action_vlm.network import build, shapes_of
from pipeline.teachers.latent_action_vlm.presets import AUTOVLA_3B, LATENTVLA_3B, LATENTVLA_TINY
from pipeline.teachers.latent_action_vlm.teacher import LatentActionTeacher
from pipeline.teachers.protocol import check_teacher


@pytest.fixture(scope="module")
def tiny() -> LatentActionTeacher:
    return LATENTVLA_TINY.load(None, device="cpu")


@pytest.fixture(scope="module")
def samples(clips_root) -> list[DrivingSample]:
    """Frames whose prompts are of different lengths."""
    clips = [clip.open() for clip in Bench2Drive(clips_root).select().clips]
    found = [clips[0].sample(0), clips[1].sample(3), clips[2].sample(1)]
    slow = found[0].can_bus.copy()
    slow[[7, 10, 15]] = 1.0, 2.0, 0.1
    fast = found[0].can_bus.copy()
    fast[[7, 10, 15]] = 31.4, -12.3, -1.0
    return [
        dataclasses.replace(found[0], can_bus=slow),
        dataclasses.replace(found[1], can_bus=fast),
        found[2],
    ]


def features(teacher: LatentActionTeacher, *samples: DrivingSample | None) -> dict[str, torch.Tensor]:
    inputs = [None if sample is None else teacher.prepare(sample) for sample in samples]
    values, _ = teacher.step(teacher.collate(inputs), teacher.begin(len(inputs)))
    return values


@torch.inference_mode()
def by_the_library(teacher: LatentActionTeacher, sample: DrivingSample, codes: torch.Tensor):
    """Logits (V) and states (D) of every code, by one pass over a whole sequence without padding."""
    model, options = teacher.model, teacher.options
    prompt = teacher.prepare(sample).prompt
    ids = torch.tensor([*prompt, *(options.code_ids[code] for code in codes.tolist())])[None]
    images = [
        Image.open(sample.images[camera]).resize(options.image_size, Image.Resampling.BICUBIC)
        for camera in options.cameras
    ]
    pixels = torch.from_numpy(np.stack([np.asarray(image).transpose(2, 0, 1) for image in images]))
    width, height = options.image_size
    output = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=patches(pixels),
        image_grid_thw=torch.tensor([[1, height // 14, width // 14]] * len(images)),
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
        output_hidden_states=True,
    )
    predicting = slice(len(prompt) - 1, len(prompt) - 1 + len(codes))
    return output.logits[0, predicting], output.hidden_states[-1][0], predicting


def test_features_are_what_the_library_computes(tiny, samples):
    values = features(tiny, *samples)
    ids = tiny.options.code_ids
    for slot, sample in enumerate(samples):
        codes = values["codes"][slot]
        logits, states, predicting = by_the_library(tiny, sample, codes)
        among = logits[:, ids.start : ids.stop]
        assert torch.equal(codes, among.argmax(dim=-1).to(torch.int16))
        mass = logits.softmax(dim=-1)[:, ids.start : ids.stop].sum(dim=-1)
        image = torch.tensor(tiny.prepare(sample).prompt) == tiny.model.config.image_token_id
        seen = states[: len(image)][image].view(3, 2, 2, 2, -1)  # cameras, rows, cells, columns of one
        cells = seen.mean(dim=(1, 3)).flatten(0, 1)
        expected = {
            "code_logits": among,
            "code_mass": mass,
            "act_hidden": states[predicting],
            "vis_pooled": cells,
        }
        for name, value in expected.items():
            # One unit in the last place of float16, and what float32 is rounded by.
            torch.testing.assert_close(values[name][slot].float(), value, rtol=2**-10, atol=1e-4)


def test_features_are_as_promised(tiny, samples):
    check_teacher(tiny)
    assert tiny.features == LATENTVLA_TINY.features
    values = features(tiny, samples[0], None)
    assert [*values] == [spec.name for spec in tiny.features]
    for spec in tiny.features:
        assert (tuple(values[spec.name].shape), str(values[spec.name].dtype)) == (
            (2, *spec.shape),
            f"torch.{spec.dtype}",
        )
        assert values[spec.name].isfinite().all()


def test_a_slot_does_not_depend_on_its_neighbours(tiny, samples):
    """Not on what they are shown, nor on how long their prompts are, nor on whether they are idle."""
    short, long, other = samples
    assert len(tiny.prepare(short).prompt) < len(tiny.prepare(long).prompt)
    mine = features(tiny, short, other)
    for neighbour in (long, None):
        values = features(tiny, neighbour, other)
        assert all(torch.equal(mine[name][1], values[name][1]) for name in mine)
    assert not torch.equal(mine["vis_pooled"][0], values["vis_pooled"][0])
    alone = features(tiny, other)
    torch.testing.assert_close(alone["code_logits"][0], mine["code_logits"][1], rtol=2**-10, atol=1e-4)


def test_images_and_the_ego_decide_codes(tiny, samples):
    still = dataclasses.replace(samples[0], can_bus=np.zeros(18))
    assert not torch.equal(features(tiny, still)["code_logits"], features(tiny, samples[0])["code_logits"])
    blind = LATENTVLA_TINY.configured({"prompt": "images"}).load(None, device="cpu")
    assert torch.equal(features(blind, still)["code_logits"], features(blind, samples[0])["code_logits"])
    assert not torch.equal(
        features(blind, samples[1])["code_logits"], features(blind, samples[0])["code_logits"]
    )


def test_cameras_codes_and_sizes_are_options(samples):
    preset = LATENTVLA_TINY.configured(
        {
            "cameras": "CAM_BACK, CAM_FRONT",
            "positions": "5",
            "codes": "4",
            "image_width": "84",
            "cell_columns": "3",
            "cell_rows": "2",
        }
    )
    teacher = preset.load(None, device="cpu")
    values = features(teacher, samples[0])
    assert values["code_logits"].shape == (1, 5, 4)
    assert values["vis_pooled"].shape == (1, 2 * 6, 64)
    assert teacher.features == preset.features
    pooled = next(spec for spec in preset.features if spec.name == "vis_pooled")
    assert pooled.segments == (("CAM_BACK", 6), ("CAM_FRONT", 6))
    other = LATENTVLA_TINY.load(None, device="cpu").identity
    assert teacher.identity.preprocessing != other.preprocessing
    assert teacher.identity.prompt != other.prompt


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("image_width", "100", "multiple of 28"),
        ("image_height", "0", "greater than or equal to 28"),
        ("cell_columns", "3", "4 columns of an image's tokens cannot be averaged to 3"),
        ("cameras", "CAM_FRONT,CAM_TOP", "no 'CAM_TOP' among CAM_FRONT"),
        ("cameras", "CAM_FRONT,CAM_FRONT", "each once"),
        ("prompt", "blind", "'ego' or 'images'"),
        ("prefix", "labels", "'greedy'"),
        ("codes", "1", "greater than or equal to 2"),
        ("positions", "many", "valid integer"),
    ],
)
def test_options_that_do_not_fit_are_refused(option, value, said):
    with pytest.raises(RequestError, match=said):
        teacher_preset("latentvla-tiny", {option: value})


def test_an_unknown_option_is_refused_with_those_that_there_are():
    with pytest.raises(RequestError, match=r"no option 'camera'(.|\n)*cameras, image_width"):
        teacher_preset("latentvla-3b", {"camera": "CAM_FRONT"})


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_lower_precision_rounds(tiny, samples, precision):
    rounded = LATENTVLA_TINY.load(None, device="cpu", precision=precision)
    assert rounded.model.dtype == {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    assert rounded.identity.precision == precision
    exact, values = features(tiny, samples[0]), features(rounded, samples[0])
    steps = {"fp16": 2**-11, "bf16": 2**-8}[precision]
    error = (values["vis_pooled"].float() - exact["vis_pooled"].float()).abs().max()
    assert 0 < error < 32 * steps * exact["vis_pooled"].float().abs().max()
    first = (values["code_logits"][:, 0].float() - exact["code_logits"][:, 0].float()).abs().max()
    assert first < 32 * steps * exact["code_logits"].float().abs().max()


def test_a_missing_image_is_named(tiny, samples):
    missing = {camera: path.with_name("99999.jpg") for camera, path in samples[0].images.items()}
    with pytest.raises(ClipError, match=r"99999\.jpg does not exist"):
        tiny.prepare(dataclasses.replace(samples[0], images=missing, _decoded={}))


def test_the_released_sizes():
    """Without memory: the architecture has as many weights as Qwen2.5-VL-3B."""
    model = build(Qwen2_5_VLConfig(**LATENTVLA_3B.sizes))
    assert sum(np.prod(shape) for shape in shapes_of(model).values()) == 3_754_622_976
    shapes = {spec.name: (spec.shape, spec.nbytes) for spec in LATENTVLA_3B.features}
    assert shapes == {
        "codes": ((12,), 24),
        "code_logits": ((12, 16), 384),
        "code_mass": ((12,), 24),
        "act_hidden": ((12, 2048), 49_152),
        "vis_pooled": ((36, 2048), 147_456),
    }
    assert LATENTVLA_3B.options.code_ids == range(151_665, 151_681)
    logits = next(spec for spec in AUTOVLA_3B.features if spec.name == "code_logits")
    assert (logits.shape, logits.nbytes) == ((10, 2048), 40_960)
