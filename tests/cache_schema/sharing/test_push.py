import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import DatasetError, IdentityError, RequestError, StorageError
from cache_schema.integrity.verify import verify
from cache_schema.sharing.pull import pull
from cache_schema.sharing.push import push
from cache_schema.storage.atomic_io import sha256_of
from cache_schema.storage.backend import Limits, LocalFile
from cache_schema.storage.local_folder import LocalBackend
from cache_schema.storage.object_store import etag_of
from cache_schema.storage.open import open_backend
from tests.cache_schema.conftest import CLIPS, values_of
from tests.cache_schema.servers import Bucket
from tests.recorded_progress import RecordedProgress

FIRST, SECOND = (clip.name for clip in CLIPS)


def puts(bucket: Bucket) -> list[str]:
    root = "/" + bucket.url.removeprefix("s3://") + "/"
    return [seen.path.removeprefix(root) for seen in bucket.seen if seen.method == "PUT"]


def test_readers_see_whole_clips_only(carded: Path, bucket: Bucket):
    reported = RecordedProgress()
    done = push(carded, bucket.url, progress=reported)
    sent = puts(bucket)
    for clip in (FIRST, SECOND):
        files = [position for position, name in enumerate(sent) if name.startswith(f"clips/{clip}/")]
        assert len(files) == 9
        assert max(files) < sent.index(f"ledger/{clip}.json")
    assert sent[-3:] == ["README.md", "index.json", "zarr.json"]
    assert json.loads(open_backend(bucket.url).read("index.json", 999))["clips"] == [FIRST, SECOND]
    assert done.sent == (FIRST, SECOND)
    assert done.present == ()
    there = {name: listed.nbytes for name, listed in open_backend(bucket.url).files().items()}
    assert done.nbytes == sum(size for name, size in there.items() if name.startswith(("clips", "assets")))
    assert reported.totals == [done.nbytes] == [sum(reported.amounts)]
    assert {*reported.statuses} == {"", FIRST, SECOND}


def test_what_is_there_is_not_sent_again(carded: Path, bucket: Bucket):
    push(carded, bucket.url)
    bucket.seen.clear()
    again = push(carded, bucket.url)
    assert again.present == (FIRST, SECOND)
    assert (again.sent, again.nbytes) == ((), 0)
    assert puts(bucket) == ["README.md", "index.json"]


def test_a_push_that_was_cut_short_goes_on(carded: Path, bucket: Bucket):
    bucket.denied.add(f"{SECOND}/token/c.")
    with pytest.raises(StorageError, match="403"):
        push(carded, bucket.url)
    with pytest.raises(DatasetError, match="no latent dataset"):
        LatentDataset.open(bucket.url)
    # Of the clip that was cut short, a file of the right size has other bytes.
    backend = open_backend(bucket.url)
    name = f"clips/{SECOND}/command/c.0"
    assert backend.size(name) == 11
    backend.upload([{name: bytes(11)}])
    bucket.denied.clear()
    before = set(backend.files()) - {name}
    bucket.seen.clear()
    push(carded, bucket.url)
    sent = set(puts(bucket))
    assert sent & before == set()
    assert {name, f"clips/{SECOND}/token/c.0.0", f"ledger/{SECOND}.json", "zarr.json"} <= sent
    assert not any(FIRST in file for file in sent)
    assert LatentDataset.open(bucket.url).clips == (FIRST, SECOND)
    assert backend.read(name, 11) == (carded / name).read_bytes()


def test_a_file_that_was_lost_is_sent_again(carded: Path, bucket: Bucket):
    push(carded, bucket.url)
    lost = f"clips/{FIRST}/queries/c.0.0.0"
    obstore.delete(
        S3Store.from_url(bucket.url, endpoint=bucket.endpoint, client_options={"allow_http": True}), lost
    )
    bucket.seen.clear()
    assert push(carded, bucket.url).sent == (FIRST,)
    assert puts(bucket) == [lost, "README.md", "index.json"]


def test_a_large_file_goes_in_parts(carded: Path, bucket: Bucket, monkeypatch, tmp_path: Path):
    part = 5 * 2**20  # the least that S3 takes
    monkeypatch.setattr("cache_schema.storage.object_store.PART_BYTES", part)
    large = tmp_path / "large"
    large.write_bytes(os.urandom(2 * part + 7))
    backend = open_backend(bucket.url)
    file = LocalFile(large, 2 * part + 7, sha256_of(large))
    backend.upload([{"large": file}])
    assert len(bucket.asked("POST", "large")) == 2  # begins and ends it
    assert backend.files()["large"].etag == etag_of(file)
    assert b"".join(backend.stream("large")) == large.read_bytes()


