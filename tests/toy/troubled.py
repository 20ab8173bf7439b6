"""The toy teacher in trouble, as the environment says.

``TROUBLE`` is JSON: a line of length ``poison`` kills the process every time, one of length ``dies_once``
the first time (``marker`` is the file that remembers), and every step takes ``delay_s`` seconds longer.
"""

import json
import os
import signal
import time
from pathlib import Path

from tests.toy.teacher import ToyPreset, ToyTeacher


class TroubledTeacher(ToyTeacher):
    def __init__(self):
        self.trouble = json.loads(os.environ.get("TROUBLE", "{}"))

    def step(self, batch, state):
        time.sleep(self.trouble.get("delay_s", 0))
        lengths = batch["length"].tolist()
        if self.trouble.get("poison") in lengths:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trouble.get("dies_once") in lengths and not Path(self.trouble["marker"]).exists():
            Path(self.trouble["marker"]).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(batch, state)


class TroubledPreset(ToyPreset):
    def load(self, checkpoint, **options):
        return TroubledTeacher()


TROUBLED = TroubledPreset()
