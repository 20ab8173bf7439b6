"""A second system, on other inputs and outputs, through the ordinary commands by dotted names."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import CheckpointError, IdentityError, RequestError
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import CodeIdentity, DataIdentity, Manifest, TeacherIdentity
from cli import app
from student.runs import checkpoint
from student.runs.evaluate import evaluate
from student.runs.log import read_log
from student.runs.presets import changed, preset
from student.runs.provenance import TrainedOn
from student.step import StepContext
from student.training.gradients import SumOfLosses, average_gradients, separate_gradients
from student.training.train import train
from tests.student.ends import assert_same_end
from tests.student.killed import train_with_kills
from tests.student.pairs import train_in_pairs
from tests.toy.system import TOY, Projection, Toy

SYSTEM = "tests.toy.system:Toy"
TEXTS = {
    "fox": ("train", ["the quick brown fox", "jumps", "over the", "lazy dog", "aeiou"]),
    "lines": ("train", ["one", "two words", "three words more", "", "x", "yes", "no"]),
    "held": ("val", ["another line", "and one", "more"]),
}
EVERYTHING = changed(
    TOY,
    {"epochs": 3, "checkpoint_every": 2, "ema_decay": 0.9, "schedule": "cosine", "warmup_steps": 2},
)


def features_of(line):
    codes = [ord(letter) / 128 for letter in line[:8]]
    return {
        "letters": codes + [0.0] * (8 - len(codes)),
        "length": len(line),
        "vowels": [line.count(vowel) for vowel in "aeiou"],
    }


FEATURES = (
    FeatureSpec(name="letters", shape=(8,), axes=("letter",), dtype="float32", role="input"),
    FeatureSpec(name="length", shape=(), axes=(), dtype="float32", role="target"),
    FeatureSpec(name="vowels", shape=(5,), axes=("vowel",), dtype="float32", role="target"),
)


def write_texts(path, features=FEATURES, *, teacher="toy"):
    """Write a dataset of lines of text, by a teacher that counts letters."""
    manifest = Manifest(
        features=features,
        teacher=TeacherIdentity(name=teacher, weights="none", precision="fp32"),
        data=DataIdentity(name="texts", licence="CC0-1.0", frame_rate_hz=1.0),
        code=CodeIdentity(teachonce="0", libraries={}),
    )
    with DatasetWriter(path, manifest, {}) as writer:
        for name, (split, lines) in TEXTS.items():
            clip = writer.clip(ClipInfo(name=name, frames=len(lines), split=split))
            rows = [features_of(line) for line in lines]
            clip.append({spec.name: np.array([row[spec.name] for row in rows]) for spec in features})
            clip.commit(wall_s=1.0)
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Return a dataset of lines of text."""
    return write_texts(tmp_path_factory.mktemp("texts") / "texts.zarr")


