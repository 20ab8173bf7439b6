import contextlib
import functools
import json
import signal
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from cache_schema.dataset.add_features import extend_clip
from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.describe.card import card
from cache_schema.describe.inspect import inspect
from cache_schema.errors import DatasetError, IdentityError, RequestError, StorageError
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo, FileRecord, Ledger, digest_of, entry_document
from cache_schema.integrity.verify import verify
from cache_schema.sharing.pull import pull
from cache_schema.sharing.push import push
from cache_schema.sharing.subset import ClipFilter
from cache_schema.storage.atomic_io import sha256_of
from cache_schema.storage.open import open_backend
from tests.cache_schema.conftest import CLIPS, values_of
from tests.cache_schema.format_2 import CLIPS as FORMAT_2_CLIPS
from tests.cache_schema.format_2 import HEADS, assert_equal
from tests.cache_schema.format_2 import values_of as format_2_values
from tests.cache_schema.servers import Bucket, serving
from tests.recorded_progress import RecordedProgress

FIRST, SECOND = (clip.name for clip in CLIPS)


@pytest.fixture
def shared(carded: Path, bucket: Bucket) -> Bucket:
    """The dataset in a bucket, of which nothing was asked yet."""
    push(carded, bucket.url)
    bucket.seen.clear()
    return bucket


def test_there_and_back_again(carded: Path, shared: Bucket, tmp_path: Path):
    out, reported = tmp_path / "out.zarr", RecordedProgress()
    done = pull(shared.url, out, progress=reported)
    assert done.fetched == (FIRST, SECOND)
    assert (done.present, done.failed) == ((), ())
    there, here = LatentDataset.open(out), LatentDataset.open(carded)
    for clip in (FIRST, SECOND):
        assert there.entry(clip) == here.entry(clip)
    assert verify(out).problems == ()
    for name in ("zarr.json", "clips/zarr.json", "README.md", "assets/heads.safetensors"):
        assert (out / name).read_bytes() == (carded / name).read_bytes()
    assert reported.totals == [done.nbytes]
    assert done.nbytes == sum(here.entry(clip).nbytes for clip in (FIRST, SECOND)) == sum(reported.amounts)
    assert {*reported.statuses} == {"", FIRST, SECOND}
    # Each file of values once; what follows from the manifest is not fetched.
    assert len(shared.asked("GET", "/clips/")) == 8
    assert not [seen for seen in shared.asked("GET", "/clips/") if "zarr.json" in seen.path]


def test_what_is_there_is_not_fetched_again(shared: Bucket, tmp_path: Path):
    pull(shared.url, tmp_path / "out.zarr", ClipFilter(clips="*_Town05_*"))
    shared.seen.clear()
    done = pull(shared.url, tmp_path / "out.zarr")
    assert (done.fetched, done.present) == ((FIRST,), (SECOND,))
    assert not shared.asked("GET", SECOND)
    assert not shared.asked("GET", "assets")


def test_killed_in_the_middle_it_goes_on(carded: Path, shared: Bucket, tmp_path: Path):
    out = tmp_path / "out.zarr"
    shared.gates[f"{SECOND}/token"] = threading.Event()
    code = (
        "import sys; from pathlib import Path; from cache_schema.sharing.pull import pull\n"
        "from cache_schema.progress import Progress\n"
        "class Telling(Progress):\n"
        "    def advance(self, amount=1, status=''): status and print(status, flush=True)\n"
        "pull(sys.argv[1], Path(sys.argv[2]), progress=Telling())"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, shared.url, out], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == FIRST
        process.send_signal(signal.SIGKILL)
    shared.gates.popitem()[1].set()
    assert LatentDataset.open(out).clips == (FIRST,)
    assert list((out / ".partial").glob("*/*"))
    shared.seen.clear()
    done = pull(shared.url, out)
    assert (done.fetched, done.present) == ((SECOND,), (FIRST,))
    assert not shared.asked("GET", FIRST)
    assert verify(out).problems == ()
    assert LatentDataset.open(out).entry(SECOND) == LatentDataset.open(carded).entry(SECOND)


