"""A file appears whole or not at all."""

import os
import signal
from pathlib import Path

import pytest

from cache_schema.errors import RequestError
from cache_schema.storage import atomic_io
from cache_schema.storage.atomic_io import new_file, write_durably


def test_a_file_and_what_lies_beside_it_appear_together(tmp_path):
    target = tmp_path / "graph.onnx"
    write_graph(target)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "graph.onnx": "names its data",
        "graph.onnx.data": "weights",
    }


def write_graph(target):
    with new_file(target) as file:
        file.write_text("names its data")
        file.with_name(f"{target.name}.data").write_text("weights")
        assert file.name == target.name
        assert not target.exists()


def write(target, error):
    with new_file(target, KeyError) as file:
        file.write_text("half")
        raise error


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "weights", ZeroDivisionError())
    for refused in (OSError("no room"), KeyError("no room")):
        with pytest.raises(RequestError, match=r"weights cannot be written: '?no room"):
            write(tmp_path / "weights", refused)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_whole_or_absent(tmp_path):
    target = tmp_path / "model"

    def write_folder(error=None):
        with new_file(target) as folder:
            (folder / "layers").mkdir(parents=True)
            (folder / "layers" / "0").write_text("weights")
            assert not target.exists()
            if error is not None:
                raise error

    with pytest.raises(RequestError, match="model cannot be written: no room"):
        write_folder(OSError("no room"))
    assert list(tmp_path.iterdir()) == []
    write_folder()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (target / "layers" / "0").read_text() == "weights"
    with pytest.raises(RequestError, match="exists already"):
        write_folder()


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    target = tmp_path / "weights"
    (tmp_path / ".weights.partial").mkdir()
    (tmp_path / ".weights.partial" / "weights.data").write_text("of another time")
    with new_file(target) as file:
        file.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_nothing_is_overwritten(tmp_path):
    target = tmp_path / "weights"
    target.write_text("mine")
    with pytest.raises(RequestError, match="exists already"), new_file(target):
        pass
    with pytest.raises(RequestError, match="a folder that does not exist"), new_file(target / "x" / "y"):
        pass
    assert target.read_text() == "mine"


def test_what_a_writer_puts_beside_its_file_overwrites_nothing_either(tmp_path):
    (tmp_path / "graph.onnx.data").write_text("mine")
    with pytest.raises(RequestError, match=r"graph\.onnx\.data exists already"):
        write_graph(tmp_path / "graph.onnx")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"graph.onnx.data": "mine"}


@pytest.mark.parametrize(("function", "call"), [("follow_umask", 1), ("sync_tree", 1), ("rename_durably", 2)])
def test_a_writer_that_is_killed_leaves_no_file_of_that_name(function, call, tmp_path):
    target = tmp_path / "graph.onnx"
    child = os.fork()
    if not child:
        original, left = getattr(atomic_io, function), [None] * call

        def killed(*arguments):
            left.pop()
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            original(*arguments)

        setattr(atomic_io, function, killed)
        write_graph(target)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not target.exists()
    # What had its name already is whole, and not overwritten.
    moved = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert [path.read_text() for path in moved] == (["weights"] if function == "rename_durably" else [])
    for path in moved:
        path.unlink()
    write_graph(target)
    assert {path.name for path in tmp_path.iterdir()} == {"graph.onnx", "graph.onnx.data"}


@pytest.mark.parametrize(("umask", "rights"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_has_the_rights_that_the_umask_leaves(umask, rights, tmp_path):
    before = os.umask(umask)
    try:
        with new_file(tmp_path / "weights") as file:
            os.close(os.open(file, os.O_CREAT, 0o600))  # as safetensors writes
        write_durably(tmp_path / "notes", b"")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {rights}


def test_a_folder_is_no_place_for_a_file(tmp_path):
    for folder in (tmp_path, Path(), Path("..")):
        with pytest.raises(IsADirectoryError):
            write_durably(folder, b"")
        with pytest.raises(RequestError, match="exists already"), new_file(folder):
            pass
