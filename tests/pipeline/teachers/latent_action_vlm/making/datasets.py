"""Datasets of raw clips by a teacher with one small feature, as an extraction would write them."""

from pathlib import Path

import numpy as np

from cache_schema.dataset.writer import DatasetWriter
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import CodeIdentity, DataIdentity, Manifest, TeacherIdentity
from cache_schema.vocabulary.driving import GROUND_TRUTH
from pipeline.bench2drive.source import Bench2Drive

TOKEN = FeatureSpec(name="planning_token", shape=(8,), axes=("channel",), dtype="float16", role="target")


def write(path: Path, root: Path, *, step: int = 1, target: FeatureSpec = TOKEN, value: int = 0) -> Path:
    """Every ``step``-th frame of all clips, all with one value of the teacher's feature."""
    truth_specs = tuple(spec for spec in GROUND_TRUTH if not spec.name.startswith("truth_"))
    manifest = Manifest(
        features=(target, *truth_specs),
        teacher=TeacherIdentity(name="quiet", weights="random:0", precision="fp32"),
        data=DataIdentity(name="synthetic", licence="CC0-1.0", frame_rate_hz=10.0),
        code=CodeIdentity(teachonce="0", libraries={}),
    )
    with DatasetWriter(path, manifest) as writer:
        for clip in Bench2Drive(root).select().clips:
            truth = clip.open().ground_truth()
            values = {spec.name: truth[spec.name][::step] for spec in truth_specs}
            frames = len(values["frame_index"])
            values[target.name] = np.full((frames, *target.shape), value, dtype=target.dtype)
            written = writer.clip(ClipInfo(name=clip.name, frames=frames, split=clip.split, tags=clip.tags))
            written.append(values)
            written.commit(wall_s=1.0)
    return path
