"""Servers on loopback that keep count of what they hand out."""

import itertools
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

_numbers = itertools.count()


@dataclass
class Seen:
    """One request, and how many bytes of body went back."""

    method: str
    path: str
    nbytes: int = 0


@dataclass
class Bucket:
    """A bucket of a real S3 protocol server, and everything that was asked of it."""

    url: str
    endpoint: str
    seen: list[Seen] = field(default_factory=list)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    """Requests whose path holds a key wait for its event."""
    denied: set[str] = field(default_factory=set)
    """Requests whose path holds one of these are forbidden."""

    def asked(self, method: str, part: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == method and part in seen.path]


class _Watched:
    """The server, with every request written down."""

    def __init__(self) -> None:
        self.app = DomainDispatcherApplication(create_backend_app)
        self.bucket: Bucket | None = None

    def __call__(self, environ, start_response):
        bucket, seen = self.bucket, Seen(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if bucket is None:
            return self.app(environ, start_response)
        for part, gate in bucket.gates.items():
            if part in seen.path:
                gate.wait(60)
        bucket.seen.append(seen)
        if any(part in seen.path for part in bucket.denied):
            start_response("403 Forbidden", [("Content-Length", "9")])
            return [b"forbidden"]
        body = b"".join(self.app(environ, start_response))
        seen.nbytes = len(body)
        return [body]


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: object) -> None:
        pass


@contextmanager
def serving(server) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="session")
def _s3() -> Iterator[tuple[_Watched, str]]:
    watched = _Watched()
    with serving(make_server("127.0.0.1", 0, watched, threaded=True, request_handler=_Quiet)) as endpoint:
        yield watched, endpoint


@pytest.fixture
def bucket(_s3: tuple[_Watched, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket, with the environment that leads to it."""
    watched, endpoint = _s3
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{next(_numbers)}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{name}", method="PUT")).close()
    watched.bucket = Bucket(f"s3://{name}/shared/tiny.zarr", endpoint)
    yield watched.bucket
    watched.bucket = None


@pytest.fixture
def carded(dataset: Path) -> Path:
    """The dataset of two clips with a card that states a licence."""
    (dataset / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    return dataset
