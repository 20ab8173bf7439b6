"""How to read a dataset, on its card: programs with the dataset's own names in them, each of which runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cache_schema.describe.inspect import Summary


def how_to_read(summary: Summary, name: str) -> str:
    """Programs that read a dataset, as Markdown.

    Args:
        summary: The dataset with its table of clips.
        name: Its folder, as seen from where the programs are run.
    """
    assert summary.clip_table is not None
    clip = summary.clip_table[0].name
    # What the teacher said, stored as it is, where there is such a thing.
    feature = max(summary.features, key=lambda spec: (spec.encoding == "full", spec.role == "target")).name
    here = json.dumps(name)
    plain = f"""\
import json, pathlib, zarr

root = pathlib.Path({here})
features = zarr.open_group(root, mode="r").attrs["teachonce"]["features"]
for entry in sorted(root.glob("ledger/*.json")):
    clip = json.loads(entry.read_text())["clip"]
    group = zarr.open_group(root / "clips" / clip["name"], mode="r")
    for feature in features:
        values = group[feature["name"]][:]  # (frames, *shape)
        print(clip["name"], clip["split"], feature["name"], values.shape, values.dtype)"""
    decode = """\
import numpy as np

def decode(group, feature):
    values = group[feature["name"]][:]
    if feature["encoding"] == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if feature["encoding"] == "int8-per-channel":
        scale = group[feature["name"] + ".scale"][:]  # (frames, channels)
        return (values * np.expand_dims(scale, tuple(range(1, values.ndim - 1)))).astype(feature["dtype"])
    return values"""
    ours = f"""\
from cache_schema.dataset.reader import LatentDataset

dataset = LatentDataset.open({here})
values = dataset.read("{clip}", "{feature}")"""
    dask = f"""\
import pathlib, zarr
import dask.array as da

folders = sorted(pathlib.Path({here}).glob("clips/*/{feature}"))
values = da.concatenate([da.from_zarr(zarr.open_array(folder, mode="r")) for folder in folders])"""
    xarray = f"""\
import xarray, zarr

array = zarr.open_array({json.dumps(f"{name}/clips/{clip}/{feature}")}, mode="r")
values = xarray.DataArray(array[:], dims=array.metadata.dimension_names, attrs=dict(array.attrs))"""
    blocks = [("With plain Zarr:", plain)]
    if any(spec.encoding != "full" for spec in summary.features):
        blocks.append(("Features whose encoding is not `full` become values by", decode))
    blocks += [
        ("With the package `teachonce`, which also decodes and checks:", ours),
        ("All clips at once, with dask:", dask),
        ("One clip with named axes, with xarray:", xarray),
    ]
    return "\n\n".join(f"{words}\n\n```python\n{code}\n```" for words, code in blocks)
