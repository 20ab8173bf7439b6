"""Two processes that share every batch against one that has it to itself."""

import torch
from safetensors.torch import load_file
from torch.distributed import TCPStore

from tests.forked import Forked
from tests.pipeline.teachers.latent_action_vlm.making.actions_run import train

ONE_OF_TWO = """
import sys
from pathlib import Path
import torch
from tests.pipeline.teachers.latent_action_vlm.making.actions_run import train
torch.set_num_threads(1)
train(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_two_processes_end_where_one_ends_to_rounding(brief, tmp_path):
    """Codes that are hardly used are drawn alike, too; and the other process writes nothing."""
    # What torchrun tells them: the place where they meet is there before they are.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_RUN_ID": "two",
    }
    processes = [
        Forked("-c", ONE_OF_TWO, brief, tmp_path / "two", env=told | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in "01"
    ]
    for process in processes:
        _, err = process.communicate()
        assert process.returncode == 0, err
    train(brief, tmp_path / "one")
    for name in ("stage_1", "stage_2", "actions"):
        one, two = (load_file(tmp_path / count / f"{name}.safetensors") for count in ("one", "two"))
        assert one.keys() == two.keys()
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=0, atol=1e-5, msg=key)