@pytest.fixture(scope="module")
def run(texts, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "toy"
    train(texts, run, preset("tests.toy.system:TOY"), trackers=())
    return run


def teachonce(*command):
    return CliRunner().invoke(app, list(map(str, command)))


def test_it_is_trained_evaluated_exported_and_reported_by_the_ordinary_commands(texts, tmp_path):
    run = tmp_path / "run"
    options = ("--preset", "tests.toy.system:TOY", "--set", "student.width=5", "--set", "epochs=4")
    trained = teachonce("train", texts, "--run", run, *options, "--tracker", "none")
    assert trained.exit_code == 0, trained.output
    assert "4 epochs, 12 steps" in trained.stdout  # 12 lines in batches of 4
    first, *_, last = (line for line in read_log(run) if line["kind"] == "epoch")
    assert last["train"].keys() == last["val"].keys() == {"length", "vowels", "total"}
    assert last["train"]["total"] < first["train"]["total"]

    measured = teachonce("evaluate", run, texts, "--system", SYSTEM)
    assert measured.exit_code == 0, measured.output
    assert "val, after 4 epochs" in measured.stdout
    found = json.loads((run / "evaluation.json").read_text())
    guess = load_arrays(run / "evaluation.safetensors")["guess"]
    length = [len(line) for line in TEXTS["held"][1]]
    assert found["length_error"] == pytest.approx(np.abs(guess[:, 0] - length).mean(), rel=1e-5)
    assert (found["kind"], found["split"], found["epoch"]) == ("guesses", "val", 4)

    weights = teachonce("export", run, tmp_path / "toy.safetensors")
    assert weights.exit_code == 0, weights.output
    assert load_file(tmp_path / "toy.safetensors")["0.weight"].shape == (5, 8)
    own = teachonce("export", run, tmp_path / "toy.json", "--dataset", texts, "--system", SYSTEM)
    assert own.exit_code == 0, own.output
    assert "4 tensors, 3 clips" in own.stdout
    exported = json.loads((tmp_path / "toy.json").read_text())
    assert exported["run"]["config"]["student"]["width"] == 5
    folder = teachonce("export", run, tmp_path / "toy", "--dataset", texts, "--system", SYSTEM)
    assert folder.exit_code == 0, folder.output
    assert json.loads((tmp_path / "toy" / "toy.json").read_text()) == exported
    for target, refusal in (
        ("toy", "exists already"),
        ("toy.bin", "writes no file .bin\n  expected: file .safetensors or file .json or folder (no ending)"),
    ):
        refused = teachonce("export", run, tmp_path / target, "--dataset", texts, "--system", SYSTEM)
        assert refused.exit_code == 2
        assert refusal in refused.stderr
    assert "--dataset is missing" in teachonce("export", run, tmp_path / "other").stderr

    shown = teachonce("report", run)
    assert shown.exit_code == 0, shown.output
    page = (run / "report.html").read_text()
    assert "tests.toy.system:TOY, student.width 5, epochs 4" in page
    assert f"<td>{found['length_error']:.4g}</td>" in page
    assert "vowel error.a" in page
    assert "Open-loop" not in page


def test_its_system_is_imported_only_if_the_user_names_it(run, texts, tmp_path):
    for command in (
        ("evaluate", run, texts),
        ("export", run, tmp_path / "toy.json", "--dataset", texts),
    ):
        refused = teachonce(*command)
        assert refused.exit_code == 2
        assert "which is not part of this package" in refused.stderr
        assert f"--system {SYSTEM}" in refused.stderr
    with pytest.raises(RequestError, match="not with 'orion-lite'"):
        evaluate(run, texts, system="orion-lite")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cache_schema.errors import RequestError\n"
        "from student.reporting.report import report\n"
        "from student.runs.evaluate import evaluate\n"
        "run, texts, page = map(Path, sys.argv[1:])\n"
        "report([run], page)\n"
        "try:\n"
        "    evaluate(run, texts)\n"
        "except RequestError as error:\n"
        "    print(error)\n"
        "print([name for name in sys.modules if name.startswith('tests')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, run, texts, tmp_path / "page.html"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "which is not part of this package" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_killed_in_the_middle_it_ends_with_the_same_bits(texts, tmp_path):
    train(texts, tmp_path / "whole", EVERYTHING, trackers=())
    train_with_kills(texts, tmp_path / "parts", EVERYTHING, ["3", "writing", "2", "renamed", "logged"])
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    state = checkpoint.restore(tmp_path / "parts").gradients
    assert state.keys() == {"conflicts"}


def test_two_processes_add_up_to_one(texts, tmp_path):
    """Its rule differentiates terms one by one, so that DDP does not exchange what it finds."""
    sums = changed(TOY, {"student.projection": False, "batch_size": 5})  # 12 lines: 5, 5 and 2
    printed, errors = train_in_pairs(texts, tmp_path, {"pair": sums})
    assert {"pair 0 0", "pair 1 0"} <= set(printed), errors
    train(texts, tmp_path / "one", sums, trackers=())
    one, two = (checkpoint.restore(tmp_path / name) for name in ("one", "pair"))
    assert one.checkpoint.step == two.checkpoint.step == 6
    for name, value in one.moments.items():
        torch.testing.assert_close(two.moments[name], value, rtol=1e-4, atol=1e-6, msg=name)
    for first, second in zip(read_log(tmp_path / "one"), read_log(tmp_path / "pair"), strict=True):
        assert second["train"] == pytest.approx(first["train"], rel=1e-5, abs=1e-6)


def gradient_of(rule, first, second):
    """Return what a rule makes of two terms with these gradients."""
    weight = nn.Parameter(torch.zeros(2))
    losses = {"first": weight @ torch.tensor(first), "second": weight @ torch.tensor(second)}
    context = StepContext(0, 0, samples=1, positions=np.arange(1), device=torch.device("cpu"))
    rule(losses, [weight], lambda loss: 2 * loss, context)
    return weight.grad.tolist()


def test_gradients_that_contradict_each_other_are_projected():
    # Twice (1, 0) and (-1, 1), whose product is -1: (1/2, 1/2) and (0, 1) are left.
    rule = Projection(active=True)
    assert gradient_of(rule, (1.0, 0.0), (-1.0, 1.0)) == [1.0, 3.0]
    assert rule.state_dict()["conflicts"] == 2
    assert gradient_of(rule, (1.0, 0.0), (1.0, 1.0)) == [4.0, 2.0]
    assert rule.state_dict()["conflicts"] == 2
    for plain in (Projection(active=False), SumOfLosses()):
        assert gradient_of(plain, (1.0, 0.0), (-1.0, 1.0)) == [0.0, 2.0]


def test_terms_that_do_not_reach_a_weight_leave_it_without_a_gradient():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))
    losses = {"there": used.sum(), "absent": torch.zeros(())}
    found = separate_gradients(losses, [used, unused], lambda loss: 2 * loss)
    assert found["there"][0].tolist() == [2.0, 2.0]
    assert found["there"][1] is None
    assert found["absent"] == [None, None]
    used.grad = found["there"][0]
    average_gradients([used, unused], lambda values: values)
    assert (used.grad.tolist(), unused.grad) == ([2.0, 2.0], None)


