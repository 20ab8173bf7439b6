"""How the reference feeds and steps its student: one compressed file a frame, whole tokens, float32.

Source: spec Orion-Lite 1.4 (the files), 2.2 (the network), 4.1 (the recipe) and 7 (a dozen looks at the host
a step). The network is ours in names and sizes, the losses are ours in value, so that only the way differs.

Dimension letters: B batch, N vision token, H hidden width, D token width, T step, M mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from student.orion_lite.model import OrionLite, Prediction
from student.orion_lite.planner import LOG_SIGMA_LIMIT, Gaussian

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from student.orion_lite.losses import Loss

    Batch = dict[str, Tensor]

SQUEEZED = {
    "visual_queries": 1,
    "planning_token": 2,
    "ego_fut_trajs": 2,
    "ego_fut_masks": 3,
    "ego_fut_cmd": 3,
    "lane_scores": 1,
    "lane_preds": 1,
    "agent_preds": 1,
    "agent_fut_preds": 1,
    "agent_score_preds": 1,
    "agent_fut_cls_preds": 1,
}
"""Key of a file -> leading axes of length 1."""


class Files(Dataset):
    """A frame a file; every value is inflated and made float32 by whoever asks."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Batch:
        with np.load(self.files[index]) as stored:
            return {
                name: torch.from_numpy(stored[name].astype(np.float32)).flatten(0, axes).squeeze(0)
                for name, axes in SQUEEZED.items()
            }


def loader(files: Sequence[Path], *, batch_size: int, workers: int) -> DataLoader:
    """Load as the reference does: shuffled, in worker processes, not pinned, the last batch kept."""
    return DataLoader(Files(files), batch_size=batch_size, shuffle=True, num_workers=workers)


def as_ours(batch: Batch) -> Batch:
    """Give a batch the names that our objectives read."""
    best = batch["agent_fut_cls_preds"].argmax(dim=-1)[..., None, None, None]  # (B, A, 1, 1, 1)
    return {
        "planning_token": batch["planning_token"],
        "ego_trajectory": batch["ego_fut_trajs"],
        "ego_trajectory_mask": batch["ego_fut_masks"].bool(),
        "command": batch["ego_fut_cmd"].argmax(dim=-1),
        "lane_logits": batch["lane_scores"],
        "lane_points": batch["lane_preds"],
        "agent_xy": batch["agent_preds"],
        "agent_offsets": batch["agent_fut_preds"].take_along_dim(best, dim=2).squeeze(2),
        "agent_class_scores": batch["agent_score_preds"],
    }


def convolved(distribution: nn.Module, x: Tensor) -> Gaussian:
    """A Gaussian of (B, 1, Z) from (B, D) by convolutions over a sequence of one."""
    encoder = distribution.encoder
    hidden = encoder.conv2(encoder.conv1(x[:, :, None]).relu()).relu()
    encoded = distribution.last_conv(encoder.conv3(hidden))  # (B, 2Z, 1)
    mu, log_sigma = encoded.transpose(1, 2).chunk(2, dim=-1)
    return Gaussian(mu, log_sigma.clamp(-LOG_SIGMA_LIMIT, LOG_SIGMA_LIMIT))


class Whole(OrionLite):
    """The student as the reference computes it: whole tokens, torch's own decoder, one step at a time."""

    def forward(
        self, vision_tokens: Tensor, *, trajectory: Tensor | None, noise: Tensor | None
    ) -> Prediction:
        """Predict from whole vision tokens (B, N, D), as the reference trains."""
        memory = self.embed_tokens(vision_tokens)  # (B, N, H)
        query = self.planning_query.expand(len(memory), -1, -1)
        token = self.norm_output(self.output_proj(self.transformer_decoder(query, memory)[:, 0]))  # (B, D)
        assert trajectory is not None
        present = convolved(self.present_distribution, token)
        future = convolved(self.future_distribution, torch.cat([token, trajectory.flatten(1)], dim=-1))
        steps = self.planner_config.steps
        z = future.at(noise).transpose(0, 1).expand(steps, -1, -1)
        states = self.predict_model(z, self._initial_state(token))  # (T, B, D)
        offsets = [
            self.ego_fut_decoder(torch.cat([token, state], dim=-1)).unflatten(-1, (-1, 2)) for state in states
        ]
        return Prediction(token, torch.stack(offsets, dim=2), present, future)


class Trainer:
    """The reference's step.

    Args:
        model: The student.
        losses: The five losses.
        device: Where it computes.
    """

    def __init__(self, model: Whole, losses: Mapping[str, Loss], *, device: Literal["cpu", "cuda"]) -> None:
        self.model, self.losses, self.device = model.to(device).train(), losses, device
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=1e-4)

    def step(self, batch: Batch) -> dict[str, float]:
        """Learn from a batch as the loader gives it."""
        batch = {name: value.to(self.device) for name, value in batch.items()}
        ours = as_ours(batch)
        noise = torch.randn(len(ours["command"]), 1, self.model.planner_config.latent, device=self.device)
        predicted = self.model(batch["visual_queries"], trajectory=ours["ego_trajectory"], noise=noise)
        terms = {name: loss(predicted, ours) for name, loss in self.losses.items()}
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        # It looks at each term twice, for its sums and for its bar.
        looked = {name: term.item() for name, term in {**terms, "total": total}.items()}
        return {name: term.item() for name, term in terms.items()} | looked
