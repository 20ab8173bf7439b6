"""Text that a server, a file name or a dataset holds, through the commands that show it."""

import functools
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cache_schema.dataset.writer import DatasetWriter
from cache_schema.format.ledger import ClipInfo
from cli import app
from tests.cache_schema.conftest import values_of
from tests.cache_schema.servers import serving

TURNED, ESCAPE = "\u202egnp.exe\u2066", "\x1b[2J\x9b31m"


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    shown = done.output
    assert not [sign for sign in shown if not (sign.isprintable() or sign == "\n")], ascii(shown)
    return done.exit_code, shown


@pytest.fixture
def hostile(tmp_path: Path, manifest, assets) -> Path:
    """A dataset whose manifest and clips turn text around."""
    path = tmp_path / "hostile.zarr"
    teacher = manifest.teacher.model_copy(update={"weights": TURNED})
    data = manifest.data.model_copy(update={"name": TURNED, "licence": f"[red]{TURNED}"})
    with DatasetWriter(path, manifest.replace(teacher=teacher, data=data), assets) as writer:
        clip = writer.clip(ClipInfo(name="Clip", frames=3, split="train", tags={"town": TURNED}))
        clip.append(values_of("Clip", 3))
        clip.commit(wall_s=0)
    return path


def test_a_dataset_that_turns_text(hostile: Path, dataset: Path, tmp_path: Path):
    for arguments in (("inspect", hostile, "--clips"), ("inspect", hostile, "--json")):
        code, shown = run(*arguments)
        assert code == 0
        assert "\\u202egnp.exe" in shown
    assert "[red]" in run("inspect", hostile)[1]
    assert run("card", hostile, "--licence", "mit")[0] == 0
    assert run("push", hostile, tmp_path / "there")[0] == 0
    assert run("pull", tmp_path / "there", tmp_path / "out.zarr")[0] == 0
    # Two datasets, and a difference in hostile fields.
    code, shown = run("pull", tmp_path / "there", dataset)
    assert (code, "\\u202egnp.exe" in shown) == (2, True)
    run("compare", hostile, dataset)
    assert run("verify", hostile)[0] == 0


def test_names_of_files_that_steer(dataset: Path, tmp_path: Path):
    name = f"{ESCAPE}{TURNED}[red]"
    for folder in ("", "clips", "ledger", "assets", "clips/Accident_Town03_Route1_Weather0"):
        (dataset / folder / name).touch()
        Path(os.fsdecode(os.fsencode(dataset / folder) + b"/\xff\x1b")).touch()
    (dataset / "README.md").write_text("---\nlicense: mit\n---\n")
    assert run("verify", dataset)[0] == 1
    assert run("push", dataset, tmp_path / "there")[0] == 2
    (tmp_path / name).mkdir()
    assert run("inspect", tmp_path / name)[0] == 2
    there = tmp_path / "other"
    (there / name).mkdir(parents=True)
    (there / name / "x").touch()
    for folder in ("clips", "ledger", "assets", "clips/Accident_Town03_Route1_Weather0"):
        (dataset / folder / name).unlink()
        os.unlink(os.fsencode(dataset / folder) + b"/\xff\x1b")
    (dataset / name).unlink()
    os.unlink(os.fsencode(dataset) + b"/\xff\x1b")
    code, shown = run("push", dataset, there)
    assert (code, "u001b[2J" in shown) == (2, True)


class Speaker(BaseHTTPRequestHandler):
    def __init__(self, body: bytes, *args: object) -> None:
        self.body = body
        super().__init__(*args)  # ty: ignore[invalid-argument-type]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(403, "\x1b[2Jno")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_HEAD = do_GET  # noqa: N815


def test_what_a_server_answers(tmp_path: Path):
    body = f"{ESCAPE}\r\n\n  all as written [red]".encode()
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Speaker, body))) as url:
        for command in (("inspect", url), ("pull", url, tmp_path / "out.zarr")):
            code, shown = run(*command)
            assert code == 2
            assert "403" in shown
            assert len(shown.splitlines()) == 3
