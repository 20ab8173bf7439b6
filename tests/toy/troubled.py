"""The toy teacher in trouble, as the environment says.

``TROUBLE`` is JSON: ``poison`` is a line that kills the process, ``delay_s`` seconds are added to every step.
"""

import json
import os
import signal
import time

from tests.toy.teacher import ToyPreset, ToyTeacher


class TroubledTeacher(ToyTeacher):
    def __init__(self):
        self.trouble = json.loads(os.environ.get("TROUBLE", "{}"))

    def prepare(self, sample):
        if sample == self.trouble.get("poison"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prepare(sample)

    def step(self, batch, state):
        time.sleep(self.trouble.get("delay_s", 0))
        return super().step(batch, state)


class TroubledPreset(ToyPreset):
    def load(self, checkpoint, **options):
        return TroubledTeacher()


TROUBLED = TroubledPreset()
