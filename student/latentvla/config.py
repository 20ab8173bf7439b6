"""Sizes and options of LatentVLA-R, except what the dataset decides."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from student.latentvla.planner.resnet import STAGES
from student.open_loop.ground_truth import Mask


class _Sizes(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TransFuserConfig(_Sizes):
    """Sizes of the latent TransFuser; the defaults are NAVSIM's.

    The image's size comes from the dataset.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Channels of the four stages of both residual networks."""
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks of the four stages."""
    bev_input: Literal["learned", "grid"] = "learned"
    """What the branch of the bird's-eye view sees: a ``learned`` image, as NAVSIM's, or a ``grid`` of row and
    column, as LEAD's."""
    bev_pixels: int = Field(256, gt=0)
    """Its rows and columns, a multiple of 32."""
    fusion_blocks: int = Field(2, gt=0)
    """Blocks of the transformer that fuses both branches after every stage."""
    fusion_heads: int = Field(4, gt=0)
    """Attention heads of each; they divide every stage's channels."""
    fusion_inner: int = Field(4, gt=0)
    """Inner width of its feed-forward networks, as a multiple of the stage's channels."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout of these transformers while training."""
    width: int = Field(256, gt=0)
    """Width of the planner's tokens."""
    layers: int = Field(3, gt=0)
    """Layers of the planner's decoder."""
    heads: int = Field(8, gt=0)
    """Attention heads of each; they divide the width."""
    inner: int = Field(1024, gt=0)
    """Inner width of its feed-forward networks and heads."""
    boxes: int = Field(30, gt=0)
    """Other vehicles that it finds."""
    bev_channels: int = Field(64, gt=0)
    """Channels of the map seen from above."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> TransFuserConfig:
        if len(self.widths) != STAGES or len(self.blocks) != STAGES:
            raise ValueError(f"there are {STAGES} stages, not {len(self.widths)} and {len(self.blocks)}")
        if min(*self.widths, *self.blocks) < 1:
            raise ValueError(f"every stage has a channel and a block: {self.widths}, {self.blocks}")
        if any(width % self.fusion_heads for width in self.widths):
            raise ValueError(f"widths {self.widths} are no multiples of fusion_heads {self.fusion_heads}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if self.bev_pixels % 32:
            raise ValueError(f"bev_pixels {self.bev_pixels} is no multiple of 32")
        return self


class DecisionConfig(_Sizes):
    """Sizes of the decision transformer; the defaults are the 50 million weights of the paper."""

    layers: int = Field(12, gt=0)
    """Layers of the decoder."""
    width: int = Field(512, gt=0)
    """Its width."""
    heads: int = Field(8, gt=0)
    """Attention heads of each layer; they divide the width."""
    inner: int = Field(2048, gt=0)
    """Inner width of each layer's feed-forward network."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout while training."""
    decoding: Literal["autoregressive", "parallel"] = "autoregressive"
    """Whether each code is told from those before it, or all at once."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> DecisionConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self


class LatentVlaConfig(_Sizes):
    """Sizes and options of a student; those of the image, the codes and the states come from the dataset."""

    embeddings: Literal["none", "teacher", "student", "zero", "noise"] = "none"
    """Where the embeddings come from that are mixed into the planner: ``none`` leaves the plain latent
    TransFuser; ``teacher`` pools the vision-language model's stored states; ``student`` tells them with the
    decision transformer. ``zero`` and ``noise`` put zeros and random numbers in place of the stored states,
    with all else as with ``teacher``."""
    prefix: Literal["codes", "code_labels"] = "codes"
    """What the decision transformer is given before each code in training: the codes that the teacher chose,
    or the labels. When it drives, it is given its own."""
    mask: Mask = "complete"
    """Which samples have ground truth: ``complete`` or ``orion``, which leaves out a clip's first ten
    frames."""
    planner: TransFuserConfig = TransFuserConfig()
    """Sizes of the planner."""
    decision: DecisionConfig = DecisionConfig()
    """Sizes of the decision transformer."""
    visual_embeddings: int = Field(16, gt=0)
    """Embeddings of what the model saw."""
    action_embeddings: int = Field(4, gt=0)
    """Embeddings of what it intends."""
    embedding_heads: int = Field(8, gt=0)
    """Attention heads of the pools and of the fusion; they divide the planner's width."""

    @model_validator(mode="after")
    def _heads_divide_the_planners_width(self) -> LatentVlaConfig:
        if self.planner.width % self.embedding_heads:
            raise ValueError(
                f"planner.width {self.planner.width} is no multiple of embedding_heads {self.embedding_heads}"
            )
        return self
