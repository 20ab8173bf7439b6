import json
import os
import shutil

import pytest
import torch

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import CheckpointError, DatasetError, IdentityError, RequestError
from cache_schema.progress import Progress
from cache_schema.storage.locks import hold
from cache_schema.vocabulary.orion import PLANNER_PARTS
from student.orion_lite.planner import Planner, PlannerConfig
from student.orion_lite.policies import teacher_planner
from student.orion_lite.published import import_student
from student.runs import checkpoint
from student.runs.evaluate import evaluate
from student.runs.export import export
from student.runs.log import read_log
from student.runs.presets import changed, preset
from student.training.deferred_metrics import DivergenceError
from student.training.train import train
from tests.forked import run_forked
from tests.student.recipes import SIZES, with_losses


def weights_of(run):
    return checkpoint.read_checkpoint(run)[1]


def epochs_of(run):
    return [line for line in read_log(run) if line["kind"] == "epoch"]


def test_training_lowers_the_loss_and_logs_every_term(dataset_path, config, tmp_path):
    result = train(dataset_path, tmp_path, changed(config, {"epochs": 12}))
    assert result == (12, 48)  # 31 frames, batches of 8: four steps an epoch
    epochs = epochs_of(tmp_path)
    terms = {"mimic", "regression", "boundary", "collision", "latent", "total"}
    assert all(line["train"].keys() == line["val"].keys() == terms for line in epochs)
    for name in ("mimic", "regression", "total"):
        assert epochs[-1]["train"][name] < 0.8 * epochs[0]["train"][name]
    first = epochs[0]["train"]
    assert first["total"] == pytest.approx(sum(first[name] for name in terms - {"total"}), rel=1e-6)
    steps = [line["step"] for line in read_log(tmp_path) if line["kind"] == "step"]
    assert steps == list(range(2, 49, 2))


def test_equal_seeds_give_equal_weights_and_others_do_not(dataset_path, config, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(dataset_path, tmp_path / name, changed(config, {"seed": seed}))
    a, b, c = (weights_of(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["planning_query"], c["planning_query"])


def test_a_resumed_run_equals_an_uninterrupted_one(dataset_path, config, tmp_path):
    longer = changed(config, {"epochs": 3})
    train(dataset_path, tmp_path / "whole", longer)
    train(dataset_path, tmp_path / "parts", config)
    with (tmp_path / "parts/log.jsonl").open("a") as log:  # what a kill in the third epoch leaves
        log.write(json.dumps({"kind": "step", "epoch": 3, "step": 10, "train": {}}) + "\n")
        log.write('{"kind": "st')
    (tmp_path / "parts/checkpoints/.partial").mkdir()
    assert train(dataset_path, tmp_path / "parts", longer) == (3, 12)
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "parts")


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_validation_plans_without_dropout_noise_or_ground_truth_by_the_weights_that_are_evaluated(
    ema_decay, write, config, tmp_path
):
    torch.manual_seed(0)
    planner = Planner(PlannerConfig(token_width=32, latent=4)).state_dict()
    planner["future_distribution.last_conv.1.bias"] += 4.0  # so that the ground truth would make a difference
    path = write(tmp_path / "data.zarr", planner=planner)
    train(path, tmp_path / "run", changed(config, {"ema_decay": ema_decay}))
    dataset = LatentDataset.open(path)
    student = config.make_system().build(dataset)
    student.load_state_dict(weights_of(tmp_path / "run"))

    def stored(name):
        return torch.from_numpy(dataset.read("clip-c", name))

    with torch.no_grad():
        predicted = student.eval()(stored("scene_queries").float(), stored("ego_token").float())
    mimic = (predicted.planning_token - stored("planning_token").float()).abs().mean()
    followed = (predicted.offsets[:, 3] - stored("ego_trajectory")).abs() * stored("ego_trajectory_mask")[
        ..., None
    ]
    val = epochs_of(tmp_path / "run")[-1]["val"]
    assert val["mimic"] == pytest.approx(mimic.item(), rel=1e-5)
    assert val["regression"] == pytest.approx(3 * followed.mean().item() / 6, rel=1e-5)


def test_two_checkpoints_are_kept_and_a_finished_run_is_left_alone(dataset_path, config, tmp_path):
    train(dataset_path, tmp_path, changed(config, {"checkpoint_every": 3}))
    folders = [folder.name for folder in (tmp_path / "checkpoints").iterdir()]
    assert sorted(folders) == ["step-00000006", "step-00000008"]
    before = (tmp_path / "log.jsonl").read_bytes()
    assert train(dataset_path, tmp_path, config) == (2, 8)
    assert (tmp_path / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o077, 0o600)])
