"""Variables that launchers, job scripts and MPI leave in the environment."""

import json
import os
import socket

import pytest
import torch
from safetensors.torch import load_file

from cache_schema.errors import RequestError
from student.runs import checkpoint
from student.runs.evaluate import evaluate
from student.runs.presets import changed
from student.training.environment import recipe_alone
from student.training.train import train
from tests.student.recipes import small

LEFT_BEHIND = [
    {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
    {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "auto"},
    {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_DOWNCAST_BF16": "true"},
    {"ACCELERATE_MIXED_PRECISION": "fp8", "ACCELERATE_FP8_BACKEND": "TE"},
    {"ACCELERATE_FP8_BACKEND": "none"},
    {"ACCELERATE_DYNAMO_BACKEND": "inductor", "ACCELERATE_DYNAMO_USE_FULLGRAPH": "perhaps"},
    {"ACCELERATE_USE_DEEPSPEED": "true"},
    {"ACCELERATE_USE_FSDP": "true", "FSDP_SHARDING_STRATEGY": "FULL"},
    {"ACCELERATE_USE_MEGATRON_LM": "true"},
    {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_TP_SIZE": "2"},
    {"ACCELERATE_TORCH_DEVICE": "meta"},
    {"ACCELERATE_CPU_AFFINITY": "1", "ACCELERATE_DEBUG_MODE": "true"},
    {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0", "PMI_SIZE": "1"},
    {"LOCAL_RANK": "0"},
    {"LOCAL_RANK": "-1", "RANK": "0", "WORLD_SIZE": "1"},
    {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"},
    {"SLURM_NTASKS": "8", "SLURM_PROCID": "3"},
]
SEVERAL = [
    {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
    {"PMI_SIZE": "2"},
    {"MV2_COMM_WORLD_SIZE": "4"},
    {"WORLD_SIZE": "2"},
    {"RANK": "1"},
    {"LOCAL_RANK": "3"},
    {"RANK": "0", "WORLD_SIZE": "2"},
    {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"},
    {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": ""},
    {"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1"},
    {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "two", "MASTER_ADDR": "h", "MASTER_PORT": "1"},
]
ONE_EPOCH = small(epochs=1)


def name(variables):
    return ",".join(f"{key}={value}" for key, value in variables.items())


def end_of(run):
    return load_file(checkpoint.latest(run) / "weights.safetensors")


@pytest.fixture(scope="module")
def alone(dataset_path, tmp_path_factory):
    """Return the weights of a run in an environment without any of these."""
    run = tmp_path_factory.mktemp("alone")
    train(dataset_path, run, ONE_EPOCH, trackers=())
    return end_of(run)


@pytest.mark.parametrize("variables", LEFT_BEHIND, ids=name)
def test_what_a_launcher_left_behind_changes_no_bit(variables, alone, dataset_path, tmp_path, monkeypatch):
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    before = dict(os.environ)
    train(dataset_path, tmp_path, ONE_EPOCH, trackers=())
    weights = end_of(tmp_path)
    assert all(torch.equal(weights[key], alone[key]) for key in alone)
    assert os.environ == before


@pytest.mark.parametrize("variables", SEVERAL, ids=name)
def test_processes_that_are_not_wholly_described_are_refused(variables, dataset_path, tmp_path, monkeypatch):
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(RequestError, match="this process is one of several") as refused:
        train(dataset_path, tmp_path / "run", ONE_EPOCH, trackers=())
    assert next(iter(variables)) in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_process_of_torchrun_is_joined_whatever_mpi_says(monkeypatch):
    place = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}
    for key, value in (place | {"OMPI_COMM_WORLD_SIZE": "8", "FSDP_VERSION": "2"}).items():
        monkeypatch.setenv(key, value)
    with recipe_alone():
        assert place.items() <= os.environ.items()
        assert not {"OMPI_COMM_WORLD_SIZE", "FSDP_VERSION"} & os.environ.keys()


def test_a_meeting_place_that_is_taken_is_told(dataset_path, tmp_path, monkeypatch):
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    with socket.create_server(("localhost", 0)) as taken:
        for key, value in (place | {"MASTER_PORT": str(taken.getsockname()[1])}).items():
            monkeypatch.setenv(key, value)
        with pytest.raises(RequestError, match="cannot join the others of its run"):
            train(dataset_path, tmp_path / "run", ONE_EPOCH, trackers=())


def test_what_cannot_be_taken_back_is_recorded(dataset_path, tmp_path, monkeypatch):
    seen = {"NVIDIA_TF32_OVERRIDE": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "MKL_CBWR": "AVX2"}
    for key, value in (seen | {"HF_TOKEN": "secret"}).items():
        monkeypatch.setenv(key, value)
    train(dataset_path, tmp_path, ONE_EPOCH, trackers=())
    (start,) = json.loads((tmp_path / "run.json").read_text())["starts"]
    assert seen.items() <= start["environment"].items()
    assert "secret" not in (tmp_path / "run.json").read_text()


def allow_tf32_as_environment_and_cudnn_do():
    torch.set_float32_matmul_precision("high")  # TORCH_ALLOW_TF32_CUBLAS_OVERRIDE
    torch.backends.cudnn.allow_tf32 = True


def precisions():
    """Return how products of float32 are computed: matrices, recurrent layers and convolutions."""
    assert torch.backends.cudnn.allow_tf32 is not None  # which raises where names differ
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn.rnn, torch.backends.cudnn.conv)
    return [part.fp32_precision for part in parts]


def test_fp32_computes_in_fp32_whatever_torch_was_told_before(dataset_path, tmp_path):
    allow_tf32_as_environment_and_cudnn_do()
    train(dataset_path, tmp_path, ONE_EPOCH, trackers=())
    assert precisions() == ["ieee"] * 3
    train(dataset_path, tmp_path / "bf16", changed(ONE_EPOCH, {"precision": "bf16"}), trackers=())
    assert precisions() == ["tf32"] * 3
    evaluate(tmp_path, dataset_path)
    assert precisions() == ["ieee"] * 3
