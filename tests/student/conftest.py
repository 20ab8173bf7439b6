"""A tiny latent dataset, written through the real store, with the released student's shape of things."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save

from cache_schema.dataset.writer import DatasetWriter
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo, Split
from cache_schema.format.manifest import AssetSpec, CodeIdentity, DataIdentity, Manifest, TeacherIdentity
from cache_schema.storage.atomic_io import sha256_bytes
from cache_schema.vocabulary.driving import GROUND_TRUTH, GROUND_TRUTH_AGENTS, LIDAR
from student.open_loop.occupancy import Agents
from student.orion_lite.planner import Planner, PlannerConfig
from tests.paths import GOLDEN
from tests.student.recipes import small

WIDTH, QUERY = 32, 6
SEGMENTS = (("scene", 5), ("history", 2), ("map", 4))
PLANNER = PlannerConfig(token_width=WIDTH, latent=4)
CLIPS: dict[str, tuple[Split, int]] = {
    "clip-a": ("train", 16),
    "clip-b": ("train", 15),
    "clip-c": ("val", 24),
}


def _computed(name, axes, shape, role, **more):
    return FeatureSpec(name=name, shape=shape, axes=axes, dtype="float16", role=role, **more)


COMPUTED = (
    _computed("scene_queries", ("query", "channel"), (11, QUERY), "input", segments=SEGMENTS),
    _computed("ego_token", ("channel",), (WIDTH,), "input"),
    _computed("planning_token", ("channel",), (WIDTH,), "target"),
    _computed("lane_points", ("lane", "point", "xy"), (3, 11, 2), "target", unit="m", frame=LIDAR),
    _computed("lane_logits", ("lane", "class"), (3, 6), "target"),
    _computed("agent_xy", ("agent", "xy"), (4, 2), "target", unit="m", frame=LIDAR),
    _computed("agent_class_scores", ("agent", "class"), (4, 9), "target"),
    _computed("agent_offsets", ("agent", "step", "xy"), (4, 6, 2), "target", unit="m", frame=LIDAR),
)


TOWNS = {"clip-a": "Town03", "clip-b": "Town05", "clip-c": "Town05"}


def car_over_the_ego(frames):
    """A car of 4 m by 2 m, its middle over that of the ego's footprint, which never moves."""
    places = {spec.name: np.zeros((frames, *spec.shape), spec.dtype) for spec in GROUND_TRUTH_AGENTS}
    places["truth_agent_classes"][:, 1:] = -1
    places["truth_agent_boxes"][:, 0] = (0.0, 0.5, 4.0, 2.0, np.pi / 2)
    places["truth_agent_offsets_mask"][:, 0] = True
    places["truth_agent_count"][:] = 1
    return places


def write_dataset(path, *, clips=CLIPS, without=(), weights="random:0", planner=None, future=True):
    """Write a dataset in which the planning token and the trajectory follow from the inputs.

    Without a future, nothing moves in it, and no step is known.
    """
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    heads = {
        "scene.weight": torch.randn(WIDTH, QUERY),
        "scene.bias": torch.randn(WIDTH),
        "map.weight": torch.randn(WIDTH, QUERY),
        "map.bias": torch.randn(WIDTH),
    }
    assets = {
        "teacher_heads.safetensors": save(heads),
        "teacher_planner.safetensors": save(planner or Planner(PLANNER).state_dict()),
    }
    manifest = Manifest(
        features=tuple(spec for spec in (*COMPUTED, *GROUND_TRUTH) if spec.name not in without),
        teacher=TeacherIdentity(name="tiny", weights=weights, precision="fp32"),
        data=DataIdentity(name="synthetic", licence="CC0-1.0", frame_rate_hz=10.0),
        code=CodeIdentity(teachonce="0", libraries={}),
        assets=tuple(
            AssetSpec(name=name, sha256=sha256_bytes(content), nbytes=len(content))
            for name, content in assets.items()
        ),
    )
    mixing = rng.normal(size=(QUERY, WIDTH)) / QUERY
    with DatasetWriter(path, manifest, assets) as writer:
        for name, (split, frames) in clips.items():
            queries = rng.normal(size=(frames, 11, QUERY))
            speed = rng.uniform(0, 10, size=frames)
            can_bus = np.zeros((frames, 18))
            can_bus[:, 7] = speed
            step = np.arange(frames)[:, None] + 5 * np.arange(1, 7)
            complete = np.broadcast_to(step < frames + 20, (frames, 6))
            offsets = np.zeros((frames, 6, 2))
            offsets[..., 1] = 0.5 * speed[:, None]
            frame = {
                "scene_queries": queries,
                "ego_token": rng.normal(size=(frames, WIDTH)),
                "planning_token": np.tanh(queries.mean(axis=1) @ mixing * 4),
                "lane_points": rng.uniform(-20, 20, size=(frames, 3, 11, 2)),
                "lane_logits": rng.normal(size=(frames, 3, 6)),
                "agent_xy": rng.uniform(-20, 20, size=(frames, 4, 2)),
                "agent_class_scores": rng.uniform(size=(frames, 4, 9)),
                "agent_offsets": rng.normal(size=(frames, 4, 6, 2)),
                "ego_trajectory": offsets * complete[..., None],
                "ego_trajectory_mask": complete,
                "command": np.full(frames, 3),
                "timestamp": np.arange(frames) / 10,
                "frame_index": np.arange(frames),
                "ego_pose": np.broadcast_to(np.eye(4), (frames, 4, 4)),
                "can_bus": can_bus,
                **car_over_the_ego(frames),
            }
            if not future:
                unknown = (
                    "ego_trajectory",
                    "ego_trajectory_mask",
                    *(spec.name for spec in GROUND_TRUTH_AGENTS),
                )
                frame |= {key: np.zeros_like(frame[key]) for key in unknown}
            clip = writer.clip(
                ClipInfo(name=name, frames=frames, split=split, tags={"town": TOWNS.get(name, "")})
            )
            clip.append({key: value for key, value in frame.items() if key not in without})
            clip.commit(wall_s=1.0)
    return path


@pytest.fixture(scope="session")
def dataset_path(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny.zarr")


@pytest.fixture
def config():
    return small()


@pytest.fixture(scope="session")
def write():
    """Return the function that writes such a dataset."""
    return write_dataset


@pytest.fixture(scope="session")
def recorded_metric():
    """Return what the authors' own metric returns (see tests/golden/metric)."""
    return load_file(GOLDEN / "metric/vectors.safetensors")


@pytest.fixture(scope="session")
def recorded_agents(recorded_metric):
    """Return the recording's agents as a dataset stores them, in places of which some are empty."""
    counts = recorded_metric["in.num_agents"]
    boxes, feats = recorded_metric["in.boxes"], recorded_metric["in.feats"]
    places = counts.max() + 2
    filled = np.arange(places) < counts[:, None]  # (N, A)

    def placed(rows, empty=0):
        values = np.full((*filled.shape, *rows.shape[1:]), empty, rows.dtype)
        values[filled] = rows
        return values

    heading = -boxes[:, 6] - np.pi / 2
    moves = np.concatenate([feats[:, :12].reshape(-1, 6, 2), feats[:, 28:34, None]], axis=-1)
    return Agents(
        boxes=placed(np.column_stack([boxes[:, :2], boxes[:, 4], boxes[:, 3], heading]).astype(np.float32)),
        classes=placed(feats[:, 27].astype(np.int8), empty=-1),
        offsets=placed(moves),
        mask=placed(feats[:, 12:18] == 1),
    )