def test_two_pulls_do_not_meet(shared: Bucket, tmp_path: Path):
    with DatasetWriter(tmp_path / "out.zarr"), pytest.raises(DatasetError, match="another run"):
        pull(shared.url, tmp_path / "out.zarr")


def test_only_the_clips_asked_for(shared: Bucket, tmp_path: Path):
    assert pull(shared.url, tmp_path / "val.zarr", ClipFilter(split="val")).fetched == (SECOND,)
    assert pull(shared.url, tmp_path / "some.zarr", ClipFilter(clips="Acc*", split="train")).fetched == (
        FIRST,
    )
    assert pull(shared.url, tmp_path / "none.zarr", ClipFilter(clips="Acc*", split="val")).fetched == ()
    assert len(shared.asked("GET", f"clips/{FIRST}/")) == len(shared.asked("GET", f"clips/{SECOND}/")) == 4
    assert pull(shared.url, tmp_path / "town.zarr", ClipFilter(tags={"town": "Town05"})).present == ()
    assert LatentDataset.open(tmp_path / "town.zarr").clips == (SECOND,)
    with pytest.raises(RequestError, match="no clip that fits"):
        pull(shared.url, tmp_path / "typo.zarr", ClipFilter(clips="acc*"))
    assert not (tmp_path / "typo.zarr").exists()


