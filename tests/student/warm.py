"""Programs that run in processes of their own, out of one that has imported what they would all import."""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

WARM = """
import json, os, sys, traceback

import torch
import torch._dynamo, torch.distributed  # which training would import
from transformers import InternVLConfig, InternVLModel, Qwen2Model  # and the student of questions

import cli, student.commands, student.runs.export, student.runs.onnx_graph, student.training.trainer
import student.orion_lite.system, student.runs.evaluate, student.training.train

torch.set_num_threads(1)
for line in sys.stdin:
    code, arguments, folder = json.loads(line)
    child = os.fork()
    if not child:
        exit_code = 1
        try:
            for descriptor, name in ((0, os.devnull), (1, f"{folder}/out"), (2, f"{folder}/err")):
                os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), descriptor)
            sys.argv = ["-c", *arguments]
            exec(code, {"__name__": "__main__"})
            exit_code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(exit_code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def run_warm(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program in a process that begins with torch and all of ``student`` imported, and one thread.

    It is forked from a process that has read no dataset: tensorstore survives no fork.
    """
    with tempfile.TemporaryDirectory() as folder:
        process = _started()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([code, [str(argument) for argument in arguments], folder]) + "\n")
        process.stdin.flush()
        code_of_exit = int(process.stdout.readline())
        out, err = (Path(folder, name).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess(code, code_of_exit, out, err)


@functools.cache
def _started() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WARM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    atexit.register(process.communicate)  # which ends it
    return process
