"""The recorded set: its models as checkpoint folders, its questions as samples."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from pipeline.questions.sample import ImageFile, QuestionSample
from pipeline.teachers.internvl3.model.sizes import InternVLSizes, LanguageSizes, VisionSizes
from pipeline.teachers.internvl3.options import AttentionOptions, Options
from pipeline.teachers.internvl3.presets import InternVL3Preset, StudentPreset
from tests.paths import GOLDEN

RECORDED = GOLDEN / "drive_kd"


def image_file(folder: Path, written: str) -> ImageFile:
    file = folder / written
    return ImageFile(written, file, hashlib.sha256(file.read_bytes()).hexdigest())


def close(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference, relative to the largest magnitude."""
    assert found.shape == wanted.shape
    return float((found.float() - wanted).abs().max() / wanted.abs().max())


class Recorded(NamedTuple):
    meta: dict
    inputs: dict[str, torch.Tensor]
    maps: dict[str, torch.Tensor]

    def sizes(self, model: dict) -> InternVLSizes:
        meta = self.meta
        return InternVLSizes(
            LanguageSizes(
                width=model["D"],
                layers=model["L"],
                heads=model["H"],
                kv_heads=model["KV"],
                mlp_width=model["F"],
                vocabulary=meta["vocab"],
                norm_eps=meta["rms_norm_eps"],
                rope_theta=meta["rope_theta"],
            ),
            VisionSizes(
                width=model["VD"],
                layers=model["VL"],
                heads=model["VH"],
                mlp_width=model["VF"],
                image_size=meta["image_size"],
                patch_size=meta["patch_size"],
                norm_eps=meta["layer_norm_eps"],
            ),
            image_token=meta["specials"]["<IMG_CONTEXT>"],
        )

    @property
    def student_sizes(self) -> InternVLSizes:
        return self.sizes(self.meta["student"])

    def teacher(self, number: int, **options: object) -> InternVL3Preset:
        options = {"student_layers": self.meta["student"]["L"], "stored": "float32", **options}
        return InternVL3Preset(
            "internvl3-recorded",
            self.sizes(self.meta["teachers"][number]),
            options=AttentionOptions(**options),
        )

    def student(self, *, embeds: bool = True, **options: object) -> StudentPreset:
        chosen = Options(**{"stored": "float32", **options})
        return StudentPreset("internvl3-recorded", self.student_sizes, options=chosen, embeds=embeds)

    def sample(self, recorded: dict, clip: str = "clip") -> QuestionSample:
        item = json.loads((RECORDED / "data.json").read_text())[recorded["item"]]
        texts = [message["content"] for message in item.get("messages", ())]
        question, answer = (item["question"], item["answer"]) if "question" in item else texts[:2]
        images = tuple(image_file(RECORDED, written) for written in item["images"])
        return QuestionSample(clip, 0, recorded["item"], recorded["capability"], question, answer, images)

    def about(self, first: int, behind: int) -> QuestionSample:
        """Return a question about some images of the sample that has most."""
        sample = self.sample(max(self.meta["samples"], key=lambda sample: sample["images"]))
        assert len(sample.images) >= behind
        return replace(sample, question="What moves?", images=sample.images[first:behind])


@pytest.fixture(scope="session")
def recorded() -> Recorded:
    return Recorded(
        json.loads((RECORDED / "meta.json").read_text()),
        load_file(RECORDED / "inputs.safetensors"),
        load_file(RECORDED / "maps.safetensors"),
    )


def remote_config(sizes: InternVLSizes) -> dict:
    """Return config.json as the repositories with remote code have it."""
    vision, language = sizes.vision, sizes.language
    return {
        "architectures": ["InternVLChatModel"],
        "downsample_ratio": 0.5,
        "ps_version": "v2",
        "select_layer": -1,
        "llm_config": {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_size": language.width,
            "num_hidden_layers": language.layers,
            "num_attention_heads": language.heads,
            "num_key_value_heads": language.kv_heads,
            "intermediate_size": language.mlp_width,
            "vocab_size": language.vocabulary,
            "rms_norm_eps": language.norm_eps,
            "rope_theta": language.rope_theta,
            "rope_scaling": {"factor": 2.0, "rope_type": "dynamic", "type": "dynamic"},
            "max_position_embeddings": language.positions,
            "use_sliding_window": False,
        },
        "vision_config": {
            "hidden_size": vision.width,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "intermediate_size": vision.mlp_width,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "norm_type": vision.norm,
            "layer_norm_eps": vision.norm_eps,
            "qkv_bias": vision.attention_bias,
            "qk_normalization": vision.qk_norm,
        },
    }


def make_folder(folder: Path, config: dict, weights: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(RECORDED / "tokenizer.json", folder)
    shutil.copy(weights, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def student_folder(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = remote_config(recorded.student_sizes)
    return make_folder(
        tmp_path_factory.mktemp("student") / "InternVL3-X", config, RECORDED / "student.safetensors"
    )


@pytest.fixture(scope="session")
def teacher_folders(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("teachers")
    return [
        make_folder(
            root / f"{number}",
            remote_config(recorded.sizes(model)),
            RECORDED / f"teacher{number}.safetensors",
        )
        for number, model in enumerate(recorded.meta["teachers"])
    ]
