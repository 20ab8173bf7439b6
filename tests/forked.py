"""Python processes that begin at once: forks of one that has imported what commands need.

They are processes like any other, with signals, limits and an end of their own. They compute with one thread,
as the tests themselves do.
"""

import atexit
import functools
import gc
import json
import os
import resource
import runpy
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import import_module

import torch

from tests.paths import ROOT

IMPORTED = (
    "accelerate",
    "cli",
    "distributed",
    "pipeline.commands",
    "pipeline.extraction.cluster",
    "pipeline.extraction.dask_cluster",
    "pipeline.importers.orion_lite.import_npz",
    "pipeline.teachers.internvl3.teacher",
    "pipeline.teachers.latent_action_vlm.teacher",
    "pipeline.teachers.orion.checkpoints.convert",
    "pipeline.teachers.orion.teacher",
    "student.commands",
    "student.orion_lite.system",
    "student.runs.evaluate",
    "student.runs.export",
    "student.runs.onnx_graph",
    "student.training.train",
    "torch._dynamo",
    "transformers.models.internvl.modeling_internvl",
    "transformers.models.qwen2.modeling_qwen2",
)
"""Nothing is read with tensorstore, which survives no fork."""


class Forked:
    """A process that runs as ``python ARGUMENTS`` would, for ``-m MODULE ...`` and ``-c PROGRAM ...``.

    Args:
        arguments: Of Python.
        env: Variables that differ from those of this process.
        start_new_session: Whether it leads a group of its own.
        largest_file: Bytes beyond which no file may grow: the disk refuses as a full one does.
    """

    def __init__(
        self,
        *arguments: object,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
        largest_file: int | None = None,
    ) -> None:
        self.returncode: int | None = None
        ends = [os.pipe() for _ in ("stdout", "stderr")]
        self._read_ends = [read for read, _ in ends]
        self.pid = _asked(
            {
                "arguments": [*map(str, arguments)],
                "environment": os.environ | (env or {}),
                "start_new_session": start_new_session,
                "largest_file": largest_file,
            },
            [write for _, write in ends],
        )
        for _, write in ends:
            os.close(write)

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal, or None while it runs."""
        if self.returncode is None:
            self.returncode = _asked({"ended": self.pid})
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        """Wait for its end, and for that of all who write to the same place; return what they wrote."""
        written = {end: bytearray() for end in self._read_ends}
        with selectors.DefaultSelector() as selector:
            for end in self._read_ends:
                selector.register(end, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    if data := os.read(key.fd, 1 << 16):
                        written[key.fd] += data
                    else:
                        selector.unregister(key.fd)
                        os.close(key.fd)
        while self.poll() is None:
            time.sleep(0.005)
        out, err = (written[end].decode() for end in self._read_ends)
        return out, err


def run_forked(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program in such a process to its end."""
    process = Forked("-c", program, *arguments)
    out, err = process.communicate()
    assert process.returncode is not None
    return subprocess.CompletedProcess(program, process.returncode, out, err)


def _asked(request: Mapping[str, object], files: list[int] | None = None) -> int | None:
    """Have a request answered by the process that forks."""
    channel = _channel()
    socket.send_fds(channel, [b" "], files or [])
    channel.sendall(json.dumps(request).encode() + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        received = channel.recv(100)
        assert received, "the process that forks has ended"
        answer += received
    return json.loads(answer)


@functools.cache
def _channel() -> socket.socket:
    """Start the process that forks; it ends with this one."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "tests.forked", str(theirs.fileno())]
    process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(channel: socket.socket) -> dict | None:
    """Answer requests; return None at their end, and in a new process what it shall be."""
    lines = channel.makefile()
    while True:
        _, files, _, _ = socket.recv_fds(channel, 1, 2)
        line = lines.readline()
        if not line:
            return None
        request = json.loads(line)
        if "ended" in request:
            pid, status = os.waitpid(request["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            gc.freeze()
            answer = os.fork()
            if not answer:
                lines.close()
                channel.close()
                for place, file in enumerate(files, start=1):
                    os.dup2(file, place)
            for file in files:
                os.close(file)
            if not answer:
                return request
        channel.sendall(json.dumps(answer).encode() + b"\n")


def _become(request: dict) -> None:
    """Run as Python with these arguments does."""
    gc.enable()
    os.environ.clear()
    os.environ.update(request["environment"])
    if request["start_new_session"]:
        os.setsid()
    if request["largest_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
    kind, what, *rest = request["arguments"]
    sys.argv = [what, *rest]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv[0] = "-c"
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    gc.disable()
    for name in IMPORTED:
        import_module(name)
    torch.set_num_threads(1)
    if (request := _serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        _become(request)
