"""Another source and another teacher, which drive nothing, through the ordinary commands."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import RequestError
from cache_schema.format.features import FeatureSpec
from cache_schema.integrity.verify import verify
from cli import app
from pipeline.extraction.estimate import plan
from pipeline.extraction.log import log_path, summarise
from pipeline.extraction.run import extract
from tests.forked import Forked
from tests.toy.source import Texts
from tests.toy.teacher import ToyTeacher

TEXTS = {
    "apple": ["an apple", "a day", "keeps the doctor away"],
    "banana": ["banana"],
    "cherry": ["", "cherry pie", "oooo", "x"],
    "damson": ["last", "but not least"],
}
NAMES = ("--source", "tests.toy.source:Texts", "--teacher", "tests.toy.teacher:TOY", "--slots", "2")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    root = tmp_path / "texts"
    root.mkdir()
    for name, lines in TEXTS.items():
        (root / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    return root


@pytest.fixture
def undisturbed(texts: Path, tmp_path: Path) -> Path:
    path = tmp_path / "undisturbed.zarr"
    report = extract(Texts(texts).select(), ToyTeacher(), path, slots=2)
    assert (len(report.committed), report.frames) == (4, 10)
    return path


def run(*arguments: object):
    return CliRunner().invoke(app, list(map(str, arguments)))


def start(path: Path, root: Path, *options: object, **trouble: object) -> Forked:
    names = ("--source", "tests.toy.source:Texts", "--teacher", "tests.toy.troubled:TROUBLED", "--slots", "2")
    arguments = ("extract", path, "--data", root, *names, *options)
    return Forked("-m", "cli", *arguments, env={"TROUBLE": json.dumps(trouble)})


def wait_for_partial_clips(path: Path, process: Forked) -> None:
    while not any((path / ".partial").glob("*/*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def digests(path: Path) -> dict[str, str]:
    dataset = LatentDataset.open(path)
    return {clip: dataset.entry(clip).digest for clip in dataset.clips}


def test_what_is_computed_by_hand_is_what_is_read(texts, undisturbed):
    assert verify(undisturbed).problems == ()
    dataset = LatentDataset.open(undisturbed)
    assert dataset.manifest.teacher.name == "toy"
    assert [spec.name for spec in dataset.manifest.features] == ["letters", "length", "vowels", "line_number"]
    assert {name: dataset.clip(name).split for name in dataset.clips} == {
        "apple": "train",
        "banana": "train",
        "cherry": "train",
        "damson": "val",
    }
    assert dataset.read("apple", "length").tolist() == [8, 5, 21]
    assert dataset.read("apple", "vowels").tolist() == [[2, 1, 0, 0, 0], [2, 0, 0, 0, 0], [2, 3, 0, 2, 0]]
    assert dataset.read("cherry", "vowels")[2].tolist() == [0, 0, 0, 4, 0]
    assert dataset.read("cherry", "line_number").tolist() == [0, 1, 2, 3]
    letters = dataset.read("banana", "letters")[0]
    np.testing.assert_array_equal(letters * 128, [98, 97, 110, 97, 110, 97, 0, 0])
    assert dataset.asset("alphabet")["vowels"].tolist() == [97, 101, 105, 111, 117]


def test_plan_and_extract_by_dotted_names(texts, undisturbed, tmp_path):
    path = tmp_path / "x.zarr"
    planned = run("plan", path, "--data", texts, *NAMES, "--measure")
    assert planned.exit_code == 0, planned.output
    assert "4 clips, 10 frames" in planned.stdout
    done = run("extract", path, "--data", texts, *NAMES)
    assert done.exit_code == 0, done.output
    assert "4 clips and 10 frames" in done.stdout
    assert digests(path) == digests(undisturbed)
    again = run("extract", path, "--data", texts, *NAMES)
    assert "4 clips were already there" in again.stdout
    compared = run("compare", undisturbed, path)
    assert "10 frames of the 4 clips" in compared.stdout


def test_killed_and_resumed(texts, undisturbed, tmp_path):
    path = tmp_path / "killed.zarr"
    process = start(path, texts, delay_s=0.1)
    while not any((path / "ledger").glob("*.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 0 < len(digests(path)) < 4
    process = start(path, texts)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert digests(path) == digests(undisturbed)
    assert verify(path).problems == ()


def test_killed_with_two_workers(texts, undisturbed, tmp_path):
    path = tmp_path / "main.zarr"
    process = start(path, texts, "--workers", 2, delay_s=0.2)
    wait_for_partial_clips(path, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    # At once, though the orphaned workers may not have noticed yet.
    assert extract(Texts(texts).select(), ToyTeacher(), path, slots=2).failed == ()
    assert digests(path) == digests(undisturbed)
    assert verify(path).problems == ()


def test_ctrl_c_twice(texts, undisturbed, tmp_path):
    path = tmp_path / "twice.zarr"
    process = start(path, texts, "--workers", 2, delay_s=0.2)
    wait_for_partial_clips(path, process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode in (130, -signal.SIGINT), err
    assert extract(Texts(texts).select(), ToyTeacher(), path, slots=2).failed == ()
    assert digests(path) == digests(undisturbed)
    assert verify(path).problems == ()


def test_a_clip_that_always_kills_its_worker_is_named_and_the_rest_is_done(texts, undisturbed, tmp_path):
    path = tmp_path / "poison.zarr"
    process = start(path, texts, "--workers", 2, poison=len("banana"))
    _, err = process.communicate()
    assert process.returncode == 2, err
    assert "left out banana: every worker that extracts it dies" in err
    expected = digests(undisturbed)
    assert digests(path) == {clip: digest for clip, digest in expected.items() if clip != "banana"}
    assert verify(path).problems == ()
    assert list(summarise(log_path(path)).failures) == ["banana"]
    # Once the cause is gone, another run makes what is missing.
    done = run("extract", path, "--data", texts, *NAMES)
    assert done.exit_code == 0, done.output
    assert "1 clips and 1 frames" in done.stdout
    assert digests(path) == expected
    assert summarise(log_path(path)).failures == {}


@pytest.mark.parametrize("options", [(), ("--workers", 2)], ids=["in this process", "two workers"])
def test_a_gpu_without_enough_memory_names_what_to_change_and_blames_no_clip(
    texts, undisturbed, tmp_path, options
):
    path = tmp_path / "x.zarr"
    process = start(path, texts, *options, too_much=len("cherry pie"))
    _, err = process.communicate()
    assert process.returncode == 2, err
    happened, expected, to_do = [line for line in err.splitlines() if not line.startswith("extract: ")]
    assert "memory does not suffice for 2 slots: CUDA out of memory. Tried to allocate 2.00 GiB" in happened
    assert "room for" in expected
    assert all(option in to_do for option in ("fewer --slots", "--precision", "--quantize"))
    assert summarise(log_path(path)).failures == {}
    assert verify(path).problems == ()
    assert digests(path).items() < digests(undisturbed).items()
    done = run("extract", path, "--data", texts, *NAMES)
    assert done.exit_code == 0, done.output
    assert digests(path) == digests(undisturbed)


@pytest.mark.parametrize("options", [(), ("--workers", 1)], ids=["in this process", "one worker"])
def test_weights_that_do_not_fit_a_gpu(texts, tmp_path, options):
    process = start(tmp_path / "x.zarr", texts, *options, weights_too_large=True)
    _, err = process.communicate()
    assert process.returncode == 2, err
    happened, expected, to_do = [line for line in err.splitlines() if not line.startswith("extract: ")]
    assert "does not suffice for the weights of tests.toy.troubled:TROUBLED: CUDA out of memory" in happened
    assert "room for all weights" in expected
    assert "--precision fp16 or --quantize nf4" in to_do


def test_planning_with_a_gpu_without_enough_memory(texts, tmp_path, monkeypatch):
    monkeypatch.setenv("TROUBLE", json.dumps({"too_much": len("banana")}))
    names = ("--source", "tests.toy.source:Texts", "--teacher", "tests.toy.troubled:TROUBLED")
    refused = run("plan", tmp_path / "x.zarr", "--data", texts, *names, "--slots", "2", "--measure")
    assert refused.exit_code == 2, refused.output
    assert "memory does not suffice for 2 slots" in refused.stderr


def test_workers_take_no_device_of_one_number(texts, tmp_path):
    refused = run(
        "extract", tmp_path / "x.zarr", "--data", texts, *NAMES, "--workers", 2, "--device", "cuda:1"
    )
    assert refused.exit_code == 2, refused.output
    assert "the device 'cuda:1' was asked for with --workers" in refused.stderr


def test_a_sample_that_cannot_be_prepared_leaves_out_its_clip_alone(texts, undisturbed, tmp_path):
    (texts / "banana.txt").write_text("bana\N{REPLACEMENT CHARACTER}\n")
    report = extract(Texts(texts).select(), ToyTeacher(), tmp_path / "x.zarr", slots=2)
    assert [failure.clip for failure in report.failed] == ["banana"]
    expected = digests(undisturbed)
    del expected["banana"]
    assert digests(tmp_path / "x.zarr") == expected


def test_a_teacher_of_another_kind_is_refused_before_it_is_loaded(texts, clips_root, tmp_path):
    path = tmp_path / "x.zarr"
    # ORION would ask for a checkpoint, if it were loaded.
    for command in ("plan", "extract"):
        source = ("--source", "tests.toy.source:Texts")
        refused = run(command, path, "--data", texts, *source, "--teacher", "orion-7b")
        assert refused.exit_code == 2
        assert "the teacher reads 'driving' samples, and the source has 'texts' samples" in refused.stderr
        refused = run(command, path, "--data", clips_root, "--teacher", "tests.toy.teacher:TOY")
        assert refused.exit_code == 2
        assert "reads 'texts' samples, and the source has 'driving' samples" in refused.stderr
    clustered = run("extract", path, "--data", texts, *source, "--workers", 2)
    assert clustered.exit_code == 2
    assert "has 'texts' samples" in clustered.stderr
    with pytest.raises(RequestError, match="has 'texts' samples"):
        extract(Texts(texts).select(), type("Other", (ToyTeacher,), {"kind": "driving"})(), path)
    assert not path.exists()


def test_a_dataset_of_another_source_is_refused(undisturbed, clips_root):
    refused = run("extract", undisturbed, "--data", clips_root)
    assert refused.exit_code == 2
    assert "was made from something else" in refused.stderr


def test_the_size_of_a_ragged_feature_varies(texts, tmp_path):
    class RaggedPreset:
        kind = "texts"
        features = (
            *ToyTeacher.features,
            FeatureSpec.model_construct(
                name="codes", shape=(None,), axes=("letter",), dtype="int32", role="target", encoding="full"
            ),
        )

    console = Console(width=120)
    with console.capture() as captured:
        console.print(plan(tmp_path / "x.zarr", Texts(texts).select(), RaggedPreset()))
    rows = {line.split("│")[1].strip(): line for line in captured.get().splitlines() if line.count("│") > 4}
    assert rows["codes"].count("varies") == 2
    assert "varies" not in rows["letters"]
    assert "60 + varies" in rows["together"]  # 8 + 1 + 5 float32 and an int32


class Old:
    """A teacher of version 0.1 and its preset at once: without what came later."""

    features = ()
    images = identity = None

    def load(self, checkpoint, **options):
        return Lacking()

    def begin(self, slots):
        return None

    def step(self, batch, state):
        return {}, state


class Lacking(Old):
    kind = "texts"


OLD, LACKING = Old(), Lacking()


class OldTexts(Texts):
    kind = property()  # raises AttributeError


class LackingTexts(Texts):
    tags = property()


@pytest.mark.parametrize(
    ("option", "plug_in", "lacks"),
    [
        ("--teacher", "OLD", "'kind'"),
        ("--teacher", "LACKING", "'prepare', 'collate', 'assets'"),
        ("--source", "OldTexts", "'kind'"),
        ("--source", "LackingTexts", "'tags'"),
    ],
)
def test_what_a_plug_in_of_an_earlier_version_lacks_is_told(texts, tmp_path, option, plug_in, lacks):
    options = {"--teacher": "tests.toy.teacher:TOY", "--source": "tests.toy.source:Texts", "--data": texts}
    options[option] = f"tests.pipeline.extraction.test_toy:{plug_in}"
    arguments = [str(part) for pair in options.items() for part in pair]
    done = CliRunner().invoke(app, ["extract", str(tmp_path / "x.zarr"), *arguments])
    assert done.exit_code == 2, done.output
    assert f"has no {lacks}" in done.stderr
    assert "expected:" in done.stderr
    assert "to do:" in done.stderr
    assert not (tmp_path / "x.zarr/zarr.json").exists()
