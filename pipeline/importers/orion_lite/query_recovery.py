"""Recovery of the narrow queries that vision tokens were projected from.

All but one of ORION's tokens are a linear map of narrower queries, so least squares recovers these, and the
residual shows whether the map was the right one (spec: Orion-Lite, sections 7.1 and 8.10).

Dimension letters: n frames, N tokens, Q = N - 1 queries, D width of a token, E width of a query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.torch import save

from cache_schema.errors import CheckpointError
from pipeline.teachers.orion.checkpoints.reader import read_weights
from pipeline.teachers.orion.checkpoints.tensors import PLANNER_PREFIX
from pipeline.teachers.weights import Fingerprint, refuse_placeholder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from cache_schema.format.derivations import Derivation
    from pipeline.teachers.orion.network.config import OrionConfig

HEADS = {
    "pts_bbox_head.output_projection.weight": "scene.weight",
    "pts_bbox_head.output_projection.bias": "scene.bias",
    "map_head.output_projection.weight": "map.weight",
    "map_head.output_projection.bias": "map.bias",
}
"""A teacher's projections by their names in the asset ``teacher_heads``."""
TOLERANCE = 3e-4
"""Largest relative error of a valid frame: tokens rounded to float16 are 2.1e-4 from their queries' map."""


@dataclass(frozen=True, eq=False)
class TeacherParts:
    """What an import takes from the teacher itself."""

    heads: dict[str, np.ndarray]
    """Asset ``teacher_heads``, float32."""
    assets: dict[str, bytes]
    """Files of the dataset's assets, by name."""
    weights: str
    """Digest of the whole checkpoint, or that it is not known."""


def read_teacher(path: Path, config: OrionConfig) -> TeacherParts:
    """Read the projections, and from a whole checkpoint the planner and the digest as well.

    Args:
        path: ``teacher_heads.safetensors`` as a dataset has it, ``Orion.pth``, or a folder made of it by
            ``convert``.
        config: Sizes of the teacher.

    Raises:
        CheckpointError: The file cannot be read, or does not fit these sizes.
    """
    if path.suffix == ".safetensors":
        heads = _read_heads(path, config)
        return TeacherParts(heads, {"teacher_heads.safetensors": path.read_bytes()}, "unknown")
    fingerprint = Fingerprint()
    found: dict[str, Tensor] = {}
    planner: dict[str, Tensor] = {}
    for name, weight in read_weights(path, config):
        fingerprint.add(name, weight)
        if name in HEADS:
            found[HEADS[name]] = weight.clone()
        elif name.startswith(PLANNER_PREFIX):
            planner[name.removeprefix(PLANNER_PREFIX)] = weight.clone()
    return TeacherParts(
        heads={name: weight.numpy() for name, weight in found.items()},
        assets={"teacher_heads.safetensors": save(found), "teacher_planner.safetensors": save(planner)},
        weights=str(fingerprint),
    )


class QueryRecovery:
    """Recovers queries and the ego token from tokens.

    Args:
        heads: Asset ``teacher_heads``.
        derivation: How tokens follow from queries and the ego token, which this undoes.

    Raises:
        CheckpointError: A projection has no full rank, so that queries cannot be recovered from their tokens.
    """

    def __init__(self, heads: Mapping[str, np.ndarray], derivation: Derivation) -> None:
        self.rows: list[tuple[str | None, slice]] = []
        """Projection, and the rows of tokens that are its output."""
        begin = 0
        for segment in derivation.segments:
            self.rows.append((segment.projection, slice(begin, begin + segment.length)))
            begin += segment.length
        self.tokens = begin
        projections = {projection for projection, _ in self.rows if projection is not None}
        self.weights = {name: heads[f"{name}.weight"] for name in projections}  # (D, E)
        self.biases = {name: heads[f"{name}.bias"] for name in projections}  # (D)
        self.inverses = {}
        for name, weight in self.weights.items():
            exact = weight.astype(np.float64)
            if np.linalg.matrix_rank(exact) < weight.shape[1]:
                raise CheckpointError(
                    f"the projection {name!r} has not the full rank {weight.shape[1]}",
                    expected="a projection that keeps queries apart",
                    repair="give the heads of the teacher that made the dump",
                )
            self.inverses[name] = np.linalg.pinv(exact).astype(np.float32).T  # (D, E)

    def __call__(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Recover queries.

        Args:
            tokens: (n, N, D).

        Returns:
            Queries (n, Q, E) float32, ego tokens (n, D) as they are, and the relative error (n) of the tokens
            that are projected from these queries, by the worse of the two projections.
        """
        parts, ego = [], tokens[:, :0]
        error, total = ({name: np.zeros(len(tokens)) for name in self.weights} for _ in range(2))
        for name, rows in self.rows:
            if name is None:
                ego = tokens[:, rows]
                continue
            projected = tokens[:, rows].astype(np.float32) - self.biases[name]  # (n, q, D)
            queries = projected @ self.inverses[name]  # (n, q, E)
            residual = projected - queries @ self.weights[name].T
            error[name] += np.square(residual).sum(axis=(1, 2))
            total[name] += np.square(tokens[:, rows], dtype=np.float32).sum(axis=(1, 2))
            parts.append(queries)
        # Tokens of zeros are exact if the residual is zero.
        ratios = [error[name] / np.where(total[name] > 0, total[name], 1) for name in self.weights]
        return np.concatenate(parts, axis=1), ego[:, 0], np.sqrt(np.max(ratios, axis=0))


def _read_heads(path: Path, config: OrionConfig) -> dict[str, np.ndarray]:
    expected = {
        name: (config.language.width, config.width) if name.endswith("weight") else (config.language.width,)
        for name in HEADS.values()
    }
    refuse_placeholder(path)
    try:
        heads = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}",
            expected="the asset teacher_heads.safetensors of a dataset, Orion.pth, or a converted folder",
            repair="correct the path, or fetch the file again",
        ) from error
    shapes = {name: weight.shape for name, weight in heads.items()}
    if shapes != expected or any(weight.dtype != np.float32 for weight in heads.values()):
        raise CheckpointError(
            f"{path} holds {', '.join(f'{name} {list(shape)}' for name, shape in sorted(shapes.items()))}",
            expected=", ".join(f"{name} {list(shape)}" for name, shape in sorted(expected.items()))
            + ", float32",
            repair="give the heads of the teacher that made the dump",
        )
    if bad := sorted(name for name, weight in heads.items() if not np.isfinite(weight).all()):
        raise CheckpointError(
            f"{path} holds values that are not finite in {', '.join(bad)}",
            expected="the projections of a teacher",
            repair="fetch the file again",
        )
    return heads
