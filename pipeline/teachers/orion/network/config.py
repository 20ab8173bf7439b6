"""Every size of ORION. The defaults are the released model's."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.teachers.orion.network.prompt import IMAGE_PLACEHOLDER, PROMPT, WAYPOINT

DETECTION_RANGE_M = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)
"""Boxes and lanes are normalised over this volume: minima, then maxima of x, y, z in the LiDAR frame."""

RAY_RANGE_M = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)
"""Points along camera rays are normalised over this larger volume."""

CAN_BUS_SIGNALS = 18
"""Numbers of a CAN bus: position, quaternion, velocity, acceleration, rotation rate, two yaws."""


@dataclass(frozen=True)
class BackboneConfig:
    """Image backbone: EVA-02, a plain vision transformer."""

    image_size: int = 640
    """Height and width of the network's input image, in pixels."""
    patch_size: int = 16
    """Height and width of the patch behind one token, in pixels."""
    width: int = 1024
    """Channels of a token."""
    heads: int = 16
    """Attention heads of every block."""
    depth: int = 24
    """Blocks."""
    mlp_width: int = 2730
    """Hidden channels of a block's gated MLP."""
    window: int = 16
    """Height and width of an attention window, in tokens."""
    global_blocks: tuple[int, ...] = (2, 5, 8, 11, 14, 17, 20, 23)
    """Blocks that attend to the whole image; all others attend within windows."""

    @property
    def grid(self) -> int:
        """Tokens along either side of an image."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class DecoderConfig:
    """Query decoder: self-attention, attention to image tokens, feed-forward."""

    layers: int = 6
    """Layers."""
    heads: int = 8
    """Attention heads of every layer."""
    ffn_width: int = 2048
    """Hidden channels of the feed-forward network."""


@dataclass(frozen=True)
class DetectionConfig:
    """Detection head: objects, their futures, scene tokens, history tokens and the ego token."""

    scene_queries: int = 256
    """Queries that become scene tokens for the language model."""
    learned_queries: int = 600
    """Object queries with learned reference points."""
    kept: int = 300
    """Best objects of a frame, which enter the memory and come back as queries one frame later."""
    memory_frames: int = 2
    """Frames whose kept objects are remembered."""
    history_tokens: int = 16
    """History tokens made from every frame."""
    history: int = 256
    """History tokens remembered, of all earlier frames together."""
    classes: int = 9
    """Object classes."""
    modes: int = 6
    """Alternative futures of every object."""
    steps: int = 6
    """0.5 s steps of every future."""
    small_ffn_width: int = 512
    """Hidden channels in the one-layer decoders of history and motion."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    @property
    def objects(self) -> int:
        """Object queries of a frame: learned and propagated."""
        return self.learned_queries + self.kept

    @property
    def memory(self) -> int:
        """Remembered objects."""
        return self.memory_frames * self.kept

    @property
    def ego_inputs(self) -> int:
        """Numbers behind the ego token: signals now; signals and mean pose of each remembered frame."""
        signals = CAN_BUS_SIGNALS + 1
        return signals + self.memory_frames * (signals + 16)


@dataclass(frozen=True)
class MapConfig:
    """Map head: lanes and map tokens."""

    map_queries: int = 256
    """Queries that become map tokens for the language model."""
    lanes: int = 300
    """Lane queries."""
    trained_lanes: int = 1800
    """Rows of the checkpoint's lane table. Those beyond ``lanes`` helped training and touch nothing else."""
    kept: int = 300
    """Best lanes of a frame, which enter the memory."""
    memory_frames: int = 2
    """Frames whose kept lanes are remembered."""
    classes: int = 6
    """Lane classes."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)

    @property
    def memory(self) -> int:
        """Remembered lanes."""
        return self.memory_frames * self.kept


@dataclass(frozen=True)
class LanguageConfig:
    """Language model: Llama (Vicuna 7B v1.5), and the constant prompt it reads."""

    vocabulary: int = 32001
    """Rows of the embedding table."""
    width: int = 4096
    """Channels of a token: also the width of vision tokens and of the planning token."""
    mlp_width: int = 11008
    """Hidden channels of a layer's gated MLP."""
    layers: int = 32
    """Layers."""
    heads: int = 32
    """Attention heads of every layer."""
    max_positions: int = 4096
    """Longest sequence."""
    rms_norm_eps: float = 1e-5
    """Added to the mean square in every norm."""
    rope_theta: float = 10000.0
    """Base of the rotary position frequencies."""
    lora_rank: int = 16
    """Rank of the checkpoint's adapters, which are merged (with scale 1) when it is read."""
    prompt: tuple[int, ...] = PROMPT
    """Token ids, with the placeholder -200 where the vision tokens go."""
    waypoint: int = WAYPOINT
    """Id of the prompt's token whose last hidden state is the planning token."""

    def __post_init__(self) -> None:
        for token in (IMAGE_PLACEHOLDER, self.waypoint):
            if self.prompt.count(token) != 1:
                raise ValueError(
                    f"the prompt must hold the id {token} once, not {self.prompt.count(token)} times"
                )
        if not all(token == IMAGE_PLACEHOLDER or 0 <= token < self.vocabulary for token in self.prompt):
            raise ValueError(f"prompt ids must be below the vocabulary of {self.vocabulary}")


@dataclass(frozen=True)
class OrionConfig:
    """The whole model."""

    width: int = 256
    """Channels of queries in both heads."""
    lane_points: int = 11
    """Points of a lane."""
    depths: int = 64
    """Points along the ray of every image token."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    lanes: MapConfig = field(default_factory=MapConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)

    @property
    def scene_segments(self) -> tuple[tuple[str, int], ...]:
        """What the narrow scene queries are made of, in order."""
        detection = self.detection
        return (
            ("scene", detection.scene_queries),
            ("history", detection.history_tokens),
            ("map", self.lanes.map_queries),
        )

    @property
    def vision_tokens(self) -> int:
        """Tokens that stand for the images in the prompt: scene queries and the ego token."""
        return sum(length for _, length in self.scene_segments) + 1
