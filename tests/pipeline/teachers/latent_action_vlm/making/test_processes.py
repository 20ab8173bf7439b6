"""Two processes that share every batch against one that has it to itself."""

import torch
from safetensors.torch import load_file

from tests.forked import Forked
from tests.paths import ROOT
from tests.pipeline.teachers.latent_action_vlm.making.actions_run import train

TWO = """
import sys
from pathlib import Path
import torch
from tests.pipeline.teachers.latent_action_vlm.making.actions_run import train
torch.set_num_threads(1)
train(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_two_processes_end_where_one_ends_to_rounding(brief, tmp_path):
    """Codes that are hardly used are drawn alike, too; and the other process writes nothing."""
    script = tmp_path / "two.py"
    script.write_text(TWO)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    process = Forked(*launch, script, brief, tmp_path / "two", env={"PYTHONPATH": str(ROOT)})
    _, err = process.communicate()
    assert process.returncode == 0, err
    train(brief, tmp_path / "one")
    for name in ("stage_1", "stage_2", "actions"):
        one, two = (load_file(tmp_path / count / f"{name}.safetensors") for count in ("one", "two"))
        assert one.keys() == two.keys()
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=0, atol=1e-5, msg=key)
