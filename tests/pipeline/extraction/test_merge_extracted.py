"""Two halves of a dataset, extracted apart and merged, are the dataset extracted together."""

import shutil

from cache_schema.format.ledger import Ledger
from cache_schema.integrity.verify import verify
from cache_schema.sharing.merge import merge
from pipeline.bench2drive.source import Bench2Drive
from pipeline.extraction.run import extract
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM


def digests(path):
    ledger = Ledger(path)
    return {clip: ledger.read(clip).digest for clip in ledger.clips()}


def test_halves_extracted_apart_and_merged(clips_root, tmp_path):
    root = shutil.copytree(clips_root, tmp_path / "data")
    for clip in (root / "v1").iterdir():
        for file in sorted((clip / "anno").iterdir())[3:]:
            file.unlink()
    teacher = ORION_TINY_RANDOM.load(None, device="cpu")
    extract(Bench2Drive(root).select(), teacher, tmp_path / "together.zarr", slots=2)
    for split in ("train", "val"):
        extract(Bench2Drive(root).select(split), teacher, tmp_path / f"{split}.zarr", slots=2)
    merge(tmp_path / "merged.zarr", [tmp_path / "train.zarr", tmp_path / "val.zarr"])
    assert digests(tmp_path / "merged.zarr") == digests(tmp_path / "together.zarr")
    assert len(digests(tmp_path / "merged.zarr")) == 3
    assert verify(tmp_path / "merged.zarr").problems == ()
    # The merged dataset goes on as any other: nothing is left to extract.
    report = extract(Bench2Drive(root).select(), teacher, tmp_path / "merged.zarr", slots=2)
    assert (report.committed, len(report.present)) == ((), 3)
