"""A student's codes beside its teacher's, over a split.

``code_kl`` is the divergence KL(teacher || student) in nats, summed over a frame's codes, each behind the
teacher's. Beside it stand two students that look at nothing: one always tells the teacher's mean over the
split; the other is the student with another frame's images, and behind its own codes, as the teacher's would
betray what the images show. ``code_agreement`` is the share of codes, each behind the student's own, that are
the teacher's.

Dimension letters: F frame of the split, B frame of a batch, N position of a code, K value of a code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from cache_schema.vocabulary.driving import CAN_BUS, COMMAND
from cache_schema.vocabulary.latent_actions import CAMERA_STRIP, CODE_LOGITS, CODES
from student.latentvla.code_probe import Probed, probe_codes
from student.latentvla.losses.codes import code_kl
from student.latentvla.model import DRIVING
from student.loading.batches import LatentSamples
from student.open_loop.bootstrap import means
from student.open_loop.policies import BATCH

if TYPE_CHECKING:
    from torch import Tensor

    from student.latentvla.model import LatentVla
    from student.loading.dataset import Dataset

FEATURES = (*DRIVING, CODES, CODE_LOGITS)


@torch.no_grad()
def measure_codes(student: LatentVla, dataset: Dataset, split: str, *, device: torch.device) -> Probed:
    """Measure the codes of a student with a decision transformer, in evaluation mode.

    Returns:
        ``code_agreement``, ``code_kl``, ``code_kl_constant`` and ``code_kl_other_images``, and what codes
        tell of how the ego moves; and for every frame ``codes.student`` and ``codes.teacher`` (F, N),
        ``code_kl`` (F, N), and how it moves.

    Raises:
        RequestError: The dataset lacks a feature, or clips of the split.
    """
    decision = student.decision
    if decision is None:
        raise ValueError("only a student with a decision transformer tells codes")
    samples = LatentSamples(dataset, split, FEATURES, device=device)
    images = LatentSamples(dataset, split, (CAMERA_STRIP,), device=device)
    order = np.arange(len(samples))
    # Neighbours look alike: another frame's images are from half a split away.
    elsewhere = np.roll(order, len(order) // 2)
    own, teachers, logits, seeing, blind, signals = [], [], [], [], [], []
    both = zip(samples.batches(order, BATCH), images.batches(elsewhere, BATCH), strict=True)
    for (_, batch), (_, other) in both:
        state, codes, told = (batch[COMMAND], batch[CAN_BUS]), batch[CODES], batch[CODE_LOGITS]
        scene = student.scene(batch[CAMERA_STRIP], *state)
        own.append(decision(scene).logits.argmax(dim=-1))
        seeing.append(code_kl(told, decision(scene, codes).logits))
        blind.append(code_kl(told, decision(student.scene(other[CAMERA_STRIP], *state)).logits))
        teachers.append(codes)
        logits.append(told)
        signals.append(batch[CAN_BUS])
    chosen, of_teacher, divergence, blindly = map(_joined, (own, teachers, seeing, blind))  # (F, N)
    expected = torch.cat(logits).softmax(dim=-1)  # (F, N, K)
    constant = code_kl(torch.cat(logits), expected.mean(dim=0).log().expand_as(expected)).cpu().numpy()
    columns = {
        "code_agreement": (chosen == of_teacher).mean(axis=1),
        "code_kl": divergence.sum(axis=1),
        "code_kl_constant": constant.sum(axis=1),
        "code_kl_other_images": blindly.sum(axis=1),
    }
    every = np.ones(len(order), dtype=bool)
    found = means(np.stack([*columns.values()], axis=1), every, samples.clip_of)
    probed = probe_codes({"student": chosen, "teacher": of_teacher}, _joined(signals), samples.clip_of)
    arrays = {"codes.student": chosen, "codes.teacher": of_teacher, "code_kl": divergence}
    measures = dict(zip(columns, found, strict=True))
    return Probed(measures | probed.measures, arrays | probed.arrays, probed.missing)


def _joined(pieces: list[Tensor]) -> np.ndarray:
    return torch.cat(pieces).cpu().numpy()
