"""A source, a teacher and a system that are not part of the product, from texts to an evaluated student."""

from pathlib import Path

from typer.testing import CliRunner

from cache_schema import LatentDataset
from cli import app

SOURCE, TEACHER = "tests.toy.source:Texts", "tests.toy.teacher:TOY"
PRESET, SYSTEM = "tests.toy.system:TOY", "tests.toy.system:Toy"


def teachonce(*command: object) -> str:
    done = CliRunner().invoke(app, list(map(str, command)))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_from_texts_to_a_student_of_two_joined_datasets(tmp_path: Path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for number, line in enumerate(("an apple", "a banana", "the cherry", "one damson")):
        (texts / f"{number}.txt").write_text(f"{line}\nand {line} again\n\nsome more lines\n")
    whole, inputs, targets = (tmp_path / f"{name}.zarr" for name in ("whole", "inputs", "targets"))
    assert "4 clips and 16 frames" in teachonce(
        "extract", whole, "--data", texts, "--source", SOURCE, "--teacher", TEACHER
    )
    teachonce("verify", whole)
    # As two teachers would: one dataset with what the student reads, another with what it imitates.
    teachonce("pull", whole, inputs, "--features", "letters,line_number")
    teachonce("pull", whole, targets, "--features", "length,vowels,line_number")
    assert LatentDataset.open(inputs).manifest.feature("length") is None

    options = ("--preset", PRESET, "--set", "student.noise=0", "--tracker", "none")
    trained = teachonce("train", inputs, "--with", targets, "--run", tmp_path / "joined", *options)
    assert "2 epochs, 6 steps" in trained
    teachonce("train", whole, "--run", tmp_path / "alone", *options)
    weights = [
        next((tmp_path / run / "checkpoints").glob("step-00000006")) / "weights.safetensors"
        for run in ("joined", "alone")
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    measured = teachonce("evaluate", tmp_path / "joined", inputs, "--with", targets, "--system", SYSTEM)
    assert "val, after 2 epochs" in measured
    exported = ("export", tmp_path / "alone", tmp_path / "toy.json", "--dataset", whole, "--system", SYSTEM)
    assert "4 tensors" in teachonce(*exported)
