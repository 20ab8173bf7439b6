"""The documentation builds, and what it says of the code is so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

WALK = (ROOT / "docs" / "walk.md").read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation, built without a warning."""
    built = tmp_path_factory.mktemp("docs") / "site"
    mkdocs = Path(sys.executable).parent / "mkdocs"
    done = subprocess.run(
        [mkdocs, "build", "--strict", "--site-dir", built], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return built


@pytest.mark.parametrize("kind", ["source", "teacher", "system"])
def test_a_guide_shows_the_code_that_the_tests_run(site: Path, kind: str):
    page = (site / "guides" / f"add_a_{kind}" / "index.html").read_text()
    shown = re.sub(r"<[^>]*>", "", page)
    defined = re.findall(
        r"^(?:class|def) \w+", (ROOT / "tests" / "toy" / f"{kind}.py").read_text(), re.MULTILINE
    )
    assert defined
    assert all(line in shown for line in defined)


def test_the_page_of_commands_lists_every_option(site: Path):
    page = (site / "commands" / "index.html").read_text()
    for text in ("teachonce extract", "teachonce train", "--precision", "--with", "--resident"):
        assert text in page


def test_the_format_and_the_changes_are_pages(site: Path):
    assert "format_version" in (site / "format" / "index.html").read_text()
    assert "0.1.0" in (site / "changes" / "index.html").read_text()


def test_every_file_and_name_of_the_walk_exists():
    steps = re.findall(r"`([a-z_0-9/]+\.py)`(?:[\s)]*·\s*`(\w+)`)?", WALK)
    assert len(steps) > 30
    for file, name in steps:
        code = (ROOT / file).read_text()
        assert not name or re.search(rf"^ *(?:class|def) {name}\b", code, re.MULTILINE), f"{file}: {name}"


def test_the_walk_passes_through_every_package():
    for package in ("pipeline/bench2drive", "pipeline/extraction", "cache_schema/dataset", "student/loading"):
        assert f"`{package}/" in WALK
