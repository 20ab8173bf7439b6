"""How to read a dataset, on its card: programs with the dataset's own names in them, each of which runs."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cache_schema.describe.inspect import Summary


def how_to_read(summary: Summary, name: str) -> str:
    """Return programs that read a dataset, as Markdown.

    Args:
        summary: The dataset with its table of clips.
        name: Its folder, relative to where the programs are run.
    """
    assert summary.clip_table is not None
    clip = summary.clip_table[0].name
    # Preferably an output of the teacher that is stored as it is.
    feature = max(
        summary.features,
        key=lambda spec: (
            spec.encoding == "full" and spec.bytes_per_frame is not None,
            spec.role == "target",
        ),
    ).name
    here = json.dumps(name)
    plain, decode = _programs_of_the_format()
    ours = f"""\
from cache_schema import LatentDataset

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
    blocks = [("With plain Zarr:", plain.replace('"NAME.zarr"', here))]
    if any(spec.encoding != "full" or spec.bytes_per_frame is None for spec in summary.features):
        blocks.append(
            ("Features that are encoded or differ in shape from frame to frame become values by", decode)
        )
    blocks += [
        ("With the package `teachonce`, which also decodes and checks:", ours),
        ("All clips at once, with dask:", dask),
        ("One clip with named axes, with xarray:", xarray),
    ]
    return "\n\n".join(f"{words}\n\n```python\n{code}\n```" for words, code in blocks)


def _programs_of_the_format() -> tuple[str, str]:
    """Return the programs of FORMAT.md: the reader of a dataset NAME.zarr, and the decoder."""
    page = files("cache_schema.format").joinpath("FORMAT.md").read_text(encoding="utf-8")
    plain, decode = re.findall(r"```python\n(.*?)\n```", page, re.DOTALL)
    return plain, decode
