"""What `import cache_schema` gives, and what it costs."""

import subprocess
import sys

import pytest

import cache_schema
from cache_schema.dataset.join import JoinedDataset, open_dataset
from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import TeachonceError
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import Manifest
from tests.paths import ROOT

PUBLIC = {
    "ClipInfo": ClipInfo,
    "DatasetWriter": DatasetWriter,
    "FeatureSpec": FeatureSpec,
    "JoinedDataset": JoinedDataset,
    "LatentDataset": LatentDataset,
    "Manifest": Manifest,
    "TeachonceError": TeachonceError,
    "open_dataset": open_dataset,
}


def test_every_name_is_exported():
    assert {name: getattr(cache_schema, name) for name in cache_schema.__all__} == PUBLIC
    assert set(dir(cache_schema)) >= set(PUBLIC)
    with pytest.raises(AttributeError, match="has no attribute 'Latent'"):
        cache_schema.Latent  # noqa: B018


def test_importing_the_package_loads_nothing_slow():
    code = (
        "import sys, cache_schema\n"
        "loaded = {'torch', 'zarr', 'dask', 'numpy', 'pydantic', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
