"""A vision-language model that is taught labels: what moves, how it resumes, and that a teacher loads it."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import CheckpointError, ClipError, RequestError
from cache_schema.vocabulary.latent_actions import code_labels
from pipeline.bench2drive.source import Bench2Drive
from pipeline.teachers.latent_action_vlm.extractor import latent_actions
from pipeline.teachers.latent_action_vlm.making.add_codes import add_codes
from pipeline.teachers.latent_action_vlm.making.merged_model import as_file
from pipeline.teachers.latent_action_vlm.making.tune_vlm import tune_vlm, tuning_config, tuning_preset
from pipeline.teachers.latent_action_vlm.presets import LATENTVLA_TINY
from pipeline.teachers.latent_action_vlm.prompt import EgoState
from tests.pipeline.teachers.latent_action_vlm import folders
from tests.pipeline.teachers.latent_action_vlm.making.datasets import write
from tests.pipeline.teachers.latent_action_vlm.making.killed import train_with_kills
from tests.pipeline.teachers.latent_action_vlm.making.tuning_run import FEW, train

EMBEDDING = "model.language_model.embed_tokens.weight"


@pytest.fixture(scope="module")
def labelled(driven, actions, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("labelled") / "labelled.zarr", driven)
    add_codes(path, Bench2Drive(driven), actions)
    return path


@pytest.fixture(scope="module")
def tuned(labelled, driven, tmp_path_factory):
    return train(labelled, driven, tmp_path_factory.mktemp("tuned") / "run")


def test_killed_at_any_step_a_run_ends_with_the_same_bits(tuned, labelled, driven, tmp_path):
    train_with_kills("tuning_run", [labelled, driven, tmp_path / "run"], [1, 3, 2])
    for file in sorted(tuned.folder.iterdir()):
        assert (tmp_path / "run" / "model" / file.name).read_bytes() == file.read_bytes(), file.name


def test_only_the_language_model_and_the_rows_of_codes_move(tuned):
    before = dict(LATENTVLA_TINY.load(None, device="cpu").model.named_parameters())
    after = load_file(tuned.folder / "model.safetensors")
    assert after.keys() == before.keys()
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    linear = {name for name in before if ".layers." in name and name.endswith("_proj.weight")}
    assert moved == linear | {EMBEDDING}
    rows = (after[EMBEDDING] != before[EMBEDDING]).any(1)
    assert torch.nonzero(rows).flatten().tolist() == [*LATENTVLA_TINY.options.code_ids]


def test_the_teacher_loads_the_folder_and_finds_labels_as_likely(tuned, labelled, driven):
    """By another way than training: one code after the other, through a cache."""
    teacher = LATENTVLA_TINY.load(tuned.folder, device="cpu")
    dataset, nll = LatentDataset.open(labelled), []
    for clip in Bench2Drive(driven).select("val").clips:
        labels, opened = dataset.read(clip.name, "code_labels"), clip.open()
        for frame in np.flatnonzero(labels[:, 0] >= 0):
            images, prompts = teacher.collate([teacher.prepare(opened.sample(frame))])
            given = torch.from_numpy(labels[frame][None].astype(np.int64))
            with torch.no_grad():
                told = latent_actions(
                    teacher.model, images, prompts, teacher.options.code_ids, 12, given=given
                )
            among = told.code_logits.log_softmax(-1).gather(-1, given[..., None])[..., 0]
            nll.append(-(among + told.code_mass.log())[0])
    found = torch.stack(nll)
    assert len(found) == tuned.checks.samples == 3
    assert found.mean().item() == pytest.approx(tuned.checks.nll, abs=1e-4)
    assert found[:, ::4].mean().item() == pytest.approx(tuned.checks.nll_first, abs=1e-4)


def test_codes_become_likelier(tuned, labelled, driven, tmp_path):
    options = FEW | {"steps": "1", "learning_rate": "1e-12"}
    before = tune_vlm(
        tmp_path / "run", labelled, Bench2Drive(driven), LATENTVLA_TINY, None, tuning_config(options)
    )
    assert tuned.checks.nll < before.checks.nll - 1


def test_it_goes_on_from_a_folder_and_keeps_its_tokenizer(labelled, driven, tmp_path):
    start = folders.write_folder(tmp_path / "start", folders.weights(), files=2)
    preset = tuning_preset("latentvla-tiny", {"first_code": str(folders.FIRST_CODE)})
    config = tuning_config(FEW | {"precision": "bf16"})
    folder = tune_vlm(tmp_path / "run", labelled, Bench2Drive(driven), preset, start, config).folder
    assert {file.name for file in folder.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert (folder / "tokenizer.json").read_bytes() == (start / "tokenizer.json").read_bytes()
    weights = load_file(folder / "model.safetensors")
    assert all(weight.dtype == torch.bfloat16 for weight in weights.values())
    moved = (weights[EMBEDDING] != folders.weights()[EMBEDDING].bfloat16()).any(1)
    assert torch.nonzero(moved).flatten().tolist() == [*preset.options.code_ids]
    preset.load(folder, device="cpu")


def test_a_file_of_the_byte_tokenizer_encodes_as_it(tuned):
    random, read = (LATENTVLA_TINY.load(weights, device="cpu").prompt for weights in (None, tuned.folder))
    assert as_file(random.tokenizer) == (tuned.folder / "tokenizer.json").read_text()
    for command in range(6):
        state = EgoState(command, speed=12.3, acceleration=-0.4, yaw_rate=0.1)
        assert random.ids(state) == read.ids(state)


def test_raw_clips_that_are_missing_or_too_short(labelled, driven, brief, tmp_path):
    with pytest.raises(ClipError, match="has no frame 32"):
        train(labelled, brief, tmp_path / "run")
    root = tmp_path / "data"
    shutil.copytree(driven, root)
    shutil.rmtree(sorted((root / "v1").iterdir())[0])
    with pytest.raises(ClipError, match="is not in synthetic"):
        train(labelled, root, tmp_path / "run")


def test_what_cannot_be_tuned(labelled, tuned, driven, clips_root, actions, tmp_path):
    source, config = Bench2Drive(driven), tuning_config(FEW)
    bare = write(tmp_path / "bare.zarr", driven)
    with pytest.raises(RequestError, match="code_labels"):
        tune_vlm(tmp_path / "run", bare, source, LATENTVLA_TINY, None, config)
    short = write(tmp_path / "short.zarr", clips_root)
    add_codes(short, Bench2Drive(clips_root), actions)
    with pytest.raises(RequestError, match=r"no frame of the split 'train' of .* has labels"):
        tune_vlm(tmp_path / "run", short, Bench2Drive(clips_root), LATENTVLA_TINY, None, config)
    for value in (-2, 16):
        wrong = write(tmp_path / f"{value}.zarr", driven, target=code_labels(12), value=value)
        with pytest.raises(RequestError, match=rf"labels of 12 codes from {value} to {value}"):
            tune_vlm(tmp_path / "run", wrong, source, LATENTVLA_TINY, None, config)
    ten = tuning_preset("latentvla-tiny", {"positions": "10"})
    with pytest.raises(RequestError, match="has labels of 12 codes"):
        tune_vlm(tmp_path / "run", labelled, source, ten, None, config)
    with pytest.raises(CheckpointError, match=r"is another one: recipe.rank 4 there, 8 now"):
        tune_vlm(
            tuned.folder.parent, labelled, source, LATENTVLA_TINY, None, tuning_config(FEW | {"rank": "8"})
        )
    with pytest.raises(RequestError, match="orion-tiny does not tell latent actions"):
        tuning_preset("orion-tiny", {})
