"""An untrusted dataset: whatever is done to it is harmless, or refused with an error of ours.

Each mutation changes one small dataset in place; then everything is read. A wrong array, another exception
than ``TeachonceError``, a wait, or more memory than such a dataset deserves is a failure.
"""

import copy
import itertools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import TeachonceError
from cache_schema.format.manifest import AssetSpec
from cache_schema.integrity.verify import verify
from cache_schema.storage.atomic_io import sha256_bytes
from tests.cache_schema.format_2 import CLIPS, FEATURES, HEADS, manifest_of, values_of
from tests.cache_schema.tampering import SMALL, edit_entry, edit_root, record_again, write_small
from tests.paths import ROOT

ASSET = save(HEADS | {"w": np.arange(6, dtype=np.float32)})
MUTATIONS = 500
"""Of a dataset of either format."""
MEMORY_BYTES = 512 * 2**20
"""Beyond what is loaded when reading begins."""

HOSTILE = (
    None, True, -1, 0, 1, 3.0, 2**31, 2**63, 10**30, 1e308, 0.1, "", "x", "0", "../../x", "/etc/passwd",
    "a\\b", "C:x", "NaN", "object",
    "|O", "float64", "int8", "\0", "é" * 50, "x" * 100_000, [], {}, [[]], [None],
    [2**40, 2**40], [1] * 5000, {"name": "zstd", "configuration": {"level": 22, "checksum": False}},
    {"name": "gzip", "configuration": {"level": 9}}, {"name": "blosc"}, {"name": "numcodecs.pickle"},
    [{"name": "bytes"}, {"name": "zstd"}], {"must_understand": False},
    {"name": "raw_bytes", "configuration": {"length_bytes": 2**40}},
)  # fmt: skip