def test_halves_are_pushed_together(carded: Path, bucket: Bucket, manifest, assets, tmp_path: Path):
    halves = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    for path, info in zip(halves, CLIPS, strict=True):
        with DatasetWriter(path, manifest, assets) as writer:
            clip = writer.clip(info)
            clip.append(values_of(info.name, info.frames))
            clip.commit(wall_s=0)
        shutil.copy(carded / "README.md", path)
        push(path, bucket.url)
    pull(bucket.url, tmp_path / "both.zarr")
    for clip in (FIRST, SECOND):
        digest = LatentDataset.open(carded).entry(clip).digest
        assert LatentDataset.open(tmp_path / "both.zarr").entry(clip).digest == digest


def test_another_dataset_is_left_alone(carded: Path, bucket: Bucket, manifest, assets, tmp_path: Path):
    push(carded, bucket.url)
    other = manifest.replace(teacher=manifest.teacher.model_copy(update={"weights": "random:1"}))
    with DatasetWriter(tmp_path / "other.zarr", other, assets):
        pass
    shutil.copy(carded / "README.md", tmp_path / "other.zarr")
    before = open_backend(bucket.url).files()
    with pytest.raises(IdentityError, match=r"teacher\.weights: 'random:0' there, 'random:1' here"):
        push(tmp_path / "other.zarr", bucket.url)
    assert open_backend(bucket.url).files() == before


def test_another_clip_of_the_same_name_is_left_alone(carded: Path, manifest, assets, tmp_path: Path):
    target = (tmp_path / "there").as_uri()
    push(carded, target)
    with DatasetWriter(tmp_path / "other.zarr", manifest, assets) as writer:
        clip = writer.clip(CLIPS[0])
        clip.append(values_of("other values", CLIPS[0].frames))
        clip.commit(wall_s=0)
    shutil.copy(carded / "README.md", tmp_path / "other.zarr")
    with pytest.raises(IdentityError, match=FIRST):
        push(tmp_path / "other.zarr", target)
    # As if that push had been cut short after its first clip.
    (tmp_path / "there" / "zarr.json").unlink()
    (tmp_path / "there" / "ledger" / f"{SECOND}.json").unlink()
    with pytest.raises(IdentityError, match=FIRST):
        push(tmp_path / "other.zarr", target)
    assert verify(carded).problems == ()


def test_storage_with_other_files_is_left_alone(carded: Path, bucket: Bucket):
    open_backend(bucket.url).upload([{"thesis.pdf": b"precious"}])
    with pytest.raises(IdentityError, match=r"thesis\.pdf"):
        push(carded, bucket.url)
    assert puts(bucket) == ["thesis.pdf"]


@pytest.mark.parametrize(
    "card", [None, "# Tiny\n", "---\ntags: [x]\n---\n", "---\nlicense: [\n---\n", "---\nlicense: ''\n---\n"]
)
def test_no_licence_no_push(dataset: Path, bucket: Bucket, card: str | None):
    if card is not None:
        (dataset / "README.md").write_text(card)
    with pytest.raises(DatasetError, match="states no licence") as caught:
        push(dataset, bucket.url)
    assert "teachonce card" in caught.value.repair
    assert not bucket.seen


def test_a_damaged_dataset_is_not_pushed(carded: Path, bucket: Bucket):
    with (carded / "clips" / FIRST / "token" / "c.0.0").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DatasetError, match=f"{FIRST}: token/c.0.0 has"):
        push(carded, bucket.url)
    assert not bucket.seen


