"""The toy teacher in trouble, as the environment says.

``TROUBLE`` is JSON: a line of length ``poison`` kills the process, and every step takes ``delay_s`` seconds
longer. A line of length ``too_much`` does not fit the memory of a GPU; with ``weights_too_large`` the weights
do not.
"""

import json
import os
import signal
import time

import torch

from tests.toy.teacher import ToyPreset, ToyTeacher

NO_ROOM = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free.")


class TroubledTeacher(ToyTeacher):
    def __init__(self):
        self.trouble = json.loads(os.environ.get("TROUBLE", "{}"))

    def step(self, batch, state):
        time.sleep(self.trouble.get("delay_s", 0))
        lengths = batch["length"].tolist()
        if self.trouble.get("poison") in lengths:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trouble.get("too_much") in lengths:
            raise NO_ROOM
        return super().step(batch, state)


class TroubledPreset(ToyPreset):
    def load(self, checkpoint, **options):
        teacher = TroubledTeacher()
        if teacher.trouble.get("weights_too_large"):
            raise NO_ROOM
        return teacher


TROUBLED = TroubledPreset()