def nodes(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths of all values inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from nodes(inner, (*path, key))


def mutate_json(value: Any, choice: random.Random) -> Any:
    """Change one place of a JSON value."""
    value = copy.deepcopy(value)
    *where, key = choice.choice(list(nodes(value)))
    node = value
    for step in where:
        node = node[step]
    match choice.randrange(6):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            node[choice.choice([f"{key}x", str(key).upper(), "extra", "../x", "seal"])] = node.pop(key)
        case 2 if isinstance(node, dict):
            node[choice.choice(["extra", "must_understand", "consolidated_metadata", "__class__"])] = node[
                key
            ]
        case 3 if isinstance(node[key], int):
            node[key] = node[key] + choice.choice([-1, 1, 2, 255, 2**32])
        case 4:
            inside = value
            for step in choice.choice(list(nodes(value))):
                inside = inside[step]
            node[key] = copy.deepcopy(inside)
        case _:
            node[key] = choice.choice(HOSTILE)
    return value


def mutate_bytes(content: bytes, choice: random.Random) -> bytes:
    """Change bytes of a file, knowing nothing of what they mean."""
    at, length = choice.randrange(len(content) + 1), choice.randrange(1, 20)
    match choice.randrange(8):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + choice.randbytes(length) + content[at:]
        case 2:
            return content[:at] + content[at + length :]
        case 3:
            return content[:at] + choice.randbytes(length) + content[at + length :]
        case 4:
            return content[:at] + content[at : at + length] * 2 + content[at + length :]
        case 5:
            return content + bytes(choice.choice([1, 4, 4096]))
        case 6:
            return choice.randbytes(len(content))
        case _:
            flipped = [letter ^ 1 << choice.randrange(8) for letter in content[at : at + 1]]
            return content[:at] + bytes(flipped) + content[at + 1 :]


def hostile_text(text: str, choice: random.Random) -> str:
    """JSON that parsers choke on, or take in two ways."""
    deep = choice.choice([40, 900, 100_000])
    inside = text.index("{") + 1
    match choice.randrange(6):
        case 0:
            return text[:inside] + '"x":' + "[" * deep + "]" * deep + "," + text[inside:]
        case 1:
            return '{"x":' * deep + text + "}" * deep
        case 2:
            number = choice.choice(["NaN", "-Infinity", "1e999", "9" * 5000])
            return text[:inside] + f'"x":{number},' + text[inside:]
        case 3:
            return text[:inside] + text[inside : text.index(",")] + "," + text[inside:]  # its first key twice
        case 4:
            return text[:inside] + '"x":"' + "x" * (5 * 2**20) + '",' + text[inside:]
        case _:
            return text[:inside] + '"\\u0000":' + choice.choice(['"\\ud800"', "[]"]) + "," + text[inside:]


def mutate_file(path: Path, file: Path, choice: random.Random) -> None:
    """Put something else in the place of a file, or of a folder that it lies in."""
    other = choice.choice([other for other in sorted(path.rglob("*")) if other.is_file() and other != file])
    content, another = file.read_bytes(), other.read_bytes()
    kind = choice.randrange(8)
    if kind == 7:
        os.truncate(file, 2**40)  # takes no room on the disk
        return
    for _ in range(choice.choice([0, 0, 1, 2])):
        file = file.parent if file.parent != path else file
    aside = path.with_name("aside")
    shutil.rmtree(aside, ignore_errors=True)
    if file.is_dir():
        file.rename(aside)
    else:
        file.unlink()
    match kind:
        case 0:
            pass
        case 1:
            file.write_bytes(another)
        case 2:
            file.symlink_to(other)
        case 3:
            file.symlink_to(choice.choice([aside, Path("/dev/zero"), file, path]))
        case 4:
            os.mkfifo(file)
        case 5:
            file.mkdir()
        case _:
            file.with_name(choice.choice(["c.0", "x.json", "x.pkl", "zarr.json", "é"])).write_bytes(content)


def mutate(path: Path, choice: random.Random) -> str:
    """Do one thing to the dataset, and say what."""
    file = choice.choice(sorted(file for file in path.rglob("*") if file.is_file() and file.name[0] != "."))
    name = file.relative_to(path).as_posix()
    kind = choice.choices(["json", "text", "bytes", "file"], [6, 2, 6, 2])[0]
    sealed = choice.random() < 0.5  # as by an attacker who makes digests and seals fit
    is_json = name.endswith(".json")
    if kind == "json" and sealed and name == "zarr.json":
        edit_root(path, lambda held: held.update(mutate_json(held, choice)))
    elif kind == "json" and sealed and name.startswith("ledger/"):
        edit_entry(path, file.stem, lambda entry: entry.update(mutate_json(entry, choice)))
    elif kind == "json" and is_json:
        file.write_text(json.dumps(mutate_json(json.loads(file.read_bytes()), choice)))
    elif kind == "text" and is_json:
        file.write_text(hostile_text(file.read_text(), choice))
    elif kind == "file":
        mutate_file(path, file, choice)
    else:
        file.write_bytes(mutate_bytes(file.read_bytes(), choice))
    if sealed and kind != "file" and name.count("/") > 1:
        record_again(path, name.split("/")[1])
    return f"{kind}{' sealed' * sealed} {name}"


Values = dict[tuple[str, str], np.ndarray | list[np.ndarray]]


def read_all(path: Path, values: Values, *, quick: bool) -> str:
    """Read everything; say whether it was harmless or refused.

    Raises:
        AssertionError: A value that was read is not the one that was written.
    """
    try:
        refused = bool(verify(path, quick=quick, threads=1).problems)
    except TeachonceError:
        refused = True
    try:
        dataset = LatentDataset.open(path)
        clips = dataset.clips
    except TeachonceError:
        return "refused"
    for clip, name in values:
        try:
            spec = dataset.feature(name)
            if clip not in clips:
                refused = True
                continue
            there = dataset.read(clip, name)
        except TeachonceError:
            refused = True
            continue
        expected = values[clip, name]
        assert type(there) is type(expected), f"{clip} {name} is {type(there)}"
        assert len(there) == len(expected), f"{clip} {name} has {len(there)} frames"
        for one, other in zip(there, expected, strict=True):
            # A manifest with another dtype and a seal that fits decides how int8 values are read.
            exact = str(other.dtype) == spec.dtype
            assert one.shape == other.shape, f"{clip} {name} has shape {one.shape}"
            assert np.allclose(one, other, rtol=0 if exact else 1e-3, atol=0), f"{clip} {name} is wrong"
    try:
        assert dataset.asset("heads")["w"].tolist() == list(range(6))
        for clip, name in itertools.product(clips, dataset.derivations):
            dataset.read(clip, name)
    except TeachonceError:
        refused = True
    return "refused" if refused else "harmless"


def restore(path: Path, pristine: dict[Path, bytes]) -> None:
    """Undo a mutation; only what it touched is written, since removing folders takes long."""
    kept = {parent for file in pristine for parent in file.parents}
    for folder, folders, files in os.walk(path, topdown=False):
        for there in (Path(folder, name) for name in (*folders, *files)):
            if there.is_symlink() or not there.is_dir():
                if there.is_symlink() or not there.is_file() or there.relative_to(path) not in pristine:
                    there.unlink()
            elif there.relative_to(path) not in kept:
                there.rmdir()
    for file, content in pristine.items():
        there = path / file
        if not there.exists() or there.stat().st_size != len(content) or there.read_bytes() != content:
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(content)


def fuzz(path: Path, seed: int, mutations: int) -> None:
    """Mutate, read and restore; print how often which outcome was seen."""
    choice = random.Random(seed)
    whole = LatentDataset.open(path)
    features = [spec.name for spec in whole.manifest.features]
    values = {(clip, name): whole.read(clip, name) for clip in whole.clips for name in features}
    assert read_all(path, values, quick=False) == "harmless"
    pristine = {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + MEMORY_BYTES,) * 2)
    outcomes = {"harmless": 0, "refused": 0}
    for number in range(mutations):
        what = mutate(path, choice)
        try:
            outcomes[read_all(path, values, quick=number % 2 == 0)] += 1
        except BaseException as error:
            error.add_note(f"mutation {number} of seed {seed}: {what}")
            raise
        restore(path, pristine)
    print(json.dumps(outcomes))


