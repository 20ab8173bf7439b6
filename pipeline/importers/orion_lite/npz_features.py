"""Frames of a dump as features (spec: Orion-Lite, section 1.4).

Dimension letters: n frames, N tokens, D width of a token, A agents, M modes, T steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cache_schema.errors import CheckpointError, ClipError
from cache_schema.format.features import FeatureSpec
from cache_schema.vocabulary.driving import COMMANDS, GROUND_TRUTH
from cache_schema.vocabulary.orion import vision_tokens
from pipeline.bench2drive.clips import FRAME_RATE_HZ
from pipeline.importers.orion_lite.npz_dump import TOKENS, read_frame
from pipeline.importers.orion_lite.query_recovery import TOLERANCE, QueryRecovery

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.teachers.orion.network.config import OrionConfig
    from pipeline.teachers.orion.presets import OrionPreset

Frame = dict[str, np.ndarray]

COMPUTED_FROM = {
    "planning_token": ("planning_token",),
    "lane_points": ("lane_preds",),
    "lane_logits": ("lane_scores",),
    "agent_xy": ("agent_preds",),
    "agent_class_scores": ("agent_score_preds",),
    "agent_offsets": ("agent_fut_preds", "agent_fut_cls_preds"),
    "ego_trajectory": ("ego_fut_trajs", "ego_fut_masks"),
    "ego_trajectory_mask": ("ego_fut_masks",),
    "command": ("ego_fut_cmd",),
}
"""Feature -> arrays of a frame that it is computed from; all but the tokens, the time and the number."""

MASK = "True where the dump has a truth: ORION's reading, in which the first ten frames of a clip have none."
"""Description of a dump's mask, which differs from that of an extraction."""


class FrameConversion:
    """Converts frames of a dump to values of features.

    Args:
        probes: Some frames: what one of them holds is promised for all.
        preset: Sizes of the teacher that made the dump.
        heads: Its projections; None to keep tokens at full width.

    Raises:
        ClipError: The probes hold no tokens or no planning token, or others than this teacher computes.
        CheckpointError: The projections are not those of the dump.
    """

    def __init__(
        self, probes: list[Frame], preset: OrionPreset, heads: Mapping[str, np.ndarray] | None
    ) -> None:
        tokens = [frame[TOKENS] for frame in probes if TOKENS in frame]
        with_tokens = [values for values in tokens if values.ndim == 2 and np.isfinite(values).all()]
        if not with_tokens:
            raise ClipError(
                f"the first frames of the dump hold no finite {TOKENS} (N, D)",
                expected="what Orion-Lite's collector writes",
                repair="give the folder that the collector wrote to",
            )
        self._modes = preset.config.detection.modes
        self._token_shape = with_tokens[0].shape
        self._recovery = None
        offered = {spec.name: spec for spec in (*preset.features, *GROUND_TRUTH)}
        if heads is None:
            inputs = (_full_width(self._token_shape),)
        else:
            segments = _segments(self._token_shape, preset.config)
            shape = (len(with_tokens[0]) - 1, preset.config.width)
            queries = offered["scene_queries"].model_copy(update={"shape": shape, "segments": segments})
            inputs = (queries, offered["ego_token"])
            derivation = vision_tokens(*inputs)
            assert derivation is not None, "ORION's own segments are those of vision tokens"
            self._recovery = QueryRecovery(heads, derivation)
            self._check_heads([tokens for tokens in with_tokens if tokens.shape == self._token_shape])
        self._converted: list[FeatureSpec] = []
        self.lacking: dict[str, str] = {}
        """Features of an extraction that the dump has no data for, and why."""
        for name, spec in offered.items():
            if name in COMPUTED_FROM:
                fault = self._fault(spec, probes)
                if fault is None:
                    is_mask = name == "ego_trajectory_mask"
                    self._converted.append(spec.model_copy(update={"description": MASK}) if is_mask else spec)
                else:
                    self.lacking[name] = fault
            elif name not in {"scene_queries", "ego_token", "timestamp", "frame_index"}:
                self.lacking[name] = "a dump does not hold it"
        if "planning_token" in self.lacking:
            raise ClipError(
                f"the first frames of the dump hold no planning token: {self.lacking['planning_token']}",
                expected=f"what Orion-Lite's collector writes with the teacher {preset.name}",
                repair="give the folder that the collector wrote to",
            )
        self.features = (*inputs, *self._converted, offered["timestamp"], offered["frame_index"])
        """Features of every frame."""

    def load(self, number: int, path: Path) -> Frame:
        """Read one frame; return its value of every feature, with the tokens still projected.

        Raises:
            ClipError: The file does not open, or is not like the others.
        """
        frame = read_frame(path)
        values = {TOKENS: _shaped(frame, TOKENS, self._token_shape)}
        if not np.isfinite(values[TOKENS]).all():
            raise _misfit(f"{TOKENS} holds values that overflowed")
        values |= {spec.name: _value(spec, frame, self._modes) for spec in self._converted}
        values["timestamp"] = np.array(number / FRAME_RATE_HZ)
        values["frame_index"] = np.array(number)
        return values

    def finish(self, frames: list[Frame]) -> tuple[Frame, np.ndarray]:
        """Stack n frames, tokens as they are stored; also return the relative error (n) of the tokens."""
        values = {name: np.stack([frame[name] for frame in frames]) for name in frames[0]}
        tokens = values.pop(TOKENS)  # (n, N, D)
        if self._recovery is None:
            return values | {"vision_tokens": tokens}, np.zeros(len(tokens))
        queries, ego, errors = self._recovery(tokens)
        return values | {"scene_queries": queries, "ego_token": ego}, errors

    def _fault(self, spec: FeatureSpec, probes: list[Frame]) -> str | None:
        """Return why a feature can be computed from none of these frames; None if it can from one."""
        faults = []
        for frame in probes:
            try:
                _value(spec, frame, self._modes)
            except ClipError as error:
                faults.append(error.happened)
            else:
                return None
        return faults[0]

    def _check_heads(self, tokens: list[np.ndarray]) -> None:
        assert self._recovery is not None
        errors = self._recovery(np.stack(tokens))[2]
        # One valid frame is enough: every frame is checked again when it is read.
        if not (errors <= TOLERANCE).any():
            raise CheckpointError(
                f"the projections do not fit the dump: its tokens are {errors.min():.1e} from any queries",
                expected=f"a relative error of at most {TOLERANCE:g}, the rounding of float16",
                repair="give the heads of the teacher that made the dump, or none to keep full width",
            )


