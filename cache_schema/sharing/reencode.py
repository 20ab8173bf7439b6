"""The same values in another encoding, with the error that this makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import ValidationError
from rich.console import Group

from cache_schema.dataset.blocks import frame_blocks
from cache_schema.dataset.copy_clips import asset_files
from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.describe.encoding_error import EncodingError, encoding_error
from cache_schema.errors import RequestError
from cache_schema.format.encodings import decode
from cache_schema.format.features import FeatureSpec
from cache_schema.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cache_schema.dataset.clip_writer import ClipWriter
    from cache_schema.format.manifest import Manifest
    from cache_schema.progress import Progress


@dataclass(frozen=True)
class Reencoded:
    """Result of a reencoding."""

    clips: int
    frames: int
    features: tuple[EncodingError, ...]
    path: Path = field(compare=False)
    """Folder of the reencoded dataset."""

    def __rich__(self) -> Group:
        """Show the error of every feature, and how much was written."""
        return Group(*self.features, f"{self.clips} clips, {self.frames:,} frames in {self.path}")


def reencode(
    source: Path,
    out: Path,
    encodings: Mapping[str, str],
    *,
    progress: Progress = SILENT,
) -> Reencoded:
    """Write a dataset with some features in other encodings. Run again, it goes on where it stopped.

    Args:
        source: Folder of the dataset to reencode. It stays as it is.
        out: Folder of the reencoded one; made if it does not exist.
        encodings: Encoding by the feature's name. All other features are written as they are stored.
        progress: Counts clips.

    Returns:
        Bytes and errors, measured on what is stored now of all clips of the source.

    Raises:
        RequestError: A feature does not exist, or cannot have that encoding.
        FeatureError: A value does not fit the encoding, such as one above the diagonal of a lower triangle.
        IdentityError: At ``out`` is a dataset of another identity.
        DatasetError: The source is damaged, ``out`` is being written by another run, or the disk refuses.
    """
    dataset = LatentDataset.open(source)
    manifest = reencoded_manifest(dataset, encodings)
    with DatasetWriter(out, manifest, asset_files(dataset, out)) as writer:
        todo = [clip for clip in dataset.clips if clip not in set(writer.committed())]
        progress.expect(len(todo))
        for clip in todo:
            _reencode_clip(dataset, writer.clip(dataset.clip(clip)), encodings)
            progress.advance()
        reencoded = LatentDataset.open(out)
        return Reencoded(
            clips=len(dataset.clips),
            frames=sum(dataset.clip(clip).frames for clip in dataset.clips),
            features=tuple(encoding_error(dataset, reencoded, feature) for feature in encodings),
            path=out,
        )


def parse_encodings(texts: Sequence[str]) -> dict[str, str]:
    """Parse ``FEATURE=ENCODING`` options of a command line.

    Raises:
        RequestError: There is none, one has another form, or a feature comes twice.
    """
    encodings: dict[str, str] = {}
    for text in texts:
        feature, equals, encoding = text.partition("=")
        if not (feature and equals and encoding) or feature in encodings:
            encodings.clear()
            break
        encodings[feature] = encoding
    if not encodings:
        raise RequestError(
            f"it is not clear what to reencode: {', '.join(texts) or 'nothing is named'}",
            expected="FEATURE=ENCODING, each feature once, as in queries=int8-per-channel",
            repair="name the features and their encodings",
        )
    return encodings


def reencoded_manifest(dataset: LatentDataset, encodings: Mapping[str, str]) -> Manifest:
    """Return the manifest of a dataset whose features have other encodings, and nothing else.

    Raises:
        RequestError: A feature does not exist, or cannot have that encoding.
    """
    dataset.require(encodings)
    specs = []
    for spec in dataset.manifest.features:
        if spec.name in encodings:
            encoding = encodings[spec.name]
            # bfloat16 has the range of float32, which float16 could not hold.
            dtype = "float32" if encoding == "bfloat16" and spec.dtype == "float16" else spec.dtype
            try:
                spec = FeatureSpec.model_validate(spec.model_dump() | {"encoding": encoding, "dtype": dtype})
            except ValidationError as error:
                raise RequestError(
                    f"{spec.name} cannot be stored as {encoding!r}: {error.errors()[0]['msg']}",
                    expected="full, bfloat16, int8-per-channel or lower-triangle, "
                    "for a feature that the encoding can hold",
                    repair="choose another encoding or feature",
                ) from error
        specs.append(spec)
    return dataset.manifest.replace(features=tuple(specs))


def _reencode_clip(dataset: LatentDataset, clip: ClipWriter, encodings: Mapping[str, str]) -> None:
    name = clip.info.name
    for spec in dataset.manifest.features:
        for frames in frame_blocks(dataset, name, spec.name):
            if spec.name in encodings:
                # As it is stored: values that frames share stay where they are.
                clip.append({spec.name: decode(spec, dataset.stored(name, spec.name, frames))})
            else:
                clip.append_stored(spec.name, dataset.stored(name, spec.name, frames))
    entry = dataset.entry(name)
    clip.commit(wall_s=entry.wall_s, gpu=entry.gpu)