def write_format_1(path: Path) -> None:
    """Three arrays: two in one chunk, one in a shard; the fewer, the more mutations of each."""
    write_small(path, 1, {"heads.safetensors": ASSET}, SMALL[:2])


def write_format_2(path: Path) -> None:
    """Ragged values, a ragged triangle, a fixed triangle, and the input of a derived feature."""
    kept = ("tokens", "maps", "square", "rows")
    manifest = manifest_of(tuple(spec for spec in FEATURES if spec.name in kept))
    asset = AssetSpec(name="heads.safetensors", sha256=sha256_bytes(ASSET), nbytes=len(ASSET))
    with DatasetWriter(path, manifest.replace(assets=(asset,)), {asset.name: ASSET}) as writer:
        clip = writer.clip(CLIPS[0])
        clip.append({name: values_of(CLIPS[0].name)[name] for name in kept})
        clip.commit(wall_s=1)


@pytest.mark.skipif(sys.platform != "linux", reason="the bound on memory is Linux's")
@pytest.mark.parametrize("write", [write_format_1, write_format_2])
def test_whatever_is_done_to_a_dataset_is_harmless_or_refused(tmp_path: Path, write: Callable[[Path], None]):
    path = tmp_path / "small.zarr"
    write(path)
    code = (
        "import sys, pathlib; from tests.cache_schema.integrity.test_fuzz import fuzz; "
        "fuzz(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(path), "0", str(MUTATIONS)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads(done.stdout)
    assert sum(outcomes.values()) == MUTATIONS
    assert min(outcomes.values()) > 0  # neither is all that it finds
