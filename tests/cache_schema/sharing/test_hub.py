"""The hub's real client against as much of a hub as it needs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cache_schema.dataset.reader import LatentDataset
from cache_schema.integrity.verify import verify
from tests.cache_schema.conftest import CLIPS
from tests.cache_schema.servers import serving
from tests.cache_schema.sharing.fake_hub import REPOSITORY, TOKEN, FakeHub, Hub

FIRST, SECOND = (clip.name for clip in CLIPS)
URL = f"hf://datasets/{REPOSITORY}"
PRELUDE = """
import json, sys
from pathlib import Path
from cache_schema.errors import TeachonceError
from cache_schema.storage.open import open_backend
from cache_schema.sharing.pull import pull
from cache_schema.sharing.push import push
from cache_schema.dataset.reader import LatentDataset
url, dataset, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
"""

Run = Callable[..., list[str]]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    server = FakeHub()
    with serving(server):
        yield server


@pytest.fixture
def run(hub: FakeHub, carded: Path, tmp_path: Path) -> Run:
    """Run code in a process whose client speaks to the fake hub; return its lines."""

    def run(code: str, *, token: str | None = TOKEN) -> list[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HOME": str(tmp_path / "home"),
            # The other protocol for large files is the client's own affair; it needs more than a fake hub.
            "HF_HUB_DISABLE_XET": "1",
        } | ({} if token is None else {"HF_TOKEN": token})
        done = subprocess.run(
            [sys.executable, "-c", PRELUDE + code, URL, carded, tmp_path / "out.zarr"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def test_there_and_back_again(carded: Path, hub: FakeHub, run: Run, tmp_path: Path):
    lines = run(
        "print(push(dataset, url).sent)\n"
        "print(push(dataset, url).sent)\n"
        "print(pull(url, out).fetched)\n"
        "print(pull(url, out).fetched)\n"
    )
    assert lines == [repr((FIRST, SECOND)), "()", repr((FIRST, SECOND)), "()"]
    for clip in (FIRST, SECOND):
        assert LatentDataset.open(tmp_path / "out.zarr").entry(clip) == LatentDataset.open(carded).entry(clip)
    assert verify(tmp_path / "out.zarr").problems == ()
    assert hub.hub.leaked == []
    assert hub.hub.uploads == 9  # four arrays of two clips, and an asset
    # At no commit was there half a clip, nor a root before its clips.
    for files in hub.hub.commits:
        assert ("zarr.json" in files) <= (f"ledger/{SECOND}.json" in files)
        for clip in (FIRST, SECOND):
            held = sum(name.startswith(f"clips/{clip}/") for name in files)
            assert held == (9 if f"ledger/{clip}.json" in files else 0)
    assert len(hub.hub.commits) == 4  # as it was made, the asset, the clips, card and root


def test_reading_costs_what_is_read(carded: Path, hub: FakeHub, run: Run):
    hub.hub.fill(carded)
    code = (
        "opened = LatentDataset.open(url)\n"
        f"print(opened.clips, opened.read({SECOND!r}, 'queries', 2).shape)\n"
        "print(open_backend(url + '@main').size('zarr.json'), open_backend(url).size('none'))\n"
        "print([name for name in open_backend(url).files() if name.startswith('assets/')])\n"
        "print(open_backend(url).names('nowhere'))"
    )
    lines = run(code, token=None)
    size = len(hub.hub.blobs[hub.hub.commits[-1]["zarr.json"]])
    assert lines == [
        f"{(FIRST, SECOND)} (17, 256)",
        f"{size} None",
        "['assets/heads.safetensors']",
        "[]",
    ]
    ranges = [(asked, nbytes) for _, asked, nbytes in hub.hub.downloads if asked]
    # The index of the shard, and one chunk with its checksum.
    assert ranges == [("bytes=60956-61071", 116), ("bytes=17416-26123", 17 * 256 * 2 + 4)]


def test_a_reader_stays_with_its_commit(carded: Path, hub: FakeHub, run: Run):
    hub.hub.fill(carded)
    lines = run(
        "opened = LatentDataset.open(url)\n"
        "open_backend(url).upload([{'ledger/Later.json': b'{}', 'zarr.json': b'{}'}])\n"
        f"print(len(opened.clips), opened.read({FIRST!r}, 'token').shape)\n"
        f"print(len(LatentDataset.open(url + '@{hub.hub.sha()}').clips))\n"
        "try: LatentDataset.open(url)\n"
        "except TeachonceError as error: print(error.happened[:30])"
    )
    assert lines == ["2 (5, 8)", "2", f"{URL}/zarr.json is not the root"[:30]]


def test_refusals_of_the_hub_are_reported(hub: FakeHub, run: Run):
    code = (
        "missing = [lambda: open_backend(url + '@nowhere'), lambda: open_backend(url + 'x')]\n"
        "for act in [*missing, lambda: push(dataset, url)]:\n"
        "    try: act()\n"
        "    except TeachonceError as error:\n"
        "        print(json.dumps([type(error).__name__, error.happened, error.repair]))"
    )
    revision, repository, forbidden = [json.loads(line) for line in run(code, token=None)]
    assert revision[0] == repository[0] == forbidden[0] == "StorageError"
    assert "Revision Not Found" in revision[1]
    assert "Repository Not Found" in repository[1]
    assert "401" in forbidden[1]
    assert "HF_TOKEN" in forbidden[2]
    assert hub.hub.commits == Hub().commits


def test_two_pushes_do_not_mix(hub: FakeHub, run: Run):
    code = (
        "backend, other = open_backend(url), open_backend(url)\n"
        "backend.upload([{'a.json': b'1'}])\n"
        "backend.upload([{'b.json': b'2'}])\n"
        "try: other.upload([{'c.json': b'3'}])\n"
        "except TeachonceError as error: print(type(error).__name__, '412' in error.happened)"
    )
    assert run(code) == ["StorageError True"]
    assert hub.hub.commits[-1].keys() == {"a.json", "b.json"}


QUICK = "import cache_schema.storage.huggingface as hub\nhub.PAUSES_S = (0.01, 0.01)\n"


def test_a_busy_hub_is_asked_again(hub: FakeHub, run: Run):
    hub.hub.busy = [503, 429]
    assert run(QUICK + "print(len(push(dataset, url).sent), len(pull(url, out).fetched))") == ["2 2"]
    assert len(hub.hub.commits) == 4
    hub.hub.busy = [503] * 3
    code = (
        "try: open_backend(url).upload([{'a.json': b'1'}])\n"
        "except TeachonceError as error: print(error.happened)"
    )
    assert "503" in run(QUICK + code)[0]
    assert hub.hub.busy == []
    assert len(hub.hub.commits) == 4


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub: FakeHub, run: Run, tmp_path: Path):
    hub.hub.lost = True
    code = "try: push(dataset, url)\nexcept TeachonceError as error: print('412' in error.happened)\n"
    assert run(QUICK + code) == ["True"]
    assert len(hub.hub.commits) == 2
    assert run("print(len(push(dataset, url).sent), len(pull(url, out).fetched))") == ["2 2"]
    assert verify(tmp_path / "out.zarr").problems == ()


def test_a_damaged_file_of_the_hub_is_replaced(carded: Path, hub: FakeHub, run: Run, tmp_path: Path):
    damaged = tmp_path / "damaged"
    shutil.copytree(carded, damaged)
    names = (f"clips/{FIRST}/token/c.0.0", f"clips/{FIRST}/token/zarr.json", "assets/heads.safetensors")
    for name in names:
        content = (damaged / name).read_bytes()
        (damaged / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    hub.hub.fill(damaged)
    assert run("print(push(dataset, url).sent, len(pull(url, out).fetched))") == [f"({FIRST!r},) 2"]
    assert verify(tmp_path / "out.zarr").problems == ()
