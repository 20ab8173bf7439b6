"""Servers on loopback that keep count of what they hand out."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler


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
    busy: dict[str, list[str]] = field(default_factory=dict)
    """Statuses that the next requests whose path holds a key get instead of an answer, the last one first."""
    denied: set[str] = field(default_factory=set)
    """Requests whose path holds one of these are forbidden."""

    def asked(self, method: str, part: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == method and part in seen.path]


class Watched:
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
        for part, statuses in bucket.busy.items():
            if part in seen.path and statuses:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response(statuses.pop(), [("Content-Length", "4")])
                return [b"busy"]
        if any(part in seen.path for part in bucket.denied):
            start_response("403 Forbidden", [("Content-Length", "9")])
            return [b"forbidden"]
        body = b"".join(self.app(environ, start_response))
        seen.nbytes = len(body)
        return [body]


class Quiet(WSGIRequestHandler):
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