def test_only_the_features_asked_for(carded: Path, shared: Bucket, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("cache_schema.sharing.pull.SMALL_ASSET_BYTES", 10)
    out = tmp_path / "out.zarr"
    done = pull(shared.url, out, features=["token", "command"])
    kept = {"zarr.json", "token/zarr.json", "token/c.0.0", "command/zarr.json", "command/c.0"}
    here, there = LatentDataset.open(carded), LatentDataset.open(out)
    for clip in (FIRST, SECOND):
        fetched = shared.asked("GET", f"clips/{clip}/")
        assert {seen.path.partition(f"clips/{clip}/")[2] for seen in fetched} == {
            "token/c.0.0",
            "command/c.0",
        }
        files = {name: record for name, record in here.entry(clip).files.items() if name in kept}
        assert there.entry(clip).files == files
        assert there.entry(clip).digest == digest_of(here.clip(clip), files) != here.entry(clip).digest
        np.testing.assert_array_equal(there.read(clip, "token"), here.read(clip, "token"))
    assert done.nbytes == sum(there.entry(clip).nbytes for clip in (FIRST, SECOND))
    assert [spec.name for spec in there.manifest.features] == ["token", "command"]
    assert verify(out).problems == ()
    # No student can be trained from these, so that no large asset is of use.
    assert there.manifest.assets == ()
    assert not shared.asked("GET", "assets")
    pull(shared.url, tmp_path / "inputs.zarr", features=["queries"])
    assert LatentDataset.open(tmp_path / "inputs.zarr").asset("heads")
    with pytest.raises(RequestError, match="no feature tokens"):
        pull(shared.url, tmp_path / "typo.zarr", features=["tokens"])
    with pytest.raises(IdentityError, match="features"):
        pull(shared.url, out)


def test_a_wrong_file_is_named_and_the_rest_is_fetched(shared: Bucket, tmp_path: Path):
    out, backend = tmp_path / "out.zarr", open_backend(shared.url)
    name = f"clips/{FIRST}/queries/c.0.0.0"
    content = bytearray(backend.read(name, 10**6))
    content[1234] ^= 4
    backend.upload([{name: bytes(content)}])
    done = pull(shared.url, out)
    assert done.fetched == (SECOND,)
    (left,) = done.failed
    assert left.clip == FIRST
    assert name in left.reason
    assert verify(out).problems == ()
    # With the feature left out, the clip is good.
    assert pull(shared.url, tmp_path / "part.zarr", features=["token", "mask"]).failed == ()
    content[1234] ^= 4
    backend.upload([{name: bytes(content)}])
    assert pull(shared.url, out).fetched == (FIRST,)


def test_a_wrong_asset_ends_it(shared: Bucket, tmp_path: Path):
    open_backend(shared.url).upload([{"assets/heads.safetensors": bytes(88)}])
    with pytest.raises(DatasetError, match=r"assets/heads\.safetensors"):
        pull(shared.url, tmp_path / "out.zarr")
    with pytest.raises(DatasetError, match="no latent dataset"):
        LatentDataset.open(tmp_path / "out.zarr")


def test_another_dataset_is_left_alone(carded: Path, shared: Bucket, manifest, tmp_path: Path):
    other = manifest.replace(assets=(), data=manifest.data.model_copy(update={"name": "B2D"}))
    with DatasetWriter(tmp_path / "other.zarr", other):
        pass
    with pytest.raises(IdentityError, match=r"data\.name"):
        pull(shared.url, tmp_path / "other.zarr")
    assert not shared.asked("GET", "/clips/")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.pdf").touch()
    with pytest.raises(DatasetError, match=r"thesis\.pdf"):
        pull(shared.url, tmp_path / "home")


def test_a_ledger_that_lies_costs_nothing(carded: Path, shared: Bucket, tmp_path: Path):
    backend, entry = open_backend(shared.url), LatentDataset.open(carded).entry(FIRST)
    name = "queries/c.0.0.0"
    vast = entry.files[name].model_copy(update={"nbytes": 10**15})
    extra = entry.files | {"more/c.0": vast}
    for files in (entry.files | {name: vast}, extra, entry.files | {"token/zarr.json": vast}):
        lie = entry.model_copy(update={"files": files, "digest": digest_of(entry.clip, files)})
        backend.upload([{f"ledger/{FIRST}.json": entry_document(lie)}])
        shared.seen.clear()
        done = pull(shared.url, tmp_path / "out.zarr", ClipFilter(clips="Acc*"))
        assert [left.clip for left in done.failed] == [FIRST]
        assert "lists a wrong" in done.failed[0].reason
        assert not shared.asked("GET", "/clips/")


def test_a_disk_that_is_too_small_is_not_filled(shared: Bucket, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(DatasetError, match=r"0\.0 GB left"):
        pull(shared.url, tmp_path / "out.zarr")
    assert not shared.asked("GET", "/clips/")


class Liar(SimpleHTTPRequestHandler):
    """Hands out a folder, but one of its files as ``lie`` says."""

    part: str
    lie: str
    sent: list[int]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.part not in self.path:
            return super().do_GET()
        content = (Path(self.directory) / self.path[1:]).read_bytes()
        content = {"longer": content + b"x", "shorter": content[:-1], "missing": b""}.get(self.lie, content)
        self.send_response(404 if self.lie == "missing" else 200)
        self.send_header("Content-Length", str(10**12 if self.lie == "endless" else len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.close_connection = True
        with contextlib.suppress(OSError):
            while self.lie == "endless":
                self.sent.append(self.wfile.write(bytes(2**16)))
        return None


@pytest.mark.parametrize("lie", ["endless", "longer", "shorter", "missing"])
def test_a_server_that_lies(carded: Path, tmp_path: Path, lie: str):
    push(carded, (tmp_path / "www").as_uri())
    handler = type("Handler", (Liar,), {"part": f"{FIRST}/token/c", "lie": lie, "sent": []})
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path / "www"))
    )
    out, reported = tmp_path / "out.zarr", RecordedProgress()
    with serving(server) as url:
        done = pull(url, out, progress=reported)
    assert done.fetched == (SECOND,)
    (left,) = done.failed
    assert left.clip == FIRST
    assert f"{FIRST}/token/c.0.0" in left.reason
    assert verify(out).problems == ()
    assert sum(reported.amounts) < 200_000
    assert sum(handler.sent) < 2**26  # what the sockets between the two hold


def test_repeated_failures_end_the_pull(carded: Path, bucket: Bucket, manifest, assets, tmp_path: Path):
    path = tmp_path / "many.zarr"
    with DatasetWriter(path, manifest, assets) as writer:
        for number in range(4):
            info = ClipInfo(name=f"Clip{number}_Town01_Route1_Weather0", frames=1, split="train")
            clip = writer.clip(info)
            clip.append(values_of(info.name, 1))
            clip.commit(wall_s=0)
    (path / "README.md").write_bytes((carded / "README.md").read_bytes())
    push(path, bucket.url)
    bucket.denied.update(f"clips/Clip{number}_" for number in (0, 1))
    done = pull(bucket.url, tmp_path / "some.zarr")
    assert [left.clip[:5] for left in done.failed] == ["Clip0", "Clip1"]
    bucket.denied.add("clips/Clip2_")
    with pytest.raises(StorageError, match="403"):
        pull(bucket.url, tmp_path / "none.zarr")
    bucket.denied.clear()
    pull(bucket.url, tmp_path / "none.zarr")
    assert Ledger(tmp_path / "none.zarr").clips() == LatentDataset.open(path).clips
    assert verify(tmp_path / "none.zarr").problems == ()


def test_a_dataset_of_format_2_there_and_back_again(format_2: Path, bucket: Bucket, tmp_path: Path):
    card(format_2, "mit")
    push(format_2, bucket.url)
    out = tmp_path / "out.zarr"
    done = pull(bucket.url, out)
    assert (done.fetched, done.failed) == (("scene-1", "scene-2", "scene-3"), ())
    there, here = LatentDataset.open(out), LatentDataset.open(format_2)
    assert [there.entry(clip) for clip in there.clips] == [here.entry(clip) for clip in here.clips]
    assert there.manifest == here.manifest
    assert verify(out).problems == ()
    assert pull(bucket.url, tmp_path / "some.zarr", ClipFilter(tags={"city": "Sing*"})).fetched == (
        "scene-2",
    )


def test_one_ragged_frame_of_a_bucket_costs_its_own_chunks(format_2: Path, bucket: Bucket):
    card(format_2, "mit")
    push(format_2, bucket.url)
    opened = LatentDataset.open(bucket.url)
    bucket.seen.clear()
    image = opened.read("scene-1", "image", 3)  # bytes 160,000 to 180,000: within the third chunk of five
    np.testing.assert_array_equal(image, format_2_values("scene-1")["image"][3])
    assert sum(seen.nbytes for seen in bucket.asked("GET", "image/c.")) == 65_540 + 5 * 16 + 4
    assert sum(seen.nbytes for seen in bucket.asked("GET", "image.shape/c.")) == 5 * 4 + 4


def test_some_features_of_format_2(format_2: Path, bucket: Bucket, tmp_path: Path):
    card(format_2, "mit")
    push(format_2, bucket.url)
    here = LatentDataset.open(format_2)
    # Ragged ones: the numbers of their values come along, those of the others do not.
    pull(bucket.url, tmp_path / "ragged.zarr", features=["maps", "frame_index"])
    ragged = LatentDataset.open(tmp_path / "ragged.zarr")
    assert (ragged.manifest.format_version, ragged.manifest.derivations) == (2, ())
    assert ragged.entry("scene-1").values == {"maps": here.entry("scene-1").values["maps"]}
    assert_equal(ragged.read("scene-1", "maps"), here.read("scene-1", "maps"))
    assert verify(tmp_path / "ragged.zarr").problems == ()
    # The inputs of a derived feature: it comes along, as its asset does.
    pull(bucket.url, tmp_path / "rows.zarr", features=["rows"])
    rows = LatentDataset.open(tmp_path / "rows.zarr")
    np.testing.assert_array_equal(rows.read("scene-2", "wide"), here.read("scene-2", "wide"))
    assert rows.entry("scene-1").values == {}
    assert verify(tmp_path / "rows.zarr").problems == ()


def test_a_part_without_anything_of_format_2_is_format_1(format_2: Path, tmp_path: Path, monkeypatch):
    path = tmp_path / "plain.zarr"
    manifest = LatentDataset.open(format_2).manifest.replace(tags=())
    with DatasetWriter(path, manifest, {"heads.safetensors": save(HEADS)}) as writer:
        clip = writer.clip(FORMAT_2_CLIPS[2])
        clip.append(format_2_values("scene-3"))
        clip.commit(wall_s=0)
    pull(str(path), tmp_path / "out.zarr", features=["frame_index"])
    held = json.loads((tmp_path / "out.zarr" / "zarr.json").read_bytes())["attributes"]["teachonce"]
    assert held["format_version"] == 1
    assert not {"tags", "derivations"} & held.keys()
    assert verify(tmp_path / "out.zarr").problems == ()


@pytest.mark.parametrize("values", [2**40, 13, None])
def test_a_number_of_values_that_lies_costs_nothing(format_2: Path, bucket: Bucket, tmp_path: Path, values):
    card(format_2, "mit")
    push(format_2, bucket.url)
    entry = LatentDataset.open(format_2).entry("scene-1")
    counts = {name: n for name, n in entry.values.items() if name != "tokens"}
    lie = entry.holding(entry.files, counts if values is None else counts | {"tokens": values})
    open_backend(bucket.url).upload([{"ledger/scene-1.json": entry_document(lie)}])
    bucket.seen.clear()
    done = pull(bucket.url, tmp_path / "out.zarr", ClipFilter(clips="scene-1"))
    assert [left.clip for left in done.failed] == ["scene-1"]
    assert not bucket.asked("GET", "/clips/")


def test_a_damaged_asset_is_fetched_again(shared: Bucket, tmp_path: Path):
    out = tmp_path / "out.zarr"
    pull(shared.url, out)
    asset = out / "assets" / "heads.safetensors"
    good = asset.read_bytes()
    asset.write_bytes(bytes(len(good)))
    shared.seen.clear()
    pull(shared.url, out)
    assert asset.read_bytes() == good
    assert len(shared.asked("GET", "assets")) == 1
    assert verify(out).problems == ()


def test_a_dataset_of_which_some_clips_have_more_features(carded: Path, bucket: Bucket, tmp_path: Path):
    """As `add-ground-truth` leaves it where one raw clip is missing: as written, so it can be had."""
    speed = FeatureSpec(name="truth_speed", shape=(), axes=(), dtype="float32", role="truth")
    before = LatentDataset.open(carded)
    with DatasetWriter(carded):
        extend_clip(
            carded, before.manifest, before.entry(FIRST), (speed,), {speed.name: np.ones(5, np.float32)}
        )
    assert verify(carded).problems == ()
    push(carded, bucket.url)
    out = tmp_path / "out.zarr"
    done = pull(bucket.url, out)
    assert (done.fetched, done.failed) == ((FIRST, SECOND), ())
    assert verify(out).problems == ()
    # What is not promised yet does not come along.
    assert LatentDataset.open(out).entry(FIRST).digest == before.entry(FIRST).digest
    assert not bucket.asked("GET", "truth_speed")


def test_metadata_of_another_spelling_is_fetched(carded: Path, tmp_path: Path):
    """Arrays of old datasets have a zarr.json that says the same in other bytes."""
    file, entry = carded / "clips" / FIRST / "token" / "zarr.json", LatentDataset.open(carded).entry(FIRST)
    file.write_text(json.dumps(json.loads(file.read_bytes())))
    record = FileRecord(nbytes=file.stat().st_size, sha256=sha256_of(file))
    Ledger(carded).commit(entry.holding(entry.files | {"token/zarr.json": record}, {}))
    assert verify(carded).problems == ()
    push(carded, (tmp_path / "there").as_uri())
    assert pull(str(tmp_path / "there"), tmp_path / "out.zarr").fetched == (FIRST, SECOND)
    assert verify(tmp_path / "out.zarr").problems == ()


class Counter(SimpleHTTPRequestHandler):
    """Hands out a folder, and writes down what is asked."""

    asked: list[str]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def send_head(self):
        self.asked.append(f"{self.command} {self.path}")
        return super().send_head()


def test_how_often_a_web_server_is_asked(carded: Path, tmp_path: Path):
    push(carded, (tmp_path / "www").as_uri())
    handler = type("Handler", (Counter,), {"asked": []})
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=str(tmp_path / "www"))
    )
    server.daemon_threads = True
    common = ["GET /index.json", "GET /zarr.json", *(f"GET /ledger/{clip}.json" for clip in (FIRST, SECOND))]
    with serving(server) as url:
        inspect(url)
        assert sorted(handler.asked) == sorted(common)
        handler.asked.clear()
        pull(url, tmp_path / "out.zarr")
    files = ("command/c.0", "mask/c.0.0", "queries/c.0.0.0", "token/c.0.0")
    values = [f"GET /clips/{clip}/{file}" for clip in (FIRST, SECOND) for file in files]
    once = ["GET /README.md", "GET /assets/heads.safetensors"]
    assert sorted(handler.asked) == sorted(common + once + values)
