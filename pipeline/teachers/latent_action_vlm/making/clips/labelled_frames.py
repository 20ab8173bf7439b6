"""Frames of a dataset that have labels, and their samples in the raw clips.

Dimension letters: S frames, N codes of a frame.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from cache_schema.errors import ClipError, RequestError
from cache_schema.vocabulary.latent_actions import CODE_LABELS, NO_LABEL

if TYPE_CHECKING:
    from cache_schema.dataset.reader import LatentDataset
    from cache_schema.format.ledger import Split
    from pipeline.source import OpenClip, Source


class LabelledFrames:
    """The labelled frames of one split of a dataset.

    Args:
        dataset: A dataset with labels.
        source: The raw clips that it was made from.
        split: Which clips.

    Raises:
        RequestError: The dataset has no labels, or no frame of this split has any.
        ClipError: A raw clip is not there, or too short.
    """

    def __init__(self, dataset: LatentDataset, source: Source, split: Split) -> None:
        dataset.require((CODE_LABELS, "frame_index"))
        raw = {clip.name: clip for clip in source.select("all").clips}
        self._clips, places, labels = [], [], []
        digest = hashlib.sha256()
        for name in dataset.clips:
            if dataset.clip(name).split != split:
                continue
            codes, frames = dataset.read(name, CODE_LABELS), dataset.read(name, "frame_index")
            whole = (codes != NO_LABEL).all(1)
            if not whole.any():
                continue
            if name not in raw or raw[name].samples <= frames.max():
                what = f"has no frame {frames.max()}" if name in raw else f"is not in {source.identity.name}"
                raise ClipError(
                    f"the raw clip {name} {what}",
                    expected="the raw clips that the dataset was made from",
                    repair="give the data root that it was extracted from, all archives unpacked",
                )
            digest.update(f"{name} {frames.tolist()} {codes.tolist()}".encode())
            places += [(len(self._clips), int(frame)) for frame in frames[whole]]
            labels.append(codes[whole])
            self._clips.append(raw[name])
        if not places:
            raise RequestError(
                f"no frame of the split {split!r} of {dataset} has labels",
                expected="frames that are followed by as many seconds as the codes tell",
                repair="add labels by `teachonce add-codes`; if it was done, the clips are too short",
            )
        self.places = places
        self.labels = np.concatenate(labels).astype(np.int64)
        """(S, N)."""
        self.digest = f"sha256:{digest.hexdigest()}"
        self._opened = functools.cache(self._open)

    def __len__(self) -> int:
        return len(self.places)

    def sample(self, row: int) -> Any:
        """Return the sample of a frame; called by several threads at once.

        Raises:
            ClipError: An annotation is broken.
        """
        clip, frame = self.places[row]
        return self._opened(clip).sample(frame)

    def _open(self, clip: int) -> OpenClip:
        return self._clips[clip].open()
