"""A training that is killed at chosen steps and started again, in processes that are really killed."""

import json
import os
import subprocess
import sys

from tests.paths import ROOT

KILLED = """
import os, signal, sys, json
from pathlib import Path

# What every child would import.
import accelerate
import torch
import torch._dynamo
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
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            KILLED.replace("{module}", module),
            json.dumps([*map(str, arguments)]),
            json.dumps(moments),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["-9"] * len(moments) + ["0"], done.stderr
