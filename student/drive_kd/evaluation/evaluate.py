"""Measures a student on held-out questions: what it has learned of the teacher, and what it answers.

Dimension letters: N question, S sum over questions, V byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch

from cache_schema.progress import SILENT, Progress
from cache_schema.vocabulary.attention import (
    ANSWER_START,
    CAPABILITIES,
    CAPABILITY,
    FRAME_INDEX,
    IMAGE_EMBEDDINGS,
    IMAGE_PIXELS,
    IMAGE_RUNS,
    QUESTION_ID,
    TOKEN_IDS,
)
from student.drive_kd.evaluation.compare import Compared, compare, sacrebleu_is_needed
from student.drive_kd.evaluation.generate import greedy_replies
from student.drive_kd.evaluation.result import ALL, QuestionEvaluation
from student.drive_kd.evaluation.summary import summarise
from student.drive_kd.evaluation.texts import Texts
from student.loading.batches import LatentSamples
from student.loading.dataset import stores

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from student.drive_kd.model import DriveKd
    from student.loading.batches import Batch
    from student.loading.dataset import Dataset