def _full_width(shape: tuple[int, ...]) -> FeatureSpec:
    return FeatureSpec(
        name="vision_tokens",
        shape=shape,
        axes=("token", "channel"),
        dtype="float16",
        role="input",
        description="Scene, history, ego and map tokens that the language model saw.",
    )


def _segments(tokens: tuple[int, ...], config: OrionConfig) -> tuple[tuple[str, int], ...]:
    """Return the segments of the queries behind (N, D) tokens: some dumps are without history."""
    without_history = tuple(segment for segment in config.scene_segments if segment[0] != "history")
    shapes: dict[tuple[int, ...], tuple[tuple[str, int], ...]] = {
        (sum(length for _, length in segments) + 1, config.language.width): segments
        for segments in (config.scene_segments, without_history)
    }
    if tokens not in shapes:
        raise ClipError(
            f"the dump has {TOKENS} {tokens}",
            expected=" or ".join(f"{shape}" for shape in shapes),
            repair="import it without heads, at full width",
        )
    return shapes[tokens]


def _value(spec: FeatureSpec, frame: Frame, modes: int) -> np.ndarray:
    """Return one feature of one frame, in the feature's shape."""
    first = COMPUTED_FROM[spec.name][0]
    if spec.name == "agent_offsets":
        agents = spec.fixed_shape[0]
        futures = _shaped(frame, first, (agents, modes, *spec.fixed_shape[1:]))  # (A, M, T, 2)
        likeliest = _shaped(frame, "agent_fut_cls_preds", (agents, modes)).argmax(axis=1)  # (A)
        return futures[np.arange(agents), likeliest]
    if spec.name == "command":
        one_hot = frame[first] if first in frame else np.zeros(0)
        if one_hot.shape != (len(COMMANDS),) or sorted(one_hot.tolist()) != [0] * (len(COMMANDS) - 1) + [1]:
            raise _misfit(f"{first} is not one of {len(COMMANDS)} commands")
        return one_hot.argmax().astype(spec.dtype)
    values = _shaped(frame, first, spec.fixed_shape)
    if spec.name == "ego_trajectory":
        mask = _shaped(frame, "ego_fut_masks", spec.fixed_shape[:1])  # (T)
        return np.where(mask[:, None] > 0, values, 0)
    return values > 0 if spec.dtype == "bool" else values


def _shaped(frame: Frame, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of the frame, read without its unit dimensions, in the shape that it must have."""
    if key not in frame:
        raise _misfit(f"{key} is missing")
    if frame[key].shape != tuple(size for size in shape if size != 1):
        raise _misfit(f"{key} has shape {frame[key].shape}, not {shape}")
    return frame[key].reshape(shape)


def _misfit(what: str) -> ClipError:
    return ClipError(
        what,
        expected="a frame with the same arrays as the dump's first",
        repair="collect this frame again",
    )
