"""A tiny dataset of latent actions, written through the real store: its images decide codes and ways."""

import numpy as np
import pytest

from cache_schema.dataset.writer import DatasetWriter
from cache_schema.format.ledger import ClipInfo, Split
from cache_schema.format.manifest import CodeIdentity, DataIdentity, Manifest, TeacherIdentity
from cache_schema.vocabulary.driving import GROUND_TRUTH, GROUND_TRUTH_AGENTS, SPEED, TRAJECTORY_STEPS
from cache_schema.vocabulary.latent_actions import camera_strip, code_labels, latent_action_features
from tests.student.latentvla.sizes import SIZES

CLIPS: dict[str, tuple[Split, int]] = {
    "clip-a": ("train", 40),
    "clip-b": ("train", 33),
    "clip-c": ("val", 12),
    "clip-d": ("val", 12),
}
CODES = SIZES.codes[1]
CELLS = {"front": 6}


def one_car(frames, ahead):
    """A car of 4 m by 2 m, so many metres (F) ahead of the ego and headed as it is."""
    places = {spec.name: np.zeros((frames, *spec.shape), spec.dtype) for spec in GROUND_TRUTH_AGENTS}
    places["truth_agent_classes"][:, 1:] = -1
    boxes = places["truth_agent_boxes"][:, 0]
    boxes[:, 1], boxes[:, 2:] = ahead, (4.0, 2.0, np.pi / 2)
    places["truth_agent_count"][:] = 1
    return places


def write_dataset(
    path,
    *,
    clips=CLIPS,
    without=(),
    strip=SIZES.image[::-1],
    labels=True,
    act_width=SIZES.states,
    positions=SIZES.codes[0],
):
    """Write a dataset in which a bright column tells the first code, and each code the next.

    The way bends to the side of the column; what the teacher's states hold are the codes.
    """
    rng = np.random.default_rng(0)
    width, height = strip
    specs = [
        spec.model_copy(update={"shape": (positions, act_width)}) if spec.name == "act_hidden" else spec
        for spec in latent_action_features(positions, CODES, SIZES.states, CELLS)
    ]
    specs = (*specs, code_labels(positions), camera_strip(width, height))
    manifest = Manifest(
        features=tuple(spec for spec in (*specs, *GROUND_TRUTH) if spec.name not in without),
        teacher=TeacherIdentity(name="tiny-vlm", weights="random:0", precision="fp32"),
        data=DataIdentity(name="synthetic", licence="CC0-1.0", frame_rate_hz=10.0),
        code=CodeIdentity(teachonce="0", libraries={}),
    )
    code_of_state = rng.normal(size=(CODES, SIZES.states))
    with DatasetWriter(path, manifest) as writer:
        for name, (split, frames) in clips.items():
            first = rng.integers(CODES, size=frames)
            codes = (first[:, None] * 3 ** np.arange(positions)) % CODES
            images = rng.integers(0, 60, size=(frames, height, width, 3))
            for frame, code in enumerate(first):
                columns = slice(code * width // CODES, (code + 1) * width // CODES)
                images[frame, :, columns] += 160
            speed = rng.uniform(2, 8, size=frames)
            side = (first - (CODES - 1) / 2) / CODES  # to the right
            can_bus = np.zeros((frames, 18))
            can_bus[:, SPEED] = speed
            complete = np.arange(frames)[:, None] + 5 * np.arange(1, TRAJECTORY_STEPS + 1) < frames + 20
            steps = np.stack([side, 0.5 * speed], axis=-1)[:, None].repeat(TRAJECTORY_STEPS, axis=1)
            hidden = np.zeros((frames, positions, act_width))
            hidden[..., : SIZES.states] = code_of_state[codes]
            seen = np.repeat(code_of_state[first][:, None], sum(CELLS.values()), axis=1)
            known = np.where(complete[:, :positions] & labels, codes, -1)
            frame = {
                "codes": codes,
                "code_logits": 4.0 * np.eye(CODES)[codes] + 0.3 * rng.normal(size=(frames, positions, CODES)),
                "code_mass": np.full((frames, positions), 0.9),
                "act_hidden": hidden + 0.1 * rng.normal(size=hidden.shape),
                "vis_pooled": seen,
                "code_labels": known,
                "camera_strip": images,
                "ego_trajectory": steps * complete[..., None],
                "ego_trajectory_mask": complete,
                "command": rng.integers(6, size=frames),
                "timestamp": np.arange(frames) / 10,
                "frame_index": np.arange(frames),
                "ego_pose": np.broadcast_to(np.eye(4), (frames, 4, 4)),
                "can_bus": can_bus,
                **one_car(frames, 3 * speed),
            }
            clip = writer.clip(ClipInfo(name=name, frames=frames, split=split))
            clip.append({key: value for key, value in frame.items() if key not in without})
            clip.commit(wall_s=1.0)
    return path


@pytest.fixture(scope="session")
def dataset_path(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("latentvla") / "tiny.zarr")


@pytest.fixture(scope="session")
def write():
    """Return the function that writes such a dataset."""
    return write_dataset
