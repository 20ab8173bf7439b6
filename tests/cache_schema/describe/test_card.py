"""The card is read by people, by the Hub and by Python, and written about strangers' datasets."""

import re
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import metadata_load

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.describe.card import card, front_matter
from cache_schema.describe.inspect import inspect
from cache_schema.errors import RequestError
from cache_schema.integrity.verify import verify
from cache_schema.sharing.reencode import reencode
from tests.cache_schema.conftest import CLIPS, values_of
from tests.cache_schema.format_2 import CLIPS as FORMAT_2_CLIPS
from tests.cache_schema.format_2 import assert_equal, write_format_2


@pytest.mark.parametrize("licence", [None, "", "  "])
def test_there_is_no_default_licence(dataset, licence):
    with pytest.raises(RequestError, match="no licence is stated") as caught:
        card(dataset, licence)
    assert "--licence" in caught.value.repair
    assert not (dataset / "README.md").exists()


def test_what_the_hub_reads(dataset):
    path = card(dataset, "CC-BY-NC-4.0")
    assert path == dataset / "README.md"
    front = metadata_load(path)
    assert front["license"] == "cc-by-nc-4.0"
    assert "license_name" not in front
    assert front["size_categories"] == ["n<1K"]
    assert {"zarr", "autonomous-driving", "synthetic", "tiny"} <= set(front["tags"])
    assert verify(dataset).problems == ()


def test_a_licence_that_the_hub_does_not_know(dataset):
    front = metadata_load(card(dataset, "for members of our lab: ask"))
    assert (front["license"], front["license_name"]) == ("other", "for members of our lab: ask")


@pytest.mark.parametrize(
    ("frames", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (234_769, "100K<n<1M"), (10**9, "100M<n<1B")]
)
def test_size_category(dataset, frames, size):
    summary = inspect(dataset).model_copy(update={"frames": frames})
    assert f"- {size}" in front_matter(summary, "mit")


def test_what_people_read(dataset):
    text = card(dataset, "mit", authors="A. Author").read_text()
    for expected in (
        "12 frames of 2 clips of synthetic",
        "| `queries` | input | float16 (17, 256) | query, channel | 1 |  | full |",
        "| weights | random:0 |",
        "| val | 1 | 7 |",
        "| Town03 | 1 | 5 |",
        "| this dataset | mit | as its publisher states |",
        "| synthetic | Apache-2.0 | the raw data that it is derived from |",
        "A. Author: tiny latents of synthetic",
    ):
        assert expected in text
    # Commands are all zero.
    assert "| `command` | 0 | 0 | 0 | 0 | 0 | 0 | 0 | `█` |" in text
    assert "Vicuna" not in text


def test_the_terms_that_bind_orion_on_bench2drive(tmp_path, manifest, assets):
    identity = {
        "teacher": manifest.teacher.model_copy(update={"name": "orion-7b", "weights": "sha256:0"}),
        "data": manifest.data.model_copy(update={"name": "Bench2Drive", "licence": "CC BY-NC-ND 4.0"}),
    }
    path = tmp_path / "x.zarr"
    with DatasetWriter(path, manifest.replace(**identity), assets) as writer:
        clip = writer.clip(CLIPS[0])
        clip.append(values_of(CLIPS[0].name, CLIPS[0].frames))
        clip.commit(wall_s=0)
    text = card(path, "other terms", cite="Us (2026), *Our paper*").read_text()
    for expected in (
        "CC BY-NC-ND 4.0",
        "Apache-2.0",
        "Llama 2",
        "2503.19755",
        "Jia et al.",
        "does not permit",
    ):
        assert expected in text
    assert "Us \\(2026\\), \\*Our paper\\*" in text


def test_an_empty_dataset_has_no_card(tmp_path, manifest, assets):
    with DatasetWriter(tmp_path / "x.zarr", manifest, assets):
        pass
    with pytest.raises(RequestError, match="no clips"):
        card(tmp_path / "x.zarr", "mit")


