"""The structure of the project keeps its own rules."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from cli import app
from tests.paths import ROOT

PACKAGES = ("cache_schema", "pipeline", "student")
README = (ROOT / "README.md").read_text()
SHELL = "".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))


def test_the_layers_are_kept():
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def imports_of(file: Path, module: str, modules: set[str]) -> Iterator[str]:
    """Modules of the project that a file imports anywhere: in functions and for type checkers, too."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
        else:
            continue
        yield from (name for name in names if name in modules and name != module)


def test_no_files_import_each_other_in_a_circle():
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
    } | {"cli": ROOT / "cli.py"}
    waiting = {name: set(imports_of(file, name, {*files})) for name, file in files.items()}
    # A package's own file only offers names of what lies in it.
    waiting = {
        name: {other for other in others if not name.startswith(f"{other}.")}
        for name, others in waiting.items()
    }
    while free := [name for name, others in waiting.items() if not others & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, f"circles among {sorted(waiting)}"


def test_a_folder_holds_few_files_and_the_command_line_is_short():
    for package in PACKAGES:
        for folder in [ROOT / package, *(path for path in (ROOT / package).rglob("*") if path.is_dir())]:
            files = [path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".pyc"]
            assert len(files) <= 14, f"{folder} holds {len(files)} files"
    assert len((ROOT / "cli.py").read_text().splitlines()) <= 300


@pytest.mark.parametrize("place", ["cache_schema", "pipeline/extraction", "student/training"])
def test_what_knows_no_system_names_none(place: str):
    named = re.compile("scene_queries|planning_token|vision_tokens|lidar2img")
    for file in (ROOT / place).rglob("*.py"):
        if "vocabulary" not in file.parts:
            assert not named.search(file.read_text()), file


def test_extraction_knows_nothing_of_driving():
    words = re.compile("camera|orion|bench2drive", re.IGNORECASE)
    for path in sorted((ROOT / "pipeline" / "extraction").glob("*.py")):
        assert not words.findall(path.read_text()), path.name


def test_every_command_of_the_readme_exists():
    commands = get_command(app).commands
    named = set(re.findall(r"^teachonce ([a-z-]+)", SHELL, re.MULTILINE))
    assert named >= {"extract", "verify", "train", "evaluate", "report", "parity", "plan"}
    assert named <= set(commands)


def test_every_make_target_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", SHELL, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_ci_runs_the_checks_and_the_readme_s_test_command():
    assert "make test" in SHELL
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-2:] == ["make check", "exec make test"]


def test_help_loads_nothing_that_is_slow():
    code = (
        "import sys; from typer.testing import CliRunner; from cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "slow = {'torch', 'zarr', 'numpy', 'dask', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'loaded {slow}' if slow else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("package", "names"),
    [
        ("cache_schema", "LatentDataset JoinedDataset open_dataset DatasetWriter FeatureSpec TeachonceError"),
        ("pipeline", "Source Teacher extract"),
        ("student", "System RunConfig train evaluate"),
    ],
)
def test_public_names_load_nothing_slow_until_they_are_used(package: str, names: str):
    code = (
        f"import sys, {package}\n"
        "slow = {'torch', 'zarr', 'dask', 'numpy', 'transformers', 'matplotlib'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
        f"from {package} import {', '.join(names.split())}\n"
        "assert 'transformers' not in sys.modules\n"
        f"assert not hasattr({package}, 'no_such_name')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
