"""Locks: who holds a folder, and what becomes of files that only look like a lock."""

import errno
import fcntl
import os
import resource
import shutil
from pathlib import Path

import pytest

from cache_schema.errors import DatasetError
from cache_schema.storage.locks import check_held, committing, hold, lock


def test_a_folder_that_was_deleted_and_made_again_is_not_held(tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    check_held(run)  # of a folder that nobody holds, nothing is said
    with hold(run):
        check_held(run)
        shutil.rmtree(run)
        for again in (False, True):
            if again:
                run.mkdir()
                (run / ".lock").touch()
            with pytest.raises(DatasetError, match="was deleted, moved or replaced"):
                check_held(run)
            with pytest.raises(DatasetError, match="was deleted, moved or replaced"), committing(run):
                pass
        with hold(run):
            check_held(run)


def test_a_folder_that_is_moved_and_moved_back_is_held(tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    with hold(run):
        run.rename(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").rename(run)
        check_held(run)


def test_the_holder_is_named(tmp_path: Path):
    with hold(tmp_path), pytest.raises(DatasetError, match=f"process {os.getpid()} on "), hold(tmp_path):
        pass


def test_a_lock_that_its_holder_deletes_is_not_taken_over(tmp_path: Path):
    """A writer that ends deletes its lock: a deleted file counts for nobody who waited for it."""
    path = tmp_path / "x.lock"
    first = lock(path, wait=False)
    assert first is not None
    assert lock(path, wait=False) is None
    waiting = path.open("r+")
    path.unlink()
    second = lock(path, wait=False)
    assert second is not None
    assert os.path.samestat(os.fstat(second.fileno()), path.stat())
    for file in (first, second, waiting):
        file.close()


def link(path: Path, mine: Path) -> None:
    path.symlink_to(mine)


def hard_link(path: Path, mine: Path) -> None:
    path.hardlink_to(mine)


def copy(path: Path, mine: Path) -> None:
    shutil.copy(mine, path)


@pytest.mark.parametrize("make", [link, hard_link, copy])
def test_a_file_of_somebody_else_is_not_emptied(tmp_path: Path, make):
    mine = tmp_path / "thesis.tex"
    mine.write_text("chapter 1")
    run = tmp_path / "run"
    run.mkdir()
    make(run / ".lock", mine)
    with pytest.raises(DatasetError, match="a file that this program made"), hold(run):
        pass
    assert mine.read_text() == (run / ".lock").read_text() == "chapter 1"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, make):
    make(tmp_path / ".lock")
    with pytest.raises(DatasetError, match="a file that this program made"), hold(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EIO])
def test_a_file_system_without_locks_is_a_clear_error(tmp_path: Path, monkeypatch, number: int):
    def refuse(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for locking in (hold, committing):
        with pytest.raises(DatasetError, match=r"cannot be locked(.|\n)*a file system with flock"):
            locking(tmp_path).__enter__()


def test_a_disk_without_room_for_the_holder_is_a_clear_error(tmp_path: Path):
    """The kernel really refuses, as a full disk or a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(DatasetError, match=r"\.lock cannot be written"), hold(tmp_path):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with hold(tmp_path):
        pass