def test_all_that_a_run_leaves_has_the_rights_that_the_umask_leaves(
    umask, rights, dataset_path, config, tmp_path
):
    before = os.umask(umask)
    try:
        train(dataset_path, tmp_path / "run", changed(config, {"epochs": 1, "ema_decay": 0.9}))
        evaluate(tmp_path / "run", dataset_path)
        export(tmp_path / "run", tmp_path / "run/student.safetensors")
        import_student(tmp_path / "run/student.safetensors", dataset_path, tmp_path / "run/again", heads=2)
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 12
    assert {path.name for path in files if path.stat().st_mode & 0o777 != rights} == set()


def test_the_planner_starts_as_the_teachers_and_is_trained(dataset_path, config, tmp_path):
    teacher = teacher_planner(LatentDataset.open(dataset_path))
    assert len(teacher) == 44
    crawling = changed(config, {"learning_rate": 1e-12, "weight_decay": 0.0, "epochs": 1})
    train(dataset_path, tmp_path / "crawling", crawling)
    weights = weights_of(tmp_path / "crawling")
    for name, value in teacher.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-9)
    train(dataset_path, tmp_path / "walking", config)
    walked = weights_of(tmp_path / "walking")
    for part in PLANNER_PARTS:
        assert any(not torch.equal(walked[name], teacher[name]) for name in teacher if name.startswith(part))


def test_a_planner_that_lacks_a_tensor_is_refused(write, config, tmp_path):
    planner = Planner(PlannerConfig(token_width=32, latent=4)).state_dict()
    del planner["predict_model.gru.bias_hh_l3"]
    path = write(tmp_path / "lacking.zarr", planner=planner)
    with pytest.raises(CheckpointError, match=r"missing: predict_model\.gru\.bias_hh_l3"):
        train(path, tmp_path / "run", config)


def test_a_missing_feature_is_named_before_anything_is_written(write, config, tmp_path):
    path = write(tmp_path / "poor.zarr", without=("lane_logits", "agent_xy"))
    with pytest.raises(RequestError, match="no feature agent_xy, lane_logits"):
        train(path, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    train(path, tmp_path / "run", with_losses(config, {"mimic": {}, "latent": {}}))


def test_a_dataset_without_training_clips_is_refused_and_one_without_validation_is_not(
    write, config, tmp_path
):
    path = write(tmp_path / "val.zarr", clips={"only": ("val", 8)})
    with pytest.raises(RequestError, match="no committed clip of the split 'train'"):
        train(path, tmp_path / "run", config)
    path = write(tmp_path / "train.zarr", clips={"only": ("train", 8)})
    train(path, tmp_path / "run", config)
    assert [line["val"] for line in epochs_of(tmp_path / "run")] == [None, None]


def test_resuming_with_another_configuration_or_dataset_is_refused(write, dataset_path, config, tmp_path):
    run = tmp_path / "run"
    train(dataset_path, run, config)
    with pytest.raises(CheckpointError, match=r"learning_rate: 0\.001 there, 0\.1 now"):
        train(dataset_path, run, changed(config, {"learning_rate": 0.1}))
    other = write(tmp_path / "other.zarr", weights="random:7")
    with pytest.raises(IdentityError, match=r"random:0.* there, .*random:7.* now"):
        train(other, run, config)


def test_a_run_may_resume_for_more_epochs_and_log_more_often(dataset_path, config, tmp_path):
    train(dataset_path, tmp_path, config)
    more = changed(config, {"epochs": 3, "log_every": 1})
    assert train(dataset_path, tmp_path, more) == (3, 12)
    steps = [line["step"] for line in read_log(tmp_path) if line["kind"] == "step"]
    assert steps == [2, 4, 6, 8, 9, 10, 11, 12]


def test_a_loss_that_is_not_finite_stops_and_names_the_samples(write, dataset_path, config, tmp_path):
    run = tmp_path / "run"
    train(dataset_path, run, config)
    wild = with_losses(config, {"mimic": {"weight": float("inf")}})
    with pytest.raises(DivergenceError, match=r"epoch 1, step 1: mimic .* clip-[ab] \d+"):
        train(dataset_path, tmp_path / "wild", wild)
    assert checkpoint.latest(tmp_path / "wild") is None


def test_weights_that_a_last_step_has_broken_are_not_kept(dataset_path, config, tmp_path):
    wild = changed(config, {"epochs": 1, "batch_size": 64, "learning_rate": 1e300})
    with pytest.raises(DivergenceError, match=r"step 1: \d+ weights are not finite"):
        train(dataset_path, tmp_path, wild, trackers=())
    assert checkpoint.latest(tmp_path) is None


def test_a_disk_that_refuses_leaves_the_checkpoint_before(dataset_path, config, tmp_path):
    train(dataset_path, tmp_path, config)
    longer = changed(config, {"epochs": 3})
    weights = tmp_path / "checkpoints/step-00000008/weights.safetensors"
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from student.runs.config import RunConfig\n"
        "from student.training.train import train\n"
        "data, run, config, limit = sys.argv[1:]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))\n"
        "train(Path(data), Path(run), RunConfig.model_validate_json(config))"
    )
    given = (dataset_path, tmp_path, longer.model_dump_json(), str(weights.stat().st_size - 1))
    refused = run_forked(code, *given)
    assert refused.returncode != 0
    assert "CheckpointError: the checkpoint of step 12 cannot be written" in refused.stderr
    assert "File too large" in refused.stderr
    folders = [folder.name for folder in (tmp_path / "checkpoints").iterdir()]
    assert sorted(folders) == ["step-00000004", "step-00000008"]
    assert train(dataset_path, tmp_path, longer).epoch == 3