def test_untrusted_text_stays_text(tmp_path, manifest, assets):
    """YAML, tables, HTML, links and code fences that want to be more than names."""
    hostile = (
        "x: [y]\n---\nlicense: mit\n| a | b |\n<script>alert(1)</script> ![i](u) [l](u) `c` ``` "
        "\"q\" 's' # h *e* {{ x }} &lt;"
    )
    identity = {
        "teacher": manifest.teacher.model_copy(update={"name": hostile, "precision": hostile}),
        "data": manifest.data.model_copy(update={"name": hostile, "licence": hostile}),
        "features": tuple(
            spec.model_copy(update={"description": hostile, "unit": hostile}) for spec in manifest.features
        ),
    }
    path = tmp_path / 'a "b" `c` ```.zarr'
    info = CLIPS[0].model_copy(update={"town": hostile, "scenario": hostile, "weather": hostile})
    with DatasetWriter(path, manifest.replace(**identity), assets) as writer:
        clip = writer.clip(info)
        clip.append(values_of(info.name, info.frames))
        clip.commit(wall_s=0)
    written = card(path, hostile, authors=hostile)
    front = metadata_load(written)
    assert front["license"] == "other"
    assert front["license_name"] == hostile
    assert front["pretty_name"] == f"{hostile} latents of {hostile}"
    text = written.read_text()
    body = text[text.index("\n---\n", 4) :]
    prose = re.sub(r"```python\n.*?\n```", "", body, flags=re.DOTALL)
    assert re.search(r"(?<!\\)<", prose) is None
    assert re.search(r"(?<!\\)!?\[", prose) is None
    assert re.search(r"^license", prose, re.MULTILINE) is None
    # Every row of a table has as many cells as its head.
    for table in re.findall(r"(?:^\|.*\|\n)+", prose, re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(cells) == 1, table
    assert len(re.findall(r"^```", body, re.MULTILINE)) == 2 * 4


@pytest.mark.parametrize("encoding", ["full", "int8-per-channel"])
def test_the_programs_on_the_card_run(dataset, tmp_path, monkeypatch, encoding):
    path = tmp_path / 'it\'s "x".zarr'
    reencode(dataset, path, {"queries": encoding})
    text = card(path, "mit").read_text()
    monkeypatch.chdir(tmp_path)
    plain, *decode, ours, dask, xarray = re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)
    assert len([line for line in plain.splitlines() if line]) <= 10
    assert len([line for line in ours.splitlines() if line]) == 3
    assert len(decode) == (encoding != "full")
    printed = {}
    reader = plain.replace("print(", "keep(values, group, feature, ")
    scope = {
        "keep": lambda values, group, feature, clip, split, name, *_: printed.setdefault(
            (clip, name), (values, group, feature)
        )
    }
    exec(reader, scope)
    assert len(printed) == len(CLIPS) * 4
    for block in decode:
        exec(block, scope)
    decoded = scope.get("decode", lambda group, feature: group[feature["name"]][:])
    opened = LatentDataset.open(path)
    for (clip, name), (_, group, feature) in printed.items():
        np.testing.assert_array_equal(decoded(group, feature), opened.read(clip, name))
    token = [values_of(clip.name, clip.frames)["token"] for clip in CLIPS]
    exec(ours, scope)
    np.testing.assert_array_equal(scope["values"], token[0])
    exec(dask, scope)
    np.testing.assert_array_equal(scope["values"].compute(scheduler="synchronous"), np.concatenate(token))
    pytest.importorskip("xarray")
    exec(xarray, scope)
    assert scope["values"].dims == ("frame", "channel")
    np.testing.assert_array_equal(scope["values"], token[0])


def test_a_card_is_written_anew(dataset: Path):
    before = card(dataset, "mit").read_text()
    assert card(dataset, "mit").read_text() == before
    assert "mit" not in metadata_load(card(dataset, "apache-2.0"))["license"]


def test_the_card_of_a_dataset_of_format_2(format_2, monkeypatch):
    text = card(format_2, "mit").read_text()
    for expected in (
        "A latent dataset of format 2",
        "| `image` | input | uint8 (\\*,) | byte | 1 |  | full |",
        "| `maps` | target | float32 (2, \\*, \\*) | layer, row, column | 1 |  | lower-triangle |",
        "| Boston | 1 | 5 |",
        "`wide` can be read like a feature",
    ):
        assert expected in text
    monkeypatch.chdir(format_2.parent)
    plain, decode, ours, dask, xarray = re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)
    found, scope = {}, {}
    exec(decode, scope)
    scope["keep"] = lambda group, feature, clip, split, name, *_: found.setdefault(
        (clip, name), scope["decode"](group, feature)
    )
    exec(plain.replace("print(", "keep(group, feature, "), scope)
    opened = LatentDataset.open(format_2)
    assert len(found) == 3 * len(opened.manifest.features)
    for (clip, name), values in found.items():
        assert_equal(values, opened.read(clip, name))
    for program in (ours, dask, xarray):
        exec(program, scope)


def test_a_feature_without_any_value(tmp_path):
    path = write_format_2(tmp_path / "x.zarr", FORMAT_2_CLIPS[2:])
    (row,) = [
        line
        for line in card(path, "mit").read_text().splitlines()
        if "no values" in line and "tokens" in line
    ]
    assert [cell.strip() for cell in row.split("|")] == ["", "`tokens`", *[""] * 7, "no values", ""]
