import functools
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import obstore
import pytest
from obstore.store import S3Store

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import DatasetError, RequestError, StorageError
from cache_schema.sharing.push import push
from cache_schema.storage.local_folder import LocalBackend
from cache_schema.storage.object_store import BucketBackend
from cache_schema.storage.open import open_backend
from cache_schema.storage.web import WebBackend
from tests.cache_schema.conftest import CLIPS, values_of
from tests.cache_schema.servers import Bucket, serving


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which Python's own web server hands it out."""
    folder = tmp_path / "www"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=folder)
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as url:
        yield folder, url


def test_every_backend_reads_alike(bucket: Bucket, web: tuple[Path, str], tmp_path: Path):
    folder, url = web
    contents = {"a": b"one", "clips/x/c.0": b"", "clips/x/c.1": bytes(range(256)) * 9000, "clips/y": b"y"}
    local, remote = open_backend(folder), open_backend(bucket.url)
    for backend in (local, remote):
        backend.upload([contents])
    for backend in (local, open_backend(folder.as_uri()), remote, open_backend(url)):
        for name, content in contents.items():
            assert backend.read(name, len(content)) == content
            assert b"".join(backend.stream(name)) == content
            assert backend.size(name) == len(content)
        assert backend.size("clips/none") is None
        with pytest.raises(FileNotFoundError):
            backend.read("clips/none", 9)
        with pytest.raises(DatasetError, match="bytes"):
            backend.read("clips/x/c.1", 2000)
    for backend in (local, remote):
        assert backend.names("clips/x") == ["c.0", "c.1"]
        assert backend.names("clips") == ["y"]
        assert backend.names("nowhere") == []
        assert {name: listed.nbytes for name, listed in backend.files().items()} == {
            name: len(content) for name, content in contents.items()
        }


def test_kinds_of_backends(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert isinstance(open_backend("some/folder"), LocalBackend)
    assert open_backend("file:///some/a%20folder").local == Path("/some/a folder")
    assert isinstance(open_backend("s3://bucket/prefix"), BucketBackend)
    assert isinstance(open_backend("https://host/path/"), WebBackend)
    assert open_backend("s3://bucket/prefix/").local is None


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/x.zarr",
        "https://somebody:secret@host/x.zarr",
        "https://host/x.zarr?token=secret",
        "s3:///prefix",
        "ftp://host/x.zarr",
        "file://host/x.zarr",
        "hf://models/org/name",
        "hf://datasets/org/name/folder",
        "hf://dataset/org/name",
        "hf:/datasets/org/name",
        "HF:datasets/org/name",
        "s3://",
        "s3:bucket/x.zarr",
        "s3://bucket:99999/x.zarr",
        "s3://a bucket/x.zarr",
        "gs:///x",
        "https://",
        "https://host:99999/x.zarr",
        "https://host:port/x.zarr",
        "https://[::1/x.zarr",
        "https://ho st/x.zarr",
        "https://host/x\n.zarr",
        "http://127.0.0.1:99999",
        "://host/x",
    ],
)
def test_urls_that_are_refused(url: str):
    with pytest.raises(RequestError):
        open_backend(url)


def test_refusals_of_a_bucket_are_reported(bucket: Bucket):
    with pytest.raises(DatasetError, match="there is no latent dataset at s3://no-such-bucket"):
        LatentDataset.open("s3://no-such-bucket/x.zarr")
    with pytest.raises(StorageError) as caught:
        open_backend("s3://no-such-bucket/x.zarr").files()
    assert "NoSuchBucket" in caught.value.happened
    bucket.denied.add("zarr.json")
    with pytest.raises(StorageError) as caught:
        LatentDataset.open(bucket.url)
    assert bucket.url in caught.value.happened
    assert "403" in caught.value.happened
    assert "\n" not in caught.value.happened
    assert "AWS_ACCESS_KEY_ID" in caught.value.repair