def test_two_runs_never_share_a_folder(dataset_path, config, tmp_path):
    train(dataset_path, tmp_path, config)
    longer = changed(config, {"epochs": 3})
    before = (tmp_path / "log.jsonl").read_bytes()
    with hold(tmp_path), pytest.raises(DatasetError, match="is being written by another run"):
        train(dataset_path, tmp_path, longer)
    assert (tmp_path / "log.jsonl").read_bytes() == before
    assert train(dataset_path, tmp_path, longer).epoch == 3


def remove(run):
    shutil.rmtree(run)


def move(run):
    run.rename(run.with_name("moved"))


def replace(run):
    shutil.rmtree(run)
    with hold(run.mkdir() or run):
        (run / "log.jsonl").write_text("of another run")


@pytest.mark.parametrize("meddle", [remove, move, replace])
def test_a_run_whose_folder_is_taken_away_ends_and_writes_no_more(meddle, dataset_path, config, tmp_path):
    class Meddler(Progress):
        def message(self, text):
            meddle(tmp_path / "run")

    with pytest.raises(DatasetError, match="was deleted, moved or replaced"):
        train(dataset_path, tmp_path / "run", config, trackers=(), progress=Meddler())
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.glob("run/*")} <= {
        "run/.lock",
        "run/log.jsonl",
    }
    if meddle is replace:
        assert (tmp_path / "run/log.jsonl").read_text() == "of another run"


@pytest.mark.parametrize("inside", ["", "run"])
def test_a_file_in_the_way_of_the_runs_folder_is_an_error(inside, dataset_path, config, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RequestError, match="cannot be the folder of a run"):
        train(dataset_path, tmp_path / "file" / inside, config)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "where", ["d.zarr", "d.zarr/run", "d.zarr/clips/clip-a/run", "link", "", "d.zarr/../"]
)
def test_a_run_and_a_dataset_are_never_in_one_another(where, dataset_path, config, tmp_path):
    path = shutil.copytree(dataset_path, tmp_path / "d.zarr")
    (tmp_path / "link").symlink_to(path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    with pytest.raises(RequestError, match="is inside"):
        train(path, tmp_path / where, config, trackers=())
    published = tmp_path / "student.safetensors"
    with pytest.raises(RequestError, match="is inside"):
        import_student(published, path, tmp_path / where, heads=2)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_a_run_that_began_around_its_dataset_goes_on(dataset_path, config, tmp_path):
    shutil.copytree(dataset_path, tmp_path / "run/d.zarr")
    train(dataset_path, tmp_path / "run", changed(config, {"epochs": 1}), trackers=())
    assert train(tmp_path / "run/d.zarr", tmp_path / "run", config, trackers=()) == (2, 8)


def test_a_run_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoint.read_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["orion-lite", "orion-lite-plus", "orion-lite-trajectory"])
def test_the_released_presets_train_at_tiny_size(name, dataset_path, tmp_path):
    recipe = preset(name, {**SIZES, "epochs": 2, "batch_size": 8, "learning_rate": 1e-3})
    train(dataset_path, tmp_path, recipe, trackers=())
    first, last = epochs_of(tmp_path)
    assert set(last["val"]) == {*recipe.losses, "total"}
    assert last["val"]["total"] < first["val"]["total"]
    averaged = (checkpoint.latest(tmp_path) / "average.safetensors").exists()
    assert averaged is (name == "orion-lite-plus")
