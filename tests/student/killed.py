"""Training that is killed at chosen moments and started again, in processes that are really killed."""

from pathlib import Path

from student.runs.config import RunConfig
from tests.forked import run_forked

KILLED = """
import os, signal, sys
from pathlib import Path

import cache_schema.progress, student.runs.checkpoint, student.training.trainer
from student.runs.config import RunConfig
from student.training.train import train

data, run, config, *moments = sys.argv[1:]
data, *more = map(Path, data.split(os.pathsep))


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment):
    if moment.isdigit():  # so many steps after it was started
        left, advance = int(moment), cache_schema.progress.Progress.advance

        def counted(progress, amount, status):
            nonlocal left
            left -= 1
            advance(progress, amount, status) if left else kill()

        cache_schema.progress.Progress.advance = counted
    elif moment == "writing":  # a checkpoint, which has no name yet
        student.runs.checkpoint.sync_tree = kill
    elif moment == "renamed":  # it has its name, and those before it are still there
        rename = student.runs.checkpoint.rename_durably
        student.runs.checkpoint.rename_durably = lambda *paths: (rename(*paths), kill())
    elif moment == "logged":  # an epoch, which has no checkpoint yet
        write = student.training.trainer.RunLog.write
        student.training.trainer.RunLog.write = lambda log, line: (
            write(log, line), line["kind"] == "epoch" and kill()
        )


# Children of a process that has not read with tensorstore, which survives no fork.
for moment in [*moments, ""]:
    child = os.fork()
    if not child:
        arm(moment)
        train(data, Path(run), RunConfig.model_validate_json(config), with_datasets=more, trackers=())
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def train_with_kills(data: Path | str, run: Path, config: RunConfig, moments: list[str]) -> None:
    """Train to the end, killed once at every moment and resumed each time.

    Args:
        data: The dataset; of several that are joined, their paths with ``os.pathsep`` between them.
        run: Folder of the run.
        config: Its configuration.
        moments: A number of steps after the start, "writing" or "renamed" a checkpoint, "logged" an epoch.
    """
    done = run_forked(KILLED, data, run, config.model_dump_json(), *moments)
    assert done.stdout.split() == ["-9"] * len(moments) + ["0"], done.stderr
