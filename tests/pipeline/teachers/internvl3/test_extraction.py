"""Both datasets by the ordinary commands, against transformers' own whole forward pass."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import InternVLForConditionalGeneration
from typer.testing import CliRunner

from cache_schema import LatentDataset, open_dataset
from cache_schema.terminal import USER_ERROR
from cli import app
from pipeline.teachers import load_teacher, teacher_preset
from pipeline.teachers.internvl3.model.network import configuration, random_weights
from tests.forked import Forked

ROUNDING = 1e-5
"""Of float32, relative to the largest value, in five layers: other kernels multiply a whole sequence."""
SCENES, VIEWS = ("a", "b", "c"), 2
ASKED = (
    (0, "perception", "Which camera shows the nearest car?", "A. CAM_FRONT."),
    (0, "reasoning", "Will the ego vehicle stop in the next 2 seconds?", "Yes, because a light is red."),
    (0, "planning", "Look: <image> and <image>. Should it brake now?", "No."),
    (1, "reasoning", "What is the road like?", "It bends left."),
    (1, "planning", "Where to?", "Left."),
)


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    """Three scenes of five questions about two frames, seen from two sides."""
    root = tmp_path_factory.mktemp("questions")
    generator = np.random.default_rng(0)
    entries = []
    for scene in SCENES:
        for number, (frame, capability, question, answer) in enumerate(ASKED):
            images = [f"images/{scene}_{frame}_{view}.png" for view in range(VIEWS)]
            for image in images:
                (root / image).parent.mkdir(exist_ok=True)
                if not (root / image).exists():
                    pixels = generator.integers(0, 256, (9, 16, 3), np.uint8)
                    Image.fromarray(pixels).resize((160, 90)).save(root / image)
            entries.append(
                {
                    "question": question,
                    "answer": f"{answer} {scene}",
                    "question_type": capability,
                    "images": images,
                    "scene": scene,
                    "frame": frame,
                    "question_id": number,
                    "split": "val" if scene == SCENES[-1] else "train",
                }
            )
    (root / "questions.json").write_text(json.dumps(entries))
    return root


def run(*arguments: object):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result


def extract_with(teacher: str, questions: Path, path: Path, *options: object) -> Path:
    data = ("--data", questions, "--source", "drive-kd", "--slots", 2)
    run("extract", path, *data, "--teacher", teacher, *options)
    run("verify", path)
    return path


@pytest.fixture(scope="module")
def attention(questions, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("attention") / "a.zarr"
    return extract_with("internvl3-tiny", questions, path, "--set", "stored=float32")


@pytest.fixture(scope="module")
def vision(questions, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("vision") / "b.zarr"
    return extract_with("internvl3-tiny-vision", questions, path)


def whole_model(name: str) -> InternVLForConditionalGeneration:
    preset = teacher_preset(name)
    config = configuration(preset.sizes)
    config._attn_implementation = "eager"
    model = InternVLForConditionalGeneration(config).eval()
    model.load_state_dict(dict(random_weights(preset.sizes, preset.random_seed)))
    return model


def test_what_is_read_is_what_the_whole_model_computes(questions, attention):
    """One pass over all tokens, all heads of all layers returned, averaged by the definitions."""
    dataset = LatentDataset.open(attention)
    model, teacher = whole_model("internvl3-tiny"), load_teacher("internvl3-tiny", None, device="cpu")
    assert dataset.clips == SCENES
    layers = len(model.model.language_model.layers)
    for clip in SCENES:
        names = ("token_ids", "image_runs", "attention_first", "attention_penultimate", "prefix_sample")
        held = {name: dataset.read(clip, name) for name in names}
        maps = [dataset.read(clip, f"attention_groups{part}") for part in ("", "_to_prefix", "_prefix")]
        assert held["prefix_sample"].tolist() == [0, 0, 2, 3, 3]
        for sample, (frame, *_) in enumerate(ASKED):
            files = [questions / f"images/{clip}_{frame}_{view}.png" for view in range(VIEWS)]
            recipe = teacher._reader.recipe
            pixels = torch.stack([recipe.resize(Image.open(file)) for file in files])
            ids = torch.from_numpy(held["token_ids"][sample]).long()
            with torch.inference_mode():
                attentions = model(
                    input_ids=ids[None], pixel_values=recipe.normalise(pixels), output_attentions=True
                ).attentions
            mean = torch.stack([layer[0].mean(0) for layer in attentions])
            image = torch.zeros(len(ids), dtype=torch.bool)
            for begin, end in held["image_runs"][sample].tolist():
                image[begin:end] = True
            assert torch.equal(image, ids == model.config.image_token_id)
            for name, layer in (("attention_first", 0), ("attention_penultimate", layers - 2)):
                wanted = mean[layer][~image][:, image]
                np.testing.assert_allclose(held[name][sample], wanted, rtol=0, atol=ROUNDING * wanted.max())
            groups = torch.stack([mean[0:3].mean(0), mean[1:4].mean(0)])
            among, to_prefix, prefix = (part[sample] for part in maps)
            length = prefix.shape[-1]
            assert (length == 0) == (sample == 2)
            for found, wanted in (
                (prefix, groups[:, :length, :length]),
                (to_prefix, groups[:, length:, :length]),
                (among, groups[:, length:, length:]),
            ):
                np.testing.assert_allclose(found, wanted, rtol=0, atol=ROUNDING * groups.max())


def test_embeddings_are_those_of_the_whole_student(questions, vision):
    dataset = LatentDataset.open(vision)
    student = dataset.asset("student")
    model = whole_model("internvl3-tiny-vision")
    assert {name: tuple(value.shape) for name, value in student.items()} == {
        name: tuple(value.shape) for name, value in model.state_dict().items()
    }
    preset = load_teacher("internvl3-tiny-vision", None, device="cpu")
    for clip in SCENES:
        assert dataset.read(clip, "images_sample").tolist() == [0, 0, 0, 3, 3]
        found = dataset.read(clip, "image_embeddings")
        for sample, (frame, *_) in enumerate(ASKED):
            files = [questions / f"images/{clip}_{frame}_{view}.png" for view in range(VIEWS)]
            recipe = preset._reader.recipe
            pixels = torch.stack([recipe.resize(Image.open(file)) for file in files])
            with torch.inference_mode():
                wanted = model.model.get_image_features(recipe.normalise(pixels)).pooler_output
            np.testing.assert_allclose(found[sample], wanted, rtol=1e-3, atol=1e-4)


def test_the_two_join(attention, vision):
    joined = open_dataset(attention, vision)
    assert joined.clips == SCENES
    ids = joined.read("a", "token_ids")
    assert [len(maps) for maps in joined.read("a", "attention_first")] == [
        len(tokens) - len(images) * images.shape[1]
        for tokens, images in zip(ids, joined.read("a", "image_embeddings"), strict=True)
    ]


def digests(path: Path) -> dict[str, str]:
    dataset = LatentDataset.open(path)
    return {clip: dataset.entry(clip).digest for clip in dataset.clips}


@pytest.mark.parametrize("teacher", ["internvl3-tiny", "internvl3-tiny-vision"])
def test_killed_and_resumed(questions, attention, vision, tmp_path, teacher):
    path = tmp_path / "killed.zarr"
    options = ["--set", "stored=float32"] if teacher == "internvl3-tiny" else []
    names = ["--source", "drive-kd", "--teacher", teacher, "--slots", "2", *options]
    process = Forked("-m", "cli", "extract", path, "--data", questions, *names)
    while not any((path / ".partial").glob("*/*")) and not any((path / "ledger").glob("*.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    extract_with(teacher, questions, path, *options)
    assert digests(path) == digests(attention if teacher == "internvl3-tiny" else vision)


def test_chosen_signals(questions, tmp_path):
    path = extract_with("internvl3-tiny", questions, tmp_path / "p.zarr", "--signals", "perception")
    dataset = LatentDataset.open(path)
    names = {spec.name for spec in dataset.manifest.features}
    assert "attention_first" in names
    assert not {"attention_penultimate", "attention_groups", "prefix_sample"} & names
    assert dataset.read("a", "attention_first")[0].dtype == np.float16
    data = ("--data", str(questions), "--source", "drive-kd")
    resumed = CliRunner().invoke(app, ["extract", str(path), *data, "--teacher", "internvl3-tiny"])
    assert resumed.exit_code == USER_ERROR
    assert "attention_penultimate" in resumed.output


def test_pixels(questions, tmp_path):
    path = extract_with("internvl3-tiny-pixels", questions, tmp_path / "p.zarr")
    dataset = LatentDataset.open(path)
    (first, *_) = dataset.read("a", "image_pixels")
    side = teacher_preset("internvl3-tiny-pixels").sizes.vision.image_size
    square = Image.open(questions / "images/a_0_0.png").resize((side, side), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(first[0], np.asarray(square))
