"""Training by two processes each, started as torchrun would start them, but out of one that is warm."""

import json
from collections.abc import Mapping
from pathlib import Path

from student.runs.config import RunConfig
from tests.forked import run_forked

IN_PAIRS = """
import datetime, json, os, sys
from pathlib import Path

import torch

from student.runs.config import RunConfig
from student.training.train import train

data, folder, configs = sys.argv[1:]
data, *more = map(Path, data.split(os.pathsep))
for name, config in json.loads(configs).items():
    children = {}
    for rank in "01":
        if not (child := os.fork()):
            os.environ.update(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
            try:
                torch.distributed.init_process_group(
                    "gloo",
                    init_method=f"file://{folder}/{name}.meeting",  # a port could be taken
                    rank=int(rank),
                    world_size=2,
                    timeout=datetime.timedelta(seconds=60),
                )
                config = RunConfig.model_validate(config)
                train(data, Path(folder) / name, config, with_datasets=more, trackers=())
            except BaseException as error:
                print(repr(str(error)))
                sys.stdout.flush()
                os._exit(1)
            os._exit(0)
        children[child] = rank
    for _ in children:
        child, status = os.wait()
        print(name, children[child], os.waitstatus_to_exitcode(status), flush=True)
"""


def train_in_pairs(data: Path | str, folder: Path, configs: Mapping[str, RunConfig]) -> tuple[list[str], str]:
    """Train each configuration in ``folder / name`` by two processes.

    Of several datasets that are joined, ``data`` is their paths with ``os.pathsep`` between them.

    Returns:
        The lines that were printed: ``NAME RANK EXIT_CODE`` of each process, and the errors; and the standard
        error of all.
    """
    described = json.dumps({name: config.model_dump() for name, config in configs.items()})
    done = run_forked(IN_PAIRS, data, folder, described)
    return done.stdout.splitlines(), done.stderr
