"""Dumps as the collector writes them, made of known queries through known heads, and imported again."""

import io
import re
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import CheckpointError, ClipError, IdentityError
from cache_schema.format.features import FeatureSpec
from cache_schema.integrity.verify import verify
from cache_schema.vocabulary import orion
from pipeline.importers.orion_lite.import_npz import import_npz
from pipeline.importers.orion_lite.npz_dump import find_dump, read_frame
from pipeline.importers.orion_lite.query_recovery import QueryRecovery
from pipeline.teachers.orion.checkpoints.reader import digest, read_weights, released_shapes
from pipeline.teachers.orion.checkpoints.tensors import random_weights, teacher_shapes
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM
from tests.tokens import vision_tokens

CONFIG = ORION_TINY_RANDOM.config
WIDTH, QUERY = CONFIG.language.width, CONFIG.width
SCENE, HISTORY, MAP = (length for _, length in CONFIG.scene_segments)
AGENTS, MODES, LANES = CONFIG.detection.objects, CONFIG.detection.modes, CONFIG.lanes.lanes
CLIPS = {"Accident_Town03_Route1_Weather0": 12, "TJunction_Town05_Route2_Weather3": 3}
TRAIN, VAL = CLIPS


def known_heads(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    heads = {
        "scene.weight": rng.normal(size=(WIDTH, QUERY)) / np.sqrt(QUERY),
        "scene.bias": rng.normal(size=WIDTH) / 10,
        "map.weight": rng.normal(size=(WIDTH, QUERY)) / np.sqrt(QUERY),
        "map.bias": rng.normal(size=WIDTH) / 10,
    }
    return {name: weight.astype(np.float32) for name, weight in heads.items()}


HEADS = known_heads()


def known_frame(clip: str, number: int, *, history: int = HISTORY) -> dict[str, np.ndarray]:
    """Return the teacher's outputs: queries (Q, E) at full precision, and everything else."""
    rng = np.random.default_rng([len(clip), number])
    return {
        "queries": rng.normal(size=(SCENE + history + MAP, QUERY)),
        "ego": rng.normal(size=WIDTH),
        "planning_token": rng.normal(size=WIDTH),
        "ego_fut_trajs": rng.normal(size=(6, 2)),
        "ego_fut_masks": np.array([number >= 10] * 4 + [0, 0]),
        "ego_fut_cmd": np.eye(6)[number % 6],
        "lane_scores": rng.normal(size=(LANES, 6)),
        "lane_preds": rng.normal(size=(LANES, 11, 2)) * 20,
        "agent_preds": rng.normal(size=(AGENTS, 2)) * 20,
        "agent_fut_preds": rng.normal(size=(AGENTS, MODES, 6, 2)),
        "agent_score_preds": rng.random((AGENTS, 9)),
        "agent_fut_cls_preds": rng.random((AGENTS, MODES)),
    }


def dumped(known: dict[str, np.ndarray], heads=HEADS) -> dict[str, np.ndarray]:
    """Return the same as the collector writes it: everything float16, with its unit dimensions."""
    queries = known["queries"]
    narrow, lanes = queries[:-MAP], queries[-MAP:]
    tokens = np.concatenate(
        (
            narrow @ heads["scene.weight"].T + heads["scene.bias"],
            known["ego"][None],
            lanes @ heads["map.weight"].T + heads["map.bias"],
        )
    )
    arrays = {
        "visual_queries": tokens[None],
        "planning_token": known["planning_token"][None, None],
        "ego_fut_trajs": known["ego_fut_trajs"][None, None],
        "ego_fut_masks": known["ego_fut_masks"][None, None, None],
        "ego_fut_cmd": known["ego_fut_cmd"][None, None, None],
    }
    arrays |= {name: known[name][None] for name in known.keys() - arrays.keys() - {"queries", "ego"}}
    return {name: array.astype(np.float16) for name, array in arrays.items()}


def write_dump(folder: Path, clips=CLIPS, *, name="data_v1_{}_{}.npz", history=HISTORY, without=()) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for clip, frames in clips.items():
        for number in range(frames):
            arrays = dumped(known_frame(clip, number, history=history))
            kept = {key: array for key, array in arrays.items() if key not in without}
            np.savez_compressed(folder / name.format(clip, number), **kept)
    return folder


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("dump")
    write_dump(root / "train", {TRAIN: CLIPS[TRAIN]})
    write_dump(root / "val", {VAL: CLIPS[VAL]})
    save_file(HEADS, root / "teacher_heads.safetensors")
    return root


@pytest.fixture
def dump(pristine, tmp_path) -> Path:
    return shutil.copytree(pristine, tmp_path / "dump")


def run(dump: Path, out: Path, heads: Path | str | None = "teacher_heads.safetensors"):
    return import_npz(dump, out, None if heads is None else dump / heads, preset=ORION_TINY_RANDOM)


def test_what_was_dumped_is_what_is_read(dump, tmp_path):
    out = tmp_path / "out.zarr"
    report = run(dump, out)
    assert (set(report.committed), report.present, report.failed, report.frames) == (set(CLIPS), (), (), 15)
    assert report.largest_error < 3e-4
    assert verify(out).problems == ()
    dataset = LatentDataset.open(out)
    assert [dataset.clip(clip).split for clip in (TRAIN, VAL)] == ["train", "val"]
    assert dataset.clip(TRAIN).model_dump(exclude={"name", "frames", "split"}) == {
        "scenario": "Accident",
        "town": "Town03",
        "route": "1",
        "weather": "0",
    }
    for clip, frames in CLIPS.items():
        known = [known_frame(clip, number) for number in range(frames)]
        stacked = {name: np.stack([frame[name] for frame in known]) for name in known[0]}
        queries = dataset.read(clip, "scene_queries")
        # Tokens only four times as wide average the rounding less than the released ones do (see below).
        assert (abs(queries - stacked["queries"]) <= 6e-4 + 2**-11 * abs(stacked["queries"])).all()
        half = {name: values.astype(np.float16) for name, values in stacked.items()}
        tokens = vision_tokens(
            queries,
            dataset.read(clip, "ego_token"),
            dataset.asset("teacher_heads"),
            dataset.feature("scene_queries"),
        )
        exact = np.stack([dumped(frame)["visual_queries"][0] for frame in known]).astype(np.float64)
        for token, whole in zip(tokens, exact, strict=True):
            assert np.linalg.norm(token - whole) / np.linalg.norm(whole) < 4.3e-4  # both were rounded
        for feature, key in (
            ("ego_token", "ego"),
            ("planning_token", "planning_token"),
            ("lane_points", "lane_preds"),
            ("lane_logits", "lane_scores"),
            ("agent_xy", "agent_preds"),
            ("agent_class_scores", "agent_score_preds"),
        ):
            np.testing.assert_array_equal(dataset.read(clip, feature), half[key])
        offsets = dataset.read(clip, "agent_offsets")
        for n in range(frames):
            for agent in range(AGENTS):
                mode = half["agent_fut_cls_preds"][n, agent].argmax()
                np.testing.assert_array_equal(offsets[n, agent], half["agent_fut_preds"][n, agent, mode])
        mask = dataset.read(clip, "ego_trajectory_mask")
        np.testing.assert_array_equal(mask, stacked["ego_fut_masks"] == 1)
        np.testing.assert_array_equal(
            dataset.read(clip, "ego_trajectory"), np.where(mask[..., None], half["ego_fut_trajs"], 0)
        )
        np.testing.assert_array_equal(dataset.read(clip, "command"), np.arange(frames) % 6)
        np.testing.assert_array_equal(dataset.read(clip, "frame_index"), np.arange(frames))
        np.testing.assert_allclose(dataset.read(clip, "timestamp"), np.arange(frames) / 10)


def test_what_the_dump_does_not_hold_is_not_promised(dump, tmp_path):
    report = run(dump, tmp_path / "out.zarr")
    manifest = LatentDataset.open(tmp_path / "out.zarr").manifest
    names = {spec.name for spec in manifest.features}
    assert {"ego_pose", "can_bus"} <= set(report.lacking)
    assert names.isdisjoint(report.lacking)
    assert report.lacking["ego_pose"] == "a dump does not hold it"
    mask = manifest.feature("ego_trajectory_mask")
    assert "ORION's reading" in mask.description
    assert (manifest.teacher.name, manifest.teacher.weights) == ("orion-lite-import", "unknown")


def test_optional_arrays_may_be_missing(tmp_path):
    dump = write_dump(
        tmp_path / "dump", {TRAIN: 2}, without={"lane_preds", "agent_fut_cls_preds", "ego_fut_cmd"}
    )
    save_file(HEADS, dump / "heads.safetensors")
    report = run(dump, tmp_path / "out.zarr", "heads.safetensors")
    assert {"lane_points", "agent_offsets", "command"} <= set(report.lacking)
    assert report.failed == ()
    assert LatentDataset.open(tmp_path / "out.zarr").manifest.feature("lane_logits") is not None


def test_arrays_that_mean_something_else_are_not_taken(tmp_path):
    """The collector's documentation has commands of three numbers, and a lane count may differ."""
    dump = write_dump(tmp_path / "dump", {TRAIN: 2})
    save_file(HEADS, dump / "heads.safetensors")
    for file in dump.glob("*.npz"):
        rewrite(
            file, ego_fut_cmd=np.eye(3, dtype=np.float16)[:1], lane_preds=np.zeros((1, 7, 11, 2), np.float16)
        )
    report = run(dump, tmp_path / "out.zarr", "heads.safetensors")
    assert report.committed == (TRAIN,)
    assert report.lacking["command"] == "ego_fut_cmd is not one of 6 commands"
    assert report.lacking["lane_points"] == "lane_preds has shape (7, 11, 2), not (10, 11, 2)"
    assert "lane_logits" not in report.lacking


def test_without_history_queries(tmp_path):
    dump = write_dump(tmp_path / "dump", {TRAIN: 2}, history=0)
    save_file(HEADS, dump / "heads.safetensors")
    run(dump, tmp_path / "out.zarr", "heads.safetensors")
    dataset = LatentDataset.open(tmp_path / "out.zarr")
    assert dataset.feature("scene_queries").segments == (("scene", SCENE), ("map", MAP))
    known = known_frame(TRAIN, 1, history=0)["queries"]
    np.testing.assert_allclose(dataset.read(TRAIN, "scene_queries", 1), known, atol=4e-3)


def test_without_heads_tokens_are_kept_whole(dump, tmp_path):
    report = run(dump, tmp_path / "out.zarr", None)
    assert report.largest_error is None
    dataset = LatentDataset.open(tmp_path / "out.zarr")
    tokens = dumped(known_frame(VAL, 2))["visual_queries"][0]
    np.testing.assert_array_equal(dataset.read(VAL, "vision_tokens", 2), tokens)
    assert dataset.manifest.feature("scene_queries") is None
    with pytest.raises(IdentityError, match="features"):
        run(dump, tmp_path / "out.zarr")


@pytest.mark.parametrize(
    "name", ["data_{}_{}.npz", "data_v1_{}_{}.npy.npz", "data_some_folder_{}_{:05d}.npz"]
)
def test_a_flat_folder_is_split_as_bench2drive_is(tmp_path, name):
    # The first clip of Bench2Drive's own validation list.
    val = "ParkingCrossingPedestrian_Town13_Route545_Weather25"
    dump = write_dump(tmp_path / "dump", {TRAIN: 11, val: 1}, name=name)
    found = find_dump(dump)
    assert [(clip.name, clip.split) for clip in found.clips] == [(TRAIN, "train"), (val, "val")]
    # Ten comes after nine.
    numbers = [np.load(file)["ego_fut_cmd"].argmax() for file in found.clips[0].files]
    assert numbers == [number % 6 for number in range(11)]


def test_a_dump_that_changed_since_is_named(dump, tmp_path):
    out = tmp_path / "out.zarr"
    run(dump, out)
    for file in (dump / "train").glob("*.npz"):
        file.rename(dump / "val" / file.name)
    (collected_again,) = (dump / "val").glob(f"*{VAL}_1.npz")
    np.savez(collected_again, **dumped(known_frame(VAL, 1)))  # not compressed
    report = run(dump, out)
    assert (report.committed, report.present) == ((), ())
    reasons = {failure.clip: failure.reason for failure in report.failed}
    assert reasons[TRAIN] == "it is on the side val of the split, but the dataset holds it as train"
    assert "raw files" in reasons[VAL]


@pytest.mark.parametrize(
    ("name", "clip", "split"),
    [
        ("v1_T_Junction_Town06_Route306_Weather20", "TJunction_Town06_Route306_Weather20", "val"),
        ("some_folder_T_Junction_Town06_Route306_Weather20", "TJunction_Town06_Route306_Weather20", "val"),
        ("v1_TJunction_Town06_Route306_Weather20", "TJunction_Town06_Route306_Weather20", "val"),
        ("v1_My_Accident_Town03_Route1_Weather0", None, None),
        ("Accident_Town03_Accident_Town03_Route1_Weather0", None, None),
        ("v1_Town03_Route1_Weather0", None, None),
        ("v1_Accident_Town3_Route1_Weather0", None, None),
        ("v1", None, None),
    ],
)
def test_names_are_parsed_whole(tmp_path, name, clip, split):
    (tmp_path / f"data_{name}_0.npz").touch()
    found = find_dump(tmp_path)
    if clip is None:
        assert found.clips == ()
        assert [failure.clip for failure in found.failures] == [f"data_{name}_0.npz"]
    else:
        assert [(found.name, found.split) for found in found.clips] == [(clip, split)]
        assert found.failures == ()


def test_both_spellings_of_a_clip_are_one_clip(tmp_path):
    for spelling in ("TJunction", "T_Junction"):
        (tmp_path / f"data_v1_{spelling}_Town06_Route306_Weather20_0.npz").touch()
    found = find_dump(tmp_path)
    assert found.clips == ()
    assert "there twice" in found.failures[0].reason


def test_frames_in_other_folders_are_named(tmp_path):
    dump = write_dump(tmp_path / "dump", {TRAIN: 1})
    for folder in ("test", "train/more"):
        (dump / folder).mkdir(parents=True)
        (dump / folder / f"data_v1_{VAL}_0.npz").touch()
    (dump / "logs").mkdir()
    found = find_dump(dump)
    assert [clip.name for clip in found.clips] == [TRAIN]
    assert [failure.clip for failure in found.failures] == ["test", "train/more"]


def test_a_second_run_goes_on(dump, tmp_path):
    out = tmp_path / "out.zarr"
    held = dump / "val"
    held.rename(tmp_path / "val")
    assert run(dump, out).committed == (TRAIN,)
    (tmp_path / "val").rename(held)
    report = run(dump, out)
    assert (report.committed, report.present) == ((VAL,), (TRAIN,))
    (held / f"data_v1_{VAL}_3.npz").write_bytes((held / f"data_v1_{VAL}_2.npz").read_bytes())
    (failure,) = run(dump, out).failed
    assert failure.reason == "it has 4 frames, but the dataset holds it with 3"


def harm_truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def harm_flipped(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        member = archive.getinfo("visual_queries.npy")
    content = bytearray(file.read_bytes())
    content[member.header_offset + 2000] ^= 4
    file.write_bytes(content)


def rewrite(file: Path, **changes: np.ndarray | None) -> None:
    with np.load(file) as old:
        arrays = {**old, **changes}
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})