def test_more_files_than_storage_allows(carded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Two clips of 9 files, their entries, three more; the folder clips/ holds two folders and zarr.json.
    target = (tmp_path / "there").as_uri()
    monkeypatch.setattr(LocalBackend, "limits", Limits(files=9, entries_per_folder=100))
    with pytest.raises(StorageError, match="20 files") as caught:
        push(carded, target)
    assert "--part 1/3" in caught.value.repair
    monkeypatch.setattr(LocalBackend, "limits", Limits(files=100, entries_per_folder=4))
    with pytest.raises(StorageError, match="folder of 5 entries") as caught:
        push(carded, target)
    assert "--part 1/2" in caught.value.repair
    assert not (tmp_path / "there").exists()
    monkeypatch.setattr(LocalBackend, "limits", Limits(files=20, entries_per_folder=5))
    push(carded, target)


def test_a_folder_is_no_copy_of_itself(carded: Path):
    with pytest.raises(RequestError, match="would be sent"):
        push(carded, carded.as_uri())


def test_a_folder_is_storage_too(carded: Path, tmp_path: Path):
    push(carded, (tmp_path / "there").as_uri())
    assert verify(tmp_path / "there").problems == ()
    assert LatentDataset.open(tmp_path / "there").clips == (FIRST, SECOND)
    assert not list((tmp_path / "there").rglob(".*"))
    assert pull(str(tmp_path / "there"), tmp_path / "back").fetched == (FIRST, SECOND)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def write_again(path: Path) -> None:
    """Make the first clip of a dataset again, as `repair` and an extraction do."""
    kept = {clip.name: clip for clip in CLIPS}[FIRST]
    (path / "ledger" / f"{FIRST}.json").unlink()
    with DatasetWriter(path, LatentDataset.open(path).manifest) as writer:
        clip = writer.clip(kept)
        clip.append(values_of(FIRST, kept.frames))
        clip.commit(wall_s=2.5)


@pytest.mark.parametrize("place", ["folder", "bucket"])
@pytest.mark.parametrize(
    "name", [f"clips/{FIRST}/token/c.0.0", f"clips/{FIRST}/token/zarr.json", "assets/heads.safetensors"]
)
def test_damaged_bytes_are_not_sent(carded: Path, bucket: Bucket, tmp_path: Path, place: str, name: str):
    url = (tmp_path / "there").as_uri() if place == "folder" else bucket.url
    good = (carded / name).read_bytes()
    flip(carded / name)
    with pytest.raises(DatasetError, match=r"holds other bytes|is damaged"):
        push(carded, url)
    there = open_backend(url).files()
    assert name not in there
    assert f"ledger/{FIRST}.json" not in there
    assert "zarr.json" not in there
    (carded / name).write_bytes(good)
    push(carded, url)
    assert pull(url, tmp_path / "out.zarr").fetched == (FIRST, SECOND)
    assert verify(tmp_path / "out.zarr").problems == ()


def test_a_large_file_that_is_damaged_never_appears(carded: Path, bucket: Bucket, monkeypatch):
    monkeypatch.setattr("cache_schema.storage.object_store.PART_BYTES", 5 * 2**20)
    large = carded / "large"
    large.write_bytes(os.urandom(11 * 2**20))
    file = LocalFile(large, 11 * 2**20, sha256_of(large))
    flip(large)
    backend = open_backend(bucket.url)
    with pytest.raises(DatasetError, match="holds other bytes"):
        backend.upload([{"large": file}])
    assert backend.files() == {}


@pytest.mark.parametrize(
    "name",
    [
        f"clips/{FIRST}/token/c.0.0",
        f"ledger/{FIRST}.json",
        "assets/heads.safetensors",
        "clips/zarr.json",
        "zarr.json",
    ],
)
def test_damage_in_a_folder_is_mended(carded: Path, tmp_path: Path, name: str):
    there = tmp_path / "there"
    push(carded, there.as_uri())
    flip(there / name)
    push(carded, there.as_uri())
    assert (there / name).read_bytes() == (carded / name).read_bytes()
    assert verify(there).problems == ()


def test_damage_in_a_bucket_is_mended(carded: Path, bucket: Bucket, tmp_path: Path):
    push(carded, bucket.url)
    name, backend = f"clips/{FIRST}/token/c.0.0", open_backend(bucket.url)
    good = backend.read(name, 10**6)
    backend.upload([{name: bytes(len(good)), "assets/heads.safetensors": bytes(104)}])
    # A bucket's files are compared by size, so that a push does not read terabytes: but for assets,
    assert push(carded, bucket.url).sent == ()
    assert backend.read("assets/heads.safetensors", 104) != bytes(104)
    assert backend.read(name, 10**6) != good
    # where all are to be compared,
    assert push(carded, bucket.url, verify_there=True).sent == (FIRST,)
    assert backend.read(name, 10**6) == good
    # and where a clip was made again, as after a push of damaged bytes by an older version.
    backend.upload([{name: bytes(len(good))}])
    write_again(carded)
    bucket.seen.clear()
    assert push(carded, bucket.url).sent == (FIRST,)
    assert puts(bucket) == [name, f"ledger/{FIRST}.json", "README.md", "index.json"]
    assert pull(bucket.url, tmp_path / "out.zarr").fetched == (FIRST, SECOND)
    assert push(carded, bucket.url).sent == ()


def test_remains_of_another_dataset_are_replaced_or_named(carded: Path, bucket: Bucket, tmp_path: Path):
    """What a push of another dataset has left that was killed before its first ledger entry."""
    backend = open_backend(bucket.url)
    name = f"clips/{FIRST}/token/c.0.0"
    same_sizes = {file: bytes((carded / file).stat().st_size) for file in (name, "assets/heads.safetensors")}
    backend.upload([same_sizes])
    push(carded, bucket.url)
    pull(bucket.url, tmp_path / "out.zarr")
    assert verify(tmp_path / "out.zarr").problems == ()
    for foreign in ("assets/planner.safetensors", f"clips/{FIRST}/more/c.0", "clips/Other/zarr.json"):
        there = tmp_path / foreign.replace("/", "_")
        open_backend(there).upload([{foreign: b"x"}])
        with pytest.raises(IdentityError, match=foreign):
            push(carded, there.as_uri())


def test_a_root_of_a_newer_format_is_not_replaced(carded: Path, tmp_path: Path):
    there = tmp_path / "there"
    push(carded, there.as_uri())
    root = json.loads((there / "zarr.json").read_bytes())
    root["attributes"]["teachonce"]["format_version"] = 99
    (there / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(DatasetError, match="format version 99"):
        push(carded, there.as_uri())
    assert json.loads((there / "zarr.json").read_bytes()) == root


def test_a_killed_push_leaves_nothing_for_long(carded: Path, tmp_path: Path):
    there = tmp_path / "there"
    push(carded, there.as_uri())
    code = (
        "import os, sys, time; from pathlib import Path\n"
        "from cache_schema.storage.local_folder import LocalBackend\n"
        "with LocalBackend(Path(sys.argv[1]))._temporary() as (file, path):\n"
        "    file.write(b'half'); file.flush(); print(path.name, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, there], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = there / process.stdout.readline().strip()
        (there / ".12-notes.tmp").touch()
        push(carded, there.as_uri())
        assert left.exists()  # in use
        process.kill()
        process.wait()
        assert left.exists()
    push(carded, there.as_uri())
    assert [path.name for path in there.glob(".*")] == [".12-notes.tmp"]


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_card_that_is_no_file(dataset: Path, tmp_path: Path, kind: str):
    if kind == "pipe":
        os.mkfifo(dataset / "README.md")
    else:
        (dataset / "README.md").symlink_to("/dev/zero")
    with pytest.raises(DatasetError, match=r"no file|link"):
        push(dataset, (tmp_path / "there").as_uri())


QUICK = {
    "max_retries": 3,
    "backoff": {
        "init_backoff": timedelta(milliseconds=5),
        "max_backoff": timedelta(milliseconds=9),
        "base": 2,
    },
    "retry_timeout": timedelta(seconds=60),
}


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Slow Down", "500 Internal Server Error"])
def test_a_busy_bucket(carded: Path, bucket: Bucket, monkeypatch, tmp_path: Path, status: str):
    monkeypatch.setattr("cache_schema.storage.object_store.RETRIES", QUICK)
    busy = [f"{SECOND}/token/c.", f"ledger/{FIRST}.json", "zarr.json"]
    bucket.busy = {part: [status] * 2 for part in busy}
    push(carded, bucket.url)
    assert not any(bucket.busy.values())
    pull(bucket.url, tmp_path / "out.zarr")
    assert verify(tmp_path / "out.zarr").problems == ()


def test_a_bucket_that_stays_busy(carded: Path, bucket: Bucket, monkeypatch, tmp_path: Path):
    monkeypatch.setattr("cache_schema.storage.object_store.RETRIES", QUICK)
    bucket.busy = {f"{SECOND}/token/c.": ["503 Slow Down"] * 99}
    with pytest.raises(StorageError, match="503"):
        push(carded, bucket.url)
    assert len(bucket.busy[f"{SECOND}/token/c."]) == 99 - 4
    there = open_backend(bucket.url).files()
    assert f"ledger/{SECOND}.json" not in there
    assert "zarr.json" not in there
    bucket.busy.clear()
    push(carded, bucket.url)
    assert pull(bucket.url, tmp_path / "out.zarr").fetched == (FIRST, SECOND)


def test_a_large_file_that_stops_half_way_never_appears(bucket: Bucket, monkeypatch, tmp_path: Path):
    monkeypatch.setattr("cache_schema.storage.object_store.RETRIES", QUICK)
    monkeypatch.setattr("cache_schema.storage.object_store.PART_BYTES", 5 * 2**20)
    large = tmp_path / "large"
    large.write_bytes(bytes(11 * 2**20))
    # It is begun, then no part arrives.
    bucket.busy = {"large": [*["500 Internal Server Error"] * 99, "503 Slow Down"]}
    backend = open_backend(bucket.url)
    with pytest.raises(StorageError):
        backend.upload([{"large": LocalFile(large, 11 * 2**20, sha256_of(large))}])
    assert backend.files() == {}
