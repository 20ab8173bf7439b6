"""One flipped bit anywhere is found, and no reader returns what it changed."""

import random
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import DatasetError
from cache_schema.integrity.verify import verify
from tests.cache_schema.format_2 import RAGGED, assert_equal, write_format_2
from tests.cache_schema.tampering import flip_a_bit, write_small

FLIPS = 500


@pytest.fixture(scope="module", params=["format 1", "format 2"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flips") / "small.zarr"
    if request.param == "format 2":
        return write_format_2(path)
    write_small(path, 3, {"heads.safetensors": save({"w": np.arange(6, dtype=np.float32)})})
    return path


def concerned(root: Path, file: Path) -> tuple[str | None, str | None]:
    """Clip and feature that a file belongs to."""
    parts = file.relative_to(root).parts
    if parts[0] == "ledger":
        return file.stem, None
    if parts[0] != "clips" or len(parts) == 2:
        return None, None
    return parts[1], parts[2].partition(".")[0] if len(parts) == 4 else None


def test_every_flipped_bit_is_found_and_never_read(small: Path):
    whole = LatentDataset.open(small)
    features = [spec.name for spec in whole.manifest.features]
    values = {(clip, name): whole.read(clip, name) for clip in whole.clips for name in features}
    files = [file for file in sorted(small.rglob("*")) if file.is_file() and file.name[0] != "."]
    # The root, the group of clips, an asset; for each of three clips an entry, a group, two files per array.
    # The first dataset has six; the second three and two for each ragged feature, some without any value.
    arrays = 3 * 6 if whole.manifest.format_version == 1 else 3 * (3 + 2 * len(RAGGED))
    empty = sum(count == 0 for clip in whole.clips for count in whole.entry(clip).values.values())
    assert len(files) == 3 + 3 * 2 + 2 * arrays - empty
    choice = random.Random(0)
    refused = 0
    for number in range(FLIPS):
        file = files[number] if number < len(files) else choice.choice(files)
        position = choice.randrange(8 * file.stat().st_size)
        clip, feature = concerned(small, file)
        flip_a_bit(file, position)
        found = found_in(small)
        assert (clip, feature) in found, (file, position)
        assert {at for at, _ in found} == {clip}, (file, position)
        try:
            reader = LatentDataset.open(small)
            for (of, name), there in values.items():
                if (of, name) == (clip, feature or name):
                    assert_equal(reader.read(of, name), there)
        except DatasetError:
            refused += 1
        flip_a_bit(file, position)
    assert verify(small).problems == ()
    # What is left is in the zarr.json of groups and arrays, which only repeat the manifest, and in assets,
    # which the next test reads.
    needed = [file for file in files if file.name != "zarr.json" and file.parent.name != "assets"]
    assert refused > FLIPS * len(needed) / len(files) - FLIPS / 20


def found_in(path: Path) -> set[tuple[str | None, str | None]]:
    """Clips and features that verification names; neither where the dataset cannot even be opened."""
    try:
        return {(problem.clip, problem.feature) for problem in verify(path, threads=1).problems}
    except DatasetError as error:
        return {(None, None)} if str(path) in error.happened else set()


def test_a_flip_in_a_readers_asset_is_refused(small: Path):
    file = small / "assets" / "heads.safetensors"
    for position in range(0, 8 * file.stat().st_size, 97):
        flip_a_bit(file, position)
        with pytest.raises(DatasetError, match="heads"):
            LatentDataset.open(small).asset("heads")
        flip_a_bit(file, position)
