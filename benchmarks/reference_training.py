"""The reference's training: one compressed file per frame, whole vision tokens, float32.

Source: spec Orion-Lite 1.4 (the files), 2.2 (the network), 4.1 (the recipe) and 7 (a dozen transfers of loss
values to the host in every step). The network has our names and sizes and the losses our values, so that
only loading and computation differ.

Dimension letters: B batch, N vision token, H hidden width, D token width, T step, A agent,
Z latent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.formats import REFERENCE_BYTES
from student.orion_lite.model import OrionLite, Prediction
from student.orion_lite.planner import LOG_SIGMA_LIMIT, Gaussian

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from student.orion_lite.losses import Loss

    Batch = dict[str, Tensor]

LEADING_AXES = {
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
"""Key of a file -> number of its leading axes, which have length 1."""


class FrameFiles(Dataset):
    """One file per frame; reading a frame decompresses all its arrays and converts them to float32."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Batch:
        with np.load(self.files[index]) as stored:
            return {
                name: torch.from_numpy(stored[name].astype(np.float32)).flatten(0, axes).squeeze(0)
                for name, axes in LEADING_AXES.items()
            }


def loader(files: Sequence[Path], *, batch_size: int, workers: int) -> DataLoader:
    """Return the reference's loader: shuffled, in worker processes, not pinned, the last batch kept."""
    return DataLoader(FrameFiles(files), batch_size=batch_size, shuffle=True, num_workers=workers)


def shared_bytes(batch_size: int, workers: int) -> int:
    """Return how much shared memory that loader fills: two batches a worker, and the one that is in use."""
    return (2 * workers + 1) * batch_size * 2 * REFERENCE_BYTES  # stored in 16 bits, loaded in 32


def to_our_features(batch: Batch) -> Batch:
    """Return the features that our losses read, under our names."""
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


def convolve(distribution: Any, x: Tensor) -> Gaussian:
    """Map (B, D) to a Gaussian of (B, 1, Z), by convolutions over a sequence of length 1."""
    encoder = distribution.encoder
    hidden = encoder.conv2(encoder.conv1(x[:, :, None]).relu()).relu()
    encoded = distribution.last_conv(encoder.conv3(hidden))  # (B, 2Z, 1)
    mu, log_sigma = encoded.transpose(1, 2).chunk(2, dim=-1)
    return Gaussian(mu, log_sigma.clamp(-LOG_SIGMA_LIMIT, LOG_SIGMA_LIMIT))


class ReferenceStudent(OrionLite):
    """The student as the reference computes it: whole tokens, torch's decoder, step after step."""

    def forward(  # ty: ignore[incompatible-method-override]  # it reads vision tokens
        self, vision_tokens: Tensor, *, trajectory: Tensor | None, noise: Tensor | None
    ) -> Prediction:
        """Predict from whole vision tokens (B, N, D)."""
        memory = self.embed_tokens(vision_tokens)  # (B, N, H)
        query = self.planning_query.expand(len(memory), -1, -1)
        token = self.norm_output(self.output_proj(self.transformer_decoder(query, memory)[:, 0]))  # (B, D)
        assert trajectory is not None
        present = convolve(self.present_distribution, token)
        future = convolve(self.future_distribution, torch.cat([token, trajectory.flatten(1)], dim=-1))
        steps = self.planner_config.steps
        z = future.at(noise).transpose(0, 1).expand(steps, -1, -1)
        states = self.predict_model(z, self._initial_state(token))  # (T, B, D)
        offsets = [
            self.ego_fut_decoder(torch.cat([token, state], dim=-1)).unflatten(-1, (-1, 2)) for state in states
        ]
        return Prediction(token, torch.stack(offsets, dim=2), present, future)


class ReferenceTrainer:
    """The reference's training step.

    Args:
        model: The student.
        losses: The five losses.
        device: Where it computes.
    """

    def __init__(self, model: ReferenceStudent, losses: Mapping[str, Loss], *, device: str) -> None:
        self.model, self.losses, self.device = model.to(device).train(), losses, device
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=1e-4)

    def step(self, batch: Batch) -> dict[str, float]:
        """Train on a batch of the loader; return the values of the losses."""
        batch = {name: value.to(self.device) for name, value in batch.items()}
        features = to_our_features(batch)
        noise = torch.randn(len(features["command"]), 1, self.model.planner_config.latent, device=self.device)
        predicted = self.model(batch["visual_queries"], trajectory=features["ego_trajectory"], noise=noise)
        terms = {name: loss(predicted, features) for name, loss in self.losses.items()}
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        # The reference reads each term twice: for its sums and for its progress bar.
        shown = {name: term.item() for name, term in {**terms, "total": total}.items()}
        return {name: term.item() for name, term in terms.items()} | shown
