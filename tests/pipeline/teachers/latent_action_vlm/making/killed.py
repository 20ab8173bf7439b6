"""A training that is killed at chosen steps and started again, in processes that are really killed."""

import json

from tests.forked import run_forked

KILLED = """
import os, signal, sys, json
from pathlib import Path

import torch

# What every child would import.
from transformers import Dinov2WithRegistersModel, Qwen2_5_VLForConditionalGeneration

import cache_schema.progress
from tests.pipeline.teachers.latent_action_vlm.making import {module}

torch.set_num_threads(1)
arguments, moments = json.loads(sys.argv[1]), json.loads(sys.argv[2])


class Deadly(cache_schema.progress.Progress):
    def __init__(self, moment):
        self.left = moment

    def advance(self, amount=1, status=""):
        if amount == 1:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)


for moment in [*moments, 10**9]:
    child = os.fork()
    if not child:
        {module}.train(*map(Path, arguments), progress=Deadly(moment))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def train_with_kills(module: str, arguments: list[object], moments: list[int]) -> None:
    """Call ``module.train`` until it ends, killed after so many steps each time."""
    program = KILLED.replace("{module}", module)
    done = run_forked(program, json.dumps([*map(str, arguments)]), json.dumps(moments))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["-9"] * len(moments) + ["0"], done.stderr
