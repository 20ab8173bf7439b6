"""Merging datasets of the same teacher and data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_schema.dataset.copy_clips import Copied, asset_files, copy_clip, refuse_conflicts
from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import IdentityError, RequestError
from cache_schema.format.identity import difference_rows, differences
from cache_schema.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cache_schema.progress import Progress


def merge(out: Path, inputs: Sequence[Path], *, progress: Progress = SILENT) -> Copied:
    """Add all clips of some datasets to one, digest for digest. Run again, it goes on where it stopped.

    Args:
        out: Folder of the merged dataset; made if it does not exist.
        inputs: Folders of the datasets to take clips from. They stay as they are.
        progress: Counts clips.

    Raises:
        RequestError: There are no inputs.
        IdentityError: Two of the datasets differ in identity, or hold the same clip with other content.
        DatasetError: A dataset is damaged, ``out`` is being written by another run, or the disk refuses.
    """
    if not inputs:
        raise RequestError(
            f"there is nothing to merge into {out}",
            expected="at least one dataset to take clips from",
            repair="name the datasets after the one to write",
        )
    there = [out] if (out / "zarr.json").exists() else []
    datasets = [LatentDataset.open(path) for path in (*there, *inputs)]
    for other in datasets[1:]:
        _refuse_another_identity(datasets[0], other)
    refuse_conflicts(datasets)
    sources = datasets[len(there) :]
    holder_of = {clip: source for source in reversed(sources) for clip in source.clips}
    with DatasetWriter(out, datasets[0].manifest, asset_files(sources[0], out)) as writer:
        todo = sorted(holder_of.keys() - writer.committed())
        nbytes = 0
        progress.expect(len(todo))
        for clip in todo:
            holder = holder_of[clip]
            nbytes += copy_clip(holder.backend, holder.entry(clip), out, datasets[0].manifest).nbytes
            progress.advance()
    return Copied(added=tuple(todo), present=tuple(sorted(holder_of.keys() - todo)), nbytes=nbytes, path=out)


def _refuse_another_identity(one: LatentDataset, other: LatentDataset) -> None:
    found = differences(one.manifest, other.manifest)
    if found:
        raise IdentityError(
            f"{one.path} and {other.path} differ:\n{difference_rows(found, '{} and {}')}",
            expected="the same teacher, checkpoint, preprocessing, features and data in every field",
            repair="merge datasets of one teacher; where encodings differ, `teachonce reencode` one first",
        )
