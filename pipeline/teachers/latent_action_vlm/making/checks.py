"""What codes are worth: how much they help to rebuild, how many are used, and what they tell of the ego.

Dimension letters: S samples, N action tokens, K codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cache_schema.format.features import Record
from cache_schema.terminal import table
from pipeline.teachers.latent_action_vlm.making.clips.transitions import MOTION
from pipeline.teachers.latent_action_vlm.making.latent_action_model import mean_square

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.teachers.latent_action_vlm.making.actions_config import ActionsConfig
    from pipeline.teachers.latent_action_vlm.making.clips.image_batches import ImageBatches
    from pipeline.teachers.latent_action_vlm.making.clips.observations import Observer
    from pipeline.teachers.latent_action_vlm.making.latent_action_model import EgoModel

RIDGE = 1.0
"""Penalty of a probe's squared weights, beside squared errors of targets of variance 1."""


class Usage(Record):
    """How a codebook is used."""

    used: int
    """Codes that appear at all."""
    codes: int
    """K."""
    perplexity: float
    """Of the codes' frequencies: K where all are equally frequent."""


class Checks(Record):
    """All of it on held-out clips; means over patches and features."""

    samples: int
    mse: float
    mse_ego_shuffled: float
    """With the ego codes of other samples."""
    mse_environment_shuffled: float
    mse_unchanged: float
    """Of the earlier frame, taken for the later."""
    ego: Usage
    environment: Usage
    probes: dict[str, tuple[float, ...]]
    """R2 of the ego's motion (``MOTION``), by what a ridge regression on training clips had seen."""

    def __rich__(self) -> Table:
        """Show them as a table."""
        rows = table("check", "value", title=f"{self.samples} transitions of held-out clips")
        rows.add_row("error of the later frame", f"{self.mse:.4f}")
        rows.add_row("  with the ego codes of others", f"{self.mse_ego_shuffled:.4f}")
        rows.add_row("  with the environment codes of others", f"{self.mse_environment_shuffled:.4f}")
        rows.add_row("  of the earlier frame, unchanged", f"{self.mse_unchanged:.4f}")
        for name, usage in (("ego", self.ego), ("environment", self.environment)):
            rows.add_row(f"{name} codes in use", f"{usage.used} of {usage.codes}")
            rows.add_row("  perplexity", f"{usage.perplexity:.1f}")
        for place, motion in enumerate(MOTION):
            for seen, scores in self.probes.items():
                rows.add_row(f"R2 of the {motion} from {seen}", f"{scores[place]:.2f}")
        return rows


def usage(codes: np.ndarray, number: int) -> Usage:
    """Count the codes (S, N) of a codebook of so many."""
    counts = np.bincount(codes.reshape(-1), minlength=number)
    share = counts[counts > 0] / counts.sum()
    perplexity = float(np.exp(-(share * np.log(share)).sum()))
    return Usage(used=int((counts > 0).sum()), codes=number, perplexity=perplexity)


def one_hot(codes: np.ndarray, number: int) -> np.ndarray:
    """Return codes (S, N) as (S, N * K)."""
    return np.eye(number)[codes].reshape(len(codes), -1)


def probe(
    seen: np.ndarray, target: np.ndarray, held_seen: np.ndarray, held_target: np.ndarray
) -> tuple[float, ...]:
    """Return the R2 on held-out samples of a ridge regression; below 0 it does worse than their own mean.

    Args:
        seen: (S, features) of training samples.
        target: (S, targets) of them.
        held_seen: (S', features).
        held_target: (S', targets).
    """
    middle, mean, std = seen.mean(0), target.mean(0), np.maximum(target.std(0), np.finfo(float).tiny)
    centred = seen - middle
    gram = centred.T @ centred + RIDGE * np.eye(seen.shape[1])
    weight = np.linalg.solve(gram, centred.T @ ((target - mean) / std))
    error = held_target - (mean + (held_seen - middle) @ weight * std)
    spread = np.maximum(np.square(held_target - held_target.mean(0)).sum(0), np.finfo(float).tiny)
    return tuple(float(score) for score in 1 - np.square(error).sum(0) / spread)


@torch.no_grad()
def check_actions(
    model: EgoModel, observer: Observer, trained: ImageBatches, held_out: ImageBatches, config: ActionsConfig
) -> Checks:
    """Look at both splits through a trained model of stage 2, at so many samples as are configured."""
    model.eval()
    seen, held = (_Seen.of(model, observer, batches, config) for batches in (trained, held_out))
    k, other_k = config.ego_codes, config.environment_codes
    kinds = {
        "ego codes": [one_hot(split.ego, k) for split in (seen, held)],
        "environment codes": [one_hot(split.environment, other_k) for split in (seen, held)],
        "nothing": [np.zeros((len(split.motion), 1)) for split in (seen, held)],
    }
    return Checks(
        samples=len(held.motion),
        **held.errors,
        ego=usage(held.ego, k),
        environment=usage(held.environment, other_k),
        probes={name: probe(one, seen.motion, other, held.motion) for name, (one, other) in kinds.items()},
    )


class _Seen(NamedTuple):
    """One split as the model sees it."""

    ego: np.ndarray
    """(S, N)."""
    environment: np.ndarray
    """(S, N)."""
    motion: np.ndarray
    """(S, 2)."""
    errors: dict[str, float]

    @classmethod
    def of(cls, model: EgoModel, observer: Observer, batches: ImageBatches, config: ActionsConfig) -> _Seen:
        samples = len(batches.transitions)
        # In no order: codes are shuffled by taking the next sample's, which may not be the next frame.
        rows = np.random.default_rng(config.seed).permutation(samples)[: config.check_samples]
        parts = np.array_split(rows, -(-len(rows) // config.batch_size))
        ego, environment = [], []
        sums = dict.fromkeys(("mse", "mse_ego_shuffled", "mse_environment_shuffled", "mse_unchanged"), 0.0)
        for batch in batches.read(parts):
            features = observer(batch.images.flatten(0, 1)).unflatten(0, (-1, 2))
            found, other = model.encode(features, batch.condition)
            ego.append(found.codes.cpu().numpy())
            environment.append(other.codes.cpu().numpy())
            earlier, own, others = features[:, 0], found.value, other.value
            for name, rebuilt in {
                "mse": model.decode(earlier, own, others),
                "mse_ego_shuffled": model.decode(earlier, own.roll(1, 0), others),
                "mse_environment_shuffled": model.decode(earlier, own, others.roll(1, 0)),
                "mse_unchanged": earlier,
            }.items():
                sums[name] += mean_square(rebuilt, features).item() * len(features)
        errors = {name: total / len(rows) for name, total in sums.items()}
        motion = batches.transitions.motion[rows]
        return cls(np.concatenate(ego), np.concatenate(environment), motion, errors)
