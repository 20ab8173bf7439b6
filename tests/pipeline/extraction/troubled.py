"""ORION in a process that dies or is slow, as the environment configures it.

``TROUBLE`` is JSON: ``poison`` a clip that kills its process every time, ``dies_once`` a clip that kills it
the first time (``marker`` is the file that records it), ``delay_s`` seconds that every step takes longer.
"""

import json
import os
import signal
import time
from pathlib import Path

from pipeline.teachers.orion.presets import ORION_TINY


class TroubledTeacher:
    kind = "driving"

    def __init__(self, teacher, trouble: dict) -> None:
        self.teacher, self.trouble = teacher, trouble
        self.features, self.identity = teacher.features, teacher.identity
        self.prepare, self.collate = teacher.prepare, teacher.collate
        self.begin, self.assets = teacher.begin, teacher.assets

    def step(self, batch, state):
        time.sleep(self.trouble.get("delay_s", 0))
        for clip, time_s in zip(batch.clips, batch.timestamp_s.tolist(), strict=True):
            if clip and time_s > 0.15:  # in mid-clip
                self._die_of(clip)
        return self.teacher.step(batch, state)

    def _die_of(self, clip: str) -> None:
        if clip == self.trouble.get("poison"):
            os.kill(os.getpid(), signal.SIGKILL)
        marker = Path(self.trouble.get("marker", "/nonexistent"))
        if clip == self.trouble.get("dies_once") and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class TroubledPreset:
    kind, features = ORION_TINY.kind, ORION_TINY.features

    def load(self, checkpoint, **options) -> TroubledTeacher:
        trouble = json.loads(os.environ.get("TROUBLE", "{}"))
        return TroubledTeacher(ORION_TINY.load(checkpoint, **options), trouble)


TROUBLED = TroubledPreset()