def test_a_public_bucket_needs_no_keys(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    options = {"allow_http": True, "default_headers": {"x-amz-acl": "public-read"}}
    obstore.put(
        S3Store.from_url(bucket.url, endpoint=bucket.endpoint, client_options=options), "a", b"for all"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert open_backend(bucket.url).read("a", 99) == b"for all"


def test_a_link_is_not_followed(tmp_path: Path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend" / "link").symlink_to(tmp_path / "secret")
    backend = open_backend(tmp_path / "backend")
    for read in (
        lambda: backend.read("link", 99),
        lambda: list(backend.stream("link")),
        lambda: backend.size("link"),
    ):
        with pytest.raises(DatasetError, match="symbolic link"):
            read()


def test_nothing_is_uploaded_through_a_link(tmp_path: Path):
    mine, target = tmp_path / "mine", tmp_path / "target"
    target.mkdir()
    mine.write_text("mine")
    (target / "index.json").symlink_to(mine)
    with pytest.raises(DatasetError, match="is a symbolic link"):
        LocalBackend(target).upload([{"index.json": b"{}"}])
    assert mine.read_text() == "mine"


def test_the_entry_of_a_clip_is_asked_for_once(carded: Path, bucket: Bucket):
    push(carded, bucket.url)
    opened, clip = LatentDataset.open(bucket.url), CLIPS[1].name
    bucket.seen.clear()
    assert opened.clip(clip) == opened.entry(clip).clip
    assert len(bucket.seen) == 1


def test_one_frame_of_a_bucket_costs_one_frame(carded: Path, bucket: Bucket):
    push(carded, bucket.url)
    opened = LatentDataset.open(bucket.url)
    bucket.seen.clear()
    clip, frames = CLIPS[1].name, CLIPS[1].frames
    np.testing.assert_array_equal(opened.read(clip, "queries", 2), values_of(clip, frames)["queries"][2])
    chunks = bucket.asked("GET", "queries/c.")
    # One chunk with its checksum, and the index of the shard: 16 bytes a chunk and a checksum.
    assert sum(seen.nbytes for seen in chunks) == 17 * 256 * 2 + 4 + 16 * frames + 4
    assert not bucket.asked("GET", CLIPS[0].name)
    assert {
        seen.path.rpartition("/")[2] for seen in bucket.asked("GET", clip) if "queries" not in seen.path
    } == {f"{clip}.json"}


def test_a_bucket_reads_as_the_folder_does(carded: Path, bucket: Bucket):
    push(carded, bucket.url)
    there, here = LatentDataset.open(bucket.url), LatentDataset.open(carded)
    assert there.clips == here.clips
    assert there.manifest == here.manifest
    for clip in here.clips:
        for spec in here.manifest.features:
            np.testing.assert_array_equal(there.read(clip, spec.name), here.read(clip, spec.name))
            rows = np.array([3, 0])
            np.testing.assert_array_equal(there.read(clip, spec.name, rows), here.read(clip, spec.name, rows))
    np.testing.assert_array_equal(there.asset("heads")["scene.weight"], here.asset("heads")["scene.weight"])
    with pytest.raises(RequestError, match="not on this machine"):
        there.path  # noqa: B018


def test_a_web_server_names_clips_by_the_index(carded: Path, web: tuple[Path, str]):
    folder, url = web
    push(carded, (folder / "tiny.zarr").as_uri())
    opened = LatentDataset.open(f"{url}/tiny.zarr")
    assert opened.clips == tuple(clip.name for clip in CLIPS)
    clip = CLIPS[0].name
    np.testing.assert_array_equal(opened.read(clip, "token"), values_of(clip, 5)["token"])
    with pytest.raises(StorageError, match="Range"):
        opened.read(clip, "queries", 1)  # this server knows no byte ranges
    (folder / "tiny.zarr" / "index.json").write_text('{"clips": ["../../etc/passwd"]}')
    with pytest.raises(DatasetError, match=r"index\.json"):
        LatentDataset.open(f"{url}/tiny.zarr").clips  # noqa: B018
    (folder / "tiny.zarr" / "index.json").unlink()
    with pytest.raises(StorageError, match="which clips") as caught:
        LatentDataset.open(f"{url}/tiny.zarr").clips  # noqa: B018
    assert "push" in caught.value.repair
    with pytest.raises(StorageError, match="cannot"):
        push(carded, f"{url}/tiny.zarr")


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
@pytest.mark.parametrize(
    "endpoint",
    [
        "localhost:9000",
        "127.0.0.1",
        "http://",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:x",
        "ftp://127.0.0.1",
        "http://[::1",
        "http://a b",
        "//127.0.0.1:9000",
    ],
)
def test_endpoints_that_are_refused(
    endpoint: str, name: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, endpoint)
    with pytest.raises(RequestError, match=name) as caught:
        open_backend("s3://bucket/x.zarr")
    assert endpoint in caught.value.happened
