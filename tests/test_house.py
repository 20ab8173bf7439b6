"""The house keeps its own rules."""

import re
import subprocess
import sys
from pathlib import Path

from typer.main import get_command

from cli import app
from tests.paths import ROOT

README = (ROOT / "README.md").read_text()
SHELL = "".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))


def test_the_wings_never_meet():
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_every_command_of_the_readme_exists():
    commands = get_command(app).commands
    named = set(re.findall(r"^teachonce ([a-z-]+)", SHELL, re.MULTILINE))
    assert named >= {"extract", "verify", "train", "evaluate", "report", "parity", "plan"}
    assert named <= set(commands)


def test_every_make_target_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", SHELL, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_ci_runs_the_readme_s_test_command():
    assert "make test" in SHELL
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "exec make test"


def test_help_loads_nothing_that_is_slow():
    code = (
        "import sys; from typer.testing import CliRunner; from cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "slow = {'torch', 'zarr', 'dask', 'transformers', 'matplotlib', 'pipeline.source'}\n"
        "loaded = slow & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
