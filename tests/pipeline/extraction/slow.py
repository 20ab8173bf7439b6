"""ORION in a process that is slow: every step takes ``DELAY_S`` seconds longer, as the environment says."""

import os
import time

from pipeline.teachers.orion.presets import ORION_TINY_RANDOM
from tests.toy.teacher import ToyPreset, ToyTeacher


class SlowTeacher:
    kind = "driving"

    def __init__(self, teacher) -> None:
        self.teacher = teacher
        self.features, self.identity = teacher.features, teacher.identity
        self.prepare, self.collate = teacher.prepare, teacher.collate
        self.begin, self.assets = teacher.begin, teacher.assets

    def step(self, batch, state):
        time.sleep(float(os.environ["DELAY_S"]))
        return self.teacher.step(batch, state)


class SlowPreset:
    kind, features = ORION_TINY_RANDOM.kind, ORION_TINY_RANDOM.features

    def load(self, checkpoint, **options) -> SlowTeacher:
        return SlowTeacher(ORION_TINY_RANDOM.load(checkpoint, **options))


SLOW = SlowPreset()


class CheckedPreset(ToyPreset):
    """The toy teacher, which wants to see its checkpoint."""

    def load(self, checkpoint, **options) -> ToyTeacher:
        assert checkpoint.read_text() == "weights"
        return ToyTeacher()


CHECKED = CheckedPreset()
