"""Options of a teacher, through the ordinary commands."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import RequestError
from cli import app
from pipeline.teachers import load_teacher, teacher_preset

SOURCE = ("--source", "tests.toy.source:Texts", "--slots", "2")
OPTIONAL, PLAIN = "tests.toy.optional:OPTIONAL", "tests.toy.teacher:TOY"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    root = tmp_path / "texts"
    root.mkdir()
    (root / "a.txt").write_text("an apple\na day\n")
    (root / "b.txt").write_text("banana\n")
    return root


def run(*arguments: object):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.parametrize("workers", [(), ("--workers", 1)], ids=["here", "on a worker"])
def test_an_option_reaches_the_teacher(workers, texts, tmp_path):
    path = tmp_path / "x.zarr"
    teacher = ("--teacher", OPTIONAL)
    done = run("extract", path, "--data", texts, *SOURCE, *teacher, "--set", "signals=3", *workers)
    assert done.exit_code == 0, done.output
    dataset = LatentDataset.open(path)
    assert dataset.feature("letters").shape == (3,)
    assert dataset.manifest.teacher.architecture == {"signals": 3}
    assert (dataset.read("b", "letters")[0] * 128).tolist() == [98, 97, 110]
    # Another value of the option is another teacher.
    other = run("extract", path, "--data", texts, *SOURCE, *teacher, "--signals", "4")
    assert other.exit_code == 2
    assert "signals" in other.stderr


def test_an_option_is_planned_and_converted_with(texts, tmp_path):
    options = ("--teacher", OPTIONAL, "--signals", "2")
    planned = run("plan", tmp_path / "x.zarr", "--data", texts, *SOURCE, *options, "--measure")
    assert planned.exit_code == 0, planned.output
    letters = next(line.split() for line in planned.stdout.splitlines() if "letters" in line)
    assert "8" in letters  # bytes of two numbers
    converted = run("convert", tmp_path / "Some.pth", tmp_path / "folder", *options)
    assert converted.exit_code == 0, converted.output
    assert (tmp_path / "folder").read_text() == "2 of Some.pth"


@pytest.mark.parametrize("command", ["extract", "plan"])
@pytest.mark.parametrize(
    ("teacher", "options", "messages"),
    [
        (
            PLAIN,
            ("--set", "signals=3"),
            ("toy.teacher:TOY has no options, such as signals", "'configured'", "leave"),
        ),
        (
            PLAIN,
            ("--signals", "a"),
            ("toy.teacher:TOY has no options, such as signals", "'configured'", "leave"),
        ),
        (
            "orion-tiny",
            ("--set", "layout=released"),
            ("orion-tiny has no options", "'configured'", "another"),
        ),
        (OPTIONAL, ("--set", "colour=red"), ("no option colour", "one of signals", "correct the option")),
        (OPTIONAL, ("--set", "signals"), ("--set 'signals' sets nothing", "FIELD=VALUE", "write")),
        (OPTIONAL, ("--set", "=3"), ("--set '=3' sets nothing", "FIELD=VALUE", "write")),
        (
            OPTIONAL,
            ("--set", "signals=3", "--signals", "4"),
            ("'signals' is set twice", "each field once", "write"),
        ),
    ],
)
def test_an_option_that_does_not_fit_is_refused_in_three_parts(
    command, teacher, options, messages, texts, tmp_path
):
    path = tmp_path / "x.zarr"
    refused = run(command, path, "--data", texts, *SOURCE, "--teacher", teacher, *options)
    assert refused.exit_code == 2
    said = " ".join(refused.stderr.split())
    assert all(message in said for message in messages), said
    assert not path.exists()


def test_without_options_a_preset_is_itself():
    assert teacher_preset(OPTIONAL) is teacher_preset(OPTIONAL, {})
    assert teacher_preset(OPTIONAL, {"signals": "1"}).signals == 1
    assert load_teacher(OPTIONAL, None, device="cpu", options={"signals": "5"}).signals == 5
    with pytest.raises(RequestError, match="orion-7b has no options"):
        load_teacher("orion-7b", None, device="cpu", options={"signals": "5"})
