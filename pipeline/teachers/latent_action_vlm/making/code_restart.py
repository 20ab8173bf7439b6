"""Codes that are hardly used get another chance: they become outputs of the encoder, drawn at random.

Dimension letters: B batch, N action tokens, E code width, K codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from pipeline.teachers.latent_action_vlm.making.actions_config import ActionsConfig
    from pipeline.teachers.latent_action_vlm.making.latent_action_model import Quantised


class CodeRestart:
    """Watches one trained codebook (K, E), which it changes in place.

    Args:
        codebook: Its weight.
        config: When a code counts as hardly used.
        steps: Of the stage.
        accelerator: The processes, which all draw the same.
    """

    def __init__(self, codebook: Tensor, config: ActionsConfig, steps: int, accelerator: Accelerator) -> None:
        self.codebook, self.config, self.accelerator = codebook, config, accelerator
        self.last = int(config.restart_until * steps)
        self.counts = torch.zeros(len(codebook), dtype=torch.int64, device=codebook.device)
        """(K) how often each code was taken, by all processes, since the codebook was looked at."""

    @torch.no_grad()
    def after(self, found: Quantised, step: int) -> None:
        """Count the codes of a step, counted from 0; look at the codebook every so many steps."""
        if step >= self.last:
            return
        own = torch.bincount(found.codes.flatten(), minlength=len(self.counts))
        self.counts += self.accelerator.reduce(own, "sum")
        if (step + 1) % self.config.restart_every:
            return
        gathered = self.accelerator.gather(found.latent.contiguous())
        # Processes have every so many-th sample: in the order of the whole batch, as one process has it.
        latent = gathered.unflatten(0, (self.accelerator.num_processes, -1)).transpose(0, 1).flatten(0, 2)
        share = self.counts.sum() / len(self.counts)
        dead = torch.nonzero(self.counts < self.config.restart_below * share).flatten()
        generator = torch.Generator().manual_seed(self.config.seed + step)
        drawn = torch.randint(len(latent), (len(dead),), generator=generator)
        self.codebook[dead] = latent[drawn.to(latent.device)]
        self.counts.zero_()