def harm_pickle(file: Path) -> None:
    rewrite(file, visual_queries=np.array([Path("/")], dtype=object))


def harm_bomb(file: Path) -> None:
    """A member that declares a small size and inflates to 128 MiB."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("visual_queries.npy", bytes(2**27))
    content = bytearray(file.read_bytes())
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (1000).to_bytes(4, "little")
    file.write_bytes(content)


def harm_header(file: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f2", "fortran_order": False, "shape": (2**40, 2**10)}
    )
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("visual_queries.npy", stream.getvalue() + bytes(100))


def harm_large(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("visual_queries.npy", bytes(2**27))


def harm_overflow(file: Path) -> None:
    tokens = np.load(file)["visual_queries"]
    tokens[0, 3, 4] = np.inf
    rewrite(file, visual_queries=tokens)


def harm_tokens(file: Path) -> None:
    tokens = np.load(file)["visual_queries"]
    tokens[0, -1, 4] += 1
    rewrite(file, visual_queries=tokens)


def harm_command(file: Path) -> None:
    rewrite(file, ego_fut_cmd=np.full((1, 1, 1, 6), 1, np.float16))


def harm_shape(file: Path) -> None:
    rewrite(file, agent_preds=np.zeros((1, AGENTS - 1, 2), np.float16))


def harm_missing(file: Path) -> None:
    rewrite(file, planning_token=None)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (harm_truncated, "cannot be read: File is not a zip file"),
        (harm_flipped, "cannot be read"),
        (harm_pickle, "holds object"),
        (harm_bomb, "cannot be read"),
        (harm_header, r"\(1099511627776, 1024\), but has 100 bytes"),
        (harm_large, "inflates to 134217728 bytes"),
        (harm_overflow, "visual_queries holds values that overflowed"),
        (harm_tokens, "its tokens are .* from any queries"),
        (harm_command, "ego_fut_cmd is not one of 6 commands"),
        (harm_shape, "agent_preds has shape"),
        (harm_missing, "planning_token is missing"),
    ],
)
def test_a_frame_that_does_not_fit_leaves_out_its_clip_alone(dump, tmp_path, harm, message):
    harm(dump / "train" / f"data_v1_{TRAIN}_7.npz")
    report = run(dump, tmp_path / "out.zarr")
    assert report.committed == (VAL,)
    (failure,) = report.failed
    assert failure.clip == TRAIN
    assert failure.reason.startswith("1 of 12 frames cannot be used: frame 7: ")
    assert re.search(message, failure.reason)
    assert verify(tmp_path / "out.zarr").problems == ()


@pytest.mark.parametrize("harm", [harm_truncated, harm_overflow, harm_tokens, harm_command])
def test_a_bad_first_frame_decides_nothing(dump, tmp_path, harm):
    harm(dump / "train" / f"data_v1_{TRAIN}_0.npz")
    report = run(dump, tmp_path / "out.zarr")
    assert (report.committed, [failure.clip for failure in report.failed]) == ((VAL,), [TRAIN])
    assert set(report.lacking) == set(run(write_dump(tmp_path / "x"), tmp_path / "x.zarr", None).lacking)


def test_every_bad_frame_of_a_clip_is_counted(dump, tmp_path):
    for number in (1, 4, 5, 6, 11):
        harm_truncated(dump / "train" / f"data_v1_{TRAIN}_{number}.npz")
    (failure,) = run(dump, tmp_path / "out.zarr").failed
    assert failure.reason.startswith("5 of 12 frames cannot be used: frame 1: ")
    assert failure.reason.endswith("and 2 more")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: (f / "train" / f"data_v1_{TRAIN}_4.npz").unlink(), "it lacks 1 frames, the first 4"),
        (
            lambda f: shutil.copy(
                f / "train" / f"data_v1_{TRAIN}_4.npz", f / "train" / f"data_{TRAIN}_4.npz"
            ),
            "1 frames are there twice",
        ),
        (
            lambda f: (f / "train" / f"data_v1_{TRAIN}_4.npz").rename(f / "val" / f"data_v1_{TRAIN}_4.npz"),
            "it has frames in train/ and in val/",
        ),
        (lambda f: shutil.copy(f / "val" / f"data_v1_{VAL}_2.npz", f / "x.npz"), "the name is not"),
    ],
)
def test_what_is_no_whole_clip_is_named(dump, tmp_path, change, reason):
    change(dump)
    (failure,) = run(dump, tmp_path / "out.zarr").failed
    assert failure.reason.startswith(reason)


def test_no_dump(tmp_path):
    with pytest.raises(ClipError, match="no frames"):
        find_dump(tmp_path)
    (tmp_path / f"data_{TRAIN}_0.npz").write_bytes(b"")
    with pytest.raises(ClipError, match="no clip of the dump is whole and opens"):
        run(tmp_path, tmp_path / "out.zarr", None)


def test_tokens_of_another_size(dump, tmp_path):
    for file in dump.glob("*/*.npz"):
        rewrite(file, visual_queries=np.zeros((1, 9, WIDTH), np.float16))
    with pytest.raises(ClipError, match=rf"visual_queries \(9, {WIDTH}\)") as caught:
        run(dump, tmp_path / "out.zarr")
    assert caught.value.expected == f"(37, {WIDTH}) or (33, {WIDTH})"
    assert run(dump, tmp_path / "out.zarr", None).failed == ()


def test_heads_of_another_teacher(dump, tmp_path):
    save_file(known_heads(seed=1), dump / "other.safetensors")
    with pytest.raises(CheckpointError, match="do not fit the dump"):
        run(dump, tmp_path / "out.zarr", "other.safetensors")
    save_file({"scene.weight": HEADS["scene.weight"]}, dump / "some.safetensors")
    with pytest.raises(CheckpointError, match=r"holds scene\.weight"):
        run(dump, tmp_path / "out.zarr", "some.safetensors")
    (dump / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        run(dump, tmp_path / "out.zarr", "broken.safetensors")
    flat = HEADS | {"map.weight": np.zeros_like(HEADS["map.weight"])}
    save_file(flat, dump / "flat.safetensors")
    with pytest.raises(CheckpointError, match="'map' has not the full rank"):
        run(dump, tmp_path / "out.zarr", "flat.safetensors")
    assert not (tmp_path / "out.zarr").exists()


def test_a_whole_checkpoint_brings_the_planner_and_its_digest(dump, tmp_path):
    state = dict(random_weights(released_shapes(teacher_shapes(CONFIG), CONFIG), 0))
    for head, ours in (("pts_bbox_head", "scene"), ("map_head", "map")):
        for kind in ("weight", "bias"):
            state[f"{head}.output_projection.{kind}"] = torch.from_numpy(HEADS[f"{ours}.{kind}"])
    torch.save({"state_dict": state}, dump / "Orion.pth")
    out = tmp_path / "out.zarr"
    assert run(dump, out, "Orion.pth").failed == ()
    dataset = LatentDataset.open(out)
    assert dataset.manifest.teacher.weights == digest(read_weights(dump / "Orion.pth", CONFIG))
    planner = dataset.asset("teacher_planner")
    assert len(planner) == 44
    np.testing.assert_array_equal(planner["ego_fut_decoder.4.bias"], state["ego_fut_decoder.4.bias"])
    np.testing.assert_array_equal(dataset.asset("teacher_heads")["map.bias"], HEADS["map.bias"])


def test_least_squares_at_the_released_size():
    """4096-d tokens, rounded to float16, give 256-d queries to 5e-5 (spec: Orion-Lite, section 7.1)."""
    rng = np.random.default_rng(0)
    heads = {
        f"{head}.{kind}": rng.normal(size=shape).astype(np.float32) / 16
        for head in ("scene", "map")
        for kind, shape in (("weight", (4096, 256)), ("bias", (4096,)))
    }
    queries = rng.normal(size=(1, 4, 256))
    exact = np.concatenate(
        (
            queries[:, :2] @ heads["scene.weight"].T + heads["scene.bias"],
            rng.normal(size=(1, 1, 4096)),
            queries[:, 2:] @ heads["map.weight"].T + heads["map.bias"],
        ),
        axis=1,
    )
    derivation = orion.vision_tokens(
        FeatureSpec(
            name="scene_queries",
            shape=(4, queries.shape[-1]),
            axes=("query", "channel"),
            dtype="float16",
            role="input",
            segments=(("scene", 2), ("map", 2)),
        ),
        FeatureSpec(
            name="ego_token", shape=exact.shape[2:], axes=("channel",), dtype="float16", role="input"
        ),
    )
    recovered, ego, errors = QueryRecovery(heads, derivation)(exact.astype(np.float16))
    np.testing.assert_array_equal(ego, exact[:, 2].astype(np.float16))
    assert np.sqrt(np.square(recovered - queries).mean()) < 6e-5
    assert 1.5e-4 < errors[0] < 3e-4
    # Stored as float16 and projected again, they are as near to the tokens as float16 tokens are.
    again = recovered[:, :2].astype(np.float16) @ heads["scene.weight"].T + heads["scene.bias"]
    assert np.linalg.norm(again - exact[:, :2]) / np.linalg.norm(exact[:, :2]) < 3e-4


def test_a_bomb_is_not_inflated(tmp_path):
    """Neither a member that declares a wrong size, nor one that declares its size and is too large."""
    for harm in (harm_bomb, harm_large):
        harm(tmp_path / "frame.npz")
        tracemalloc.start()
        with pytest.raises(ClipError):
            read_frame(tmp_path / "frame.npz")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**22


def test_only_known_arrays_are_read(tmp_path):
    file = tmp_path / "frame.npz"
    np.savez(file, planning_token=np.zeros((1, 1, 5), np.float16), other=np.zeros(3))
    assert {name: array.shape for name, array in read_frame(file).items()} == {"planning_token": (5,)}
    np.savez(file, **{f"x{number}": np.zeros(1) for number in range(65)})
    with pytest.raises(ClipError, match="65 arrays"):
        read_frame(file)
