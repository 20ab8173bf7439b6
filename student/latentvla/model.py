"""LatentVLA-R's network: the planner, and in front of it what stands for the vision-language model.

Dimension letters: B batch, R row, S column, N position of a code, C cell of the model's images, V width of
its states, M token of the planner's scene, D width of such a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cache_schema.vocabulary.driving import ACCELERATION, CAN_BUS, COMMAND, COMMANDS, SPEED
from cache_schema.vocabulary.latent_actions import ACT_HIDDEN, CAMERA_STRIP, VIS_POOLED
from student.latentvla.embeddings.decision_transformer import DecisionTransformer
from student.latentvla.embeddings.fusion import Fusion, Pools
from student.latentvla.planner.latent_transfuser import LatentTransFuser
from student.latentvla.prediction import Embeddings, Prediction

if TYPE_CHECKING:
    from student.latentvla.config import LatentVlaConfig

BRIGHTEST = 255
"""Value of a pixel that is 1 for the network."""
DRIVING = (CAMERA_STRIP, COMMAND, CAN_BUS)
"""What every student reads; all of it is known at its frame."""
STATES = (VIS_POOLED, ACT_HIDDEN)
"""The teacher's states that pools read."""
STATE = len(COMMANDS) + 4
"""Numbers of the ego's state: the command, velocity forward and sideways, acceleration likewise."""


class Sizes(NamedTuple):
    """What the dataset decides."""

    image: tuple[int, int]
    """Rows and columns of the image, multiples of 32."""
    steps: int
    """Steps of a trajectory."""
    codes: tuple[int, int] | None = None
    """Codes of a frame N, and values of a code K; needed by a decision transformer."""
    states: int | None = None
    """Width V of the vision-language model's states; needed by pools."""


class LatentVla(nn.Module):
    """The planner alone, with pools of the teacher's states, or with a decision transformer in their place.

    Args:
        config: Sizes and options.
        sizes: What the dataset decides. A network with ``embeddings="student"`` has pools, to learn from,
            where it knows the width of states.
    """

    def __init__(self, config: LatentVlaConfig, sizes: Sizes) -> None:
        super().__init__()
        self.config = config
        width, heads = config.planner.width, config.embedding_heads
        visual, action = config.visual_embeddings, config.action_embeddings
        self.planner = LatentTransFuser(
            config.planner, image_size=sizes.image, state=STATE, steps=sizes.steps
        )
        self.fusion = self.pools = self.decision = None
        if config.embeddings == "none":
            return
        self.fusion = Fusion(width, heads)
        if config.embeddings == "student":
            if sizes.codes is None:
                raise ValueError("a decision transformer needs the number of codes")
            positions, codes = sizes.codes
            self.decision = DecisionTransformer(
                config.decision, width, positions=positions, codes=codes, visual=visual, action=action
            )
        elif sizes.states is None:
            raise ValueError("pools need the width of the states that they pool")
        if sizes.states is not None:
            self.pools = Pools(sizes.states, width, visual=visual, action=action, heads=heads)

    def forward(
        self,
        strip: Tensor,
        command: Tensor,
        can_bus: Tensor,
        *,
        states: tuple[Tensor, Tensor] | None = None,
        codes: Tensor | None = None,
    ) -> Prediction:
        """Plan from what is known at a frame.

        Args:
            strip: (B, R, S, 3) uint8 pixels of the front cameras.
            command: (B) driving command.
            can_bus: (B, 18) as driving datasets hold it.
            states: (B, C, V) at image tokens and (B, N, V) at codes, of the teacher.
            codes: (B, N) before each code; None lets the decision transformer choose its own.
        """
        scene = self.scene(strip, command, can_bus)
        if self.fusion is None:
            return Prediction(self.planner.plan(scene))
        logits = told = pooled = None
        if self.decision is not None:
            logits, told = self.decision(scene, codes)
        if self.pools is not None and states is not None:
            # Where the decision transformer tells embeddings, the pools are what it learns from.
            with torch.set_grad_enabled(torch.is_grad_enabled() and told is None):
                pooled = self.pools(*states)
        plan = self.planner.plan(self._fused(scene, told or pooled))
        return Prediction(plan, logits, told, pooled)

    def scene(self, strip: Tensor, command: Tensor, can_bus: Tensor) -> Tensor:
        """Return what planner and decision transformer read, (B, M, D): cells, then the ego's state."""
        cells = self.planner.bev_cells(strip.permute(0, 3, 1, 2).float() / BRIGHTEST)
        return self.planner.scene(cells, ego_state(command, can_bus))

    def _fused(self, scene: Tensor, embeddings: Embeddings | None) -> Tensor:
        """Mix embeddings into the cells of a scene; its last token is the ego's state."""
        if self.fusion is None or embeddings is None:
            raise ValueError("the planner needs the teacher's states, or a decision transformer")
        cells, state = scene.tensor_split((self.planner.cells,), dim=1)
        return torch.cat([self.fusion(cells, embeddings), state], dim=1)


def ego_state(command: Tensor, can_bus: Tensor) -> Tensor:
    """Return the ego's state (B, 10) in its own coordinates: x forward, y left; metres and seconds.

    Args:
        command: (B) driving command.
        can_bus: (B, 18). It holds the forward speed, and no lateral one.
    """
    chosen = F.one_hot(command, len(COMMANDS)).to(can_bus.dtype)
    speed = can_bus[:, SPEED, None]
    acceleration = torch.stack([can_bus[:, place] for place in ACCELERATION], dim=1)
    return torch.cat([chosen, speed, torch.zeros_like(speed), acceleration], dim=1)
