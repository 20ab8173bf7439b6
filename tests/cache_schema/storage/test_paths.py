"""Paths as users write them."""

import os
from pathlib import Path

import pytest

from cache_schema.errors import RequestError
from cache_schema.storage.open import open_backend
from cache_schema.storage.paths import absolute


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Make ``data/inner``, a link to it, and work in ``work``."""
    (tmp_path / "data/inner").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    (tmp_path / "work/link").symlink_to(tmp_path / "data/inner")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "data"))
    return tmp_path


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (".", "work"),
        ("..", ""),
        ("./x.zarr/", "work/x.zarr"),
        ("../data/x.zarr", "data/x.zarr"),
        ("gone/../x.zarr", "work/x.zarr"),
        ("link", "work/link"),  # a link stays, so that it may be set anew
        ("link/x.zarr", "work/link/x.zarr"),
        ("link/../x.zarr", "data/x.zarr"),  # as the operating system reads it
        ("~/x.zarr", "data/x.zarr"),
        ("a b%20#?.zarr", "work/a b%20#?.zarr"),
    ],
)
def test_a_path_is_what_the_operating_system_makes_of_it(written, meant, here):
    assert absolute(Path(written)) == here / meant
    assert open_backend(written).local == here / meant
    assert str(open_backend(Path(written))) == str(Path(written))


def test_a_folder_that_is_called_as_home_is_meant_where_there_is_one(here):
    Path("~").mkdir()
    assert absolute(Path("~")) == here / "work/~"


def test_the_root_has_no_parent():
    assert absolute(Path("/..")) == Path("/")
    assert os.path.isabs(absolute(Path()))


def test_a_working_folder_that_is_gone_is_told(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(RequestError, match="a working folder that has been removed"):
        open_backend("x.zarr")
    assert open_backend(tmp_path / "x.zarr").local == tmp_path / "x.zarr"