def test_a_rule_for_an_earlier_version_is_refused_before_anything_is_trained(texts, tmp_path, monkeypatch):
    monkeypatch.delattr(Projection, "end_step")
    with pytest.raises(RequestError, match="the gradient rule has no 'end_step': Projection"):
        train(texts, tmp_path / "run", TOY, trackers=())
    assert not (tmp_path / "run").exists()


def test_a_rule_of_ones_own_that_adds_trains_as_the_sum_does(texts, tmp_path, monkeypatch):
    sums = changed(TOY, {"student.projection": False})
    train(texts, tmp_path / "rule", sums, trackers=())
    monkeypatch.setattr("tests.toy.system.Projection", lambda *, active: SumOfLosses())
    assert isinstance(Toy({}, {}).gradients, SumOfLosses)
    train(texts, tmp_path / "sum", sums, trackers=())
    weights = [checkpoint.read_checkpoint(tmp_path / name)[1] for name in ("rule", "sum")]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-5, atol=1e-6)


def test_resuming_with_another_configuration_names_the_fields(texts, run):
    other = changed(TOY, {"student.noise": 0.2, "losses.vowels": "off"})
    with pytest.raises(CheckpointError) as refused:
        train(texts, run, other, trackers=())
    assert "student.noise: 0.1 there, 0.2 now" in refused.value.happened
    assert "losses.vowels.weight: 3.0 there, None now" in refused.value.happened


def test_a_sweep_shows_its_numbers(texts, tmp_path):
    options = ("--set", "epochs=1", "--tracker", "none")
    swept = teachonce("sweep", texts, "tests.toy.system:TOY", "--runs", tmp_path / "runs", *options)
    assert swept.exit_code == 0, swept.output
    table = json.loads((tmp_path / "runs/sweep.json").read_text())
    (outcome,) = table["outcomes"]
    found = json.loads((tmp_path / "runs" / outcome["run"] / "evaluation.json").read_text())
    assert outcome["numbers"]["vowel_error.a"] == found["vowel_error"]["a"]
    assert f"{found['length_error']:.3f}" in swept.stdout
    assert table["others"] == {}


def test_two_datasets_side_by_side_train_as_one(texts, run, tmp_path):
    letters = write_texts(tmp_path / "letters.zarr", FEATURES[:1], teacher="reader")
    counts = write_texts(tmp_path / "counts.zarr", FEATURES[1:], teacher="counter")
    joined = tmp_path / "joined"
    options = ("--preset", "tests.toy.system:TOY", "--tracker", "none")
    alone = teachonce("train", letters, "--run", tmp_path / "alone", *options)
    assert alone.exit_code == 2
    assert "no feature length, vowels" in alone.stderr
    trained = teachonce("train", letters, "--with", counts, "--run", joined, *options)
    assert trained.exit_code == 0, trained.output
    weights, expected = (checkpoint.read_checkpoint(one)[1] for one in (joined, run))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    trained_on = checkpoint.read_checkpoint(joined)[0].trained_on
    assert [teacher.name for teacher in trained_on.teachers] == ["reader", "counter"]
    assert trained_on.joined == (TrainedOn.of(LatentDataset.open(counts)),)

    system = ("--system", SYSTEM)
    refused = teachonce("evaluate", joined, letters, *system)
    assert refused.exit_code == 2
    assert "learned from reader (none) and counter (none)" in refused.stderr
    measured = teachonce("evaluate", joined, letters, "--with", counts, *system)
    assert measured.exit_code == 0, measured.output
    own = ("--dataset", letters, "--with", counts, *system)
    assert teachonce("export", joined, tmp_path / "toy.json", *own).exit_code == 0
    assert teachonce("report", joined).exit_code == 0
    page = (joined / "report.html").read_text()
    assert "reader, fp32" in page
    assert "counter, fp32" in page
    with pytest.raises(IdentityError, match="trained on another dataset"):
        train(texts, joined, TOY, trackers=())
