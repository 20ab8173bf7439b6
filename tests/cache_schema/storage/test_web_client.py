"""Servers that are slow, broken, busy, or that lead elsewhere. No request leaves this machine."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cache_schema.errors import StorageError
from cache_schema.storage import web_client
from cache_schema.storage.web_client import Retries, WebClient, _check_redirect, _RefusedError
from tests.cache_schema.servers import serving

CONTENT = bytes(range(256)) * 4096


class Server(ThreadingHTTPServer):
    """Answers every request as ``answer`` says, and writes it down."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: Callable[["Handler"], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.asked, self.connections = answer, [], 0

    def get_request(self):
        self.connections += 1
        return super().get_request()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        with contextlib.suppress(OSError):
            self.server.answer(self)

    do_HEAD = do_GET  # noqa: N815

    def reply(self, status: int, content: bytes = b"", announced: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if announced is None else announced))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def client(answer: Callable[[Handler], None], **options) -> Iterator[tuple[WebClient, Server]]:
    server = Server(answer)
    with serving(server) as url:
        yield WebClient(url, repair="mend it", **{"retries": Retries(3, 0.01), **options}), server


def whole(reader: WebClient, name: str = "a") -> bytes:
    return b"".join(reader.stream(name))


def trickle(handler: Handler, content: bytes) -> None:
    for byte in content:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.02)


def slow_body(handler: Handler) -> None:
    handler.reply(200, announced=10_000)
    trickle(handler, bytes(10_000))


def slow_head(handler: Handler) -> None:
    trickle(
        handler, b"HTTP/1.1 200 OK\r\n" + b"X-Filler: 0123456789\r\n" * 500 + b"Content-Length: 0\r\n\r\n"
    )


def slow_redirects(handler: Handler) -> None:
    trickle(handler, b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /" + b"x" * 300 + b"\r\n\r\n")


def slow_after_much(handler: Handler) -> None:
    handler.reply(200, CONTENT, announced=len(CONTENT) + 10_000)
    trickle(handler, bytes(10_000))


@pytest.mark.parametrize("answer", [slow_body, slow_head, slow_redirects, slow_after_much])
def test_a_server_that_trickles(answer: Callable[[Handler], None], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(web_client, "SLOWEST_S", 0.5)
    with client(answer) as (reader, server):
        with pytest.raises(StorageError, match="the server sent less than 64 kB in"):
            whole(reader)
        assert len(server.asked) < 3  # it is not asked again
        if answer in (slow_head, slow_redirects):
            with pytest.raises(StorageError, match="the server sent less than 64 kB in"):
                reader.size("a")


@pytest.mark.parametrize("where", ["before", "after"])
def test_headers_without_end(where: str):
    def answer(handler: Handler) -> None:
        if where == "after":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
        while True:
            handler.wfile.write(
                (b"HTTP/1.1 100 Continue\r\n\r\n" if where == "before" else b"a: b\r\n") * 1000
            )

    with client(answer) as (reader, server):
        with pytest.raises(StorageError, match="have no end"):
            whole(reader)
        assert server.asked == ["/a"]


def test_a_slow_reader_is_no_slow_server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(web_client, "SLOWEST_S", 0.5)
    with client(lambda handler: handler.reply(200, CONTENT)) as (reader, _):
        got = b""
        for number, block in enumerate(reader.stream("a")):
            got += block
            if number < 2:
                time.sleep(0.4)
    assert got == CONTENT


@pytest.mark.parametrize(
    "place",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "https://192.168.1.1/",
        "https://[fd00::1]/",
        "https://[fe80::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://100.64.0.1/",
        "http://0.0.0.0/",
        "http://93.184.216.34/",  # without encryption
        "https://inside.example/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "gopher://127.0.0.1/",
        "https://user:word@127.0.0.1/",
        "http://127.0.0.1:99999/",
        "http://[/",
    ],
)
def test_redirects_that_are_not_followed(place: str, monkeypatch: pytest.MonkeyPatch):
    resolve = socket.getaddrinfo

    def stand_in(host, *args, **options):
        return resolve("10.0.0.7" if host == "inside.example" else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", stand_in)
    monkeypatch.setattr(web_client, "CONNECT_S", 0.01)
    with client(lambda handler: handler.reply(302, Location=place)) as (reader, server):
        for read in (whole, lambda reader: reader.size("a")):
            with pytest.raises(StorageError):
                read(reader)
    assert server.asked == ["/a", "/a"]


@pytest.mark.parametrize(
    ("address", "home", "scheme", "follows"),
    [
        ("93.184.216.34", "1.1.1.1", "https", True),
        ("93.184.216.34", "127.0.0.1", "https", True),
        ("93.184.216.34", "1.1.1.1", "http", False),
        ("127.0.0.1", "1.1.1.1", "https", False),
        ("127.0.0.1", "10.0.0.1", "https", False),
        ("::1", "1.1.1.1", "https", False),
        ("::ffff:127.0.0.1", "1.1.1.1", "https", False),
        ("64:ff9b::7f00:1", "1.1.1.1", "https", False),
        ("2002:a00:1::", "1.1.1.1", "https", False),
        ("169.254.169.254", "1.1.1.1", "https", False),
        ("169.254.169.254", "127.0.0.1", "http", False),
        ("224.0.0.1", "1.1.1.1", "https", False),
        ("10.0.0.1", "10.0.0.1", "https", True),
        ("10.0.0.2", "10.0.0.1", "https", False),
        ("127.0.0.9", "127.0.0.1", "http", True),
        ("::1", "127.0.0.1", "http", True),
    ],
)
def test_where_redirects_lead(address: str, home: str, scheme: str, follows: bool):
    with contextlib.nullcontext() if follows else pytest.raises(_RefusedError):
        _check_redirect(scheme, "host", address, home)


def test_a_redirect_on_this_machine_is_followed_without_the_token():
    tokens = []

    def answer(handler: Handler) -> None:
        tokens.append((handler.path, handler.headers.get("Authorization")))
        port = handler.server.server_port
        if handler.path == "/a":
            return handler.reply(307, Location="/b")
        if handler.path == "/b":
            return handler.reply(302, Location=f"http://localhost:{port}/c d?x=1%20")
        return handler.reply(200, CONTENT)

    with client(answer, headers={"Authorization": "Bearer secret"}) as (reader, _):
        assert whole(reader) == CONTENT
        assert reader.size("a") == len(CONTENT)
    assert tokens[:3] == [("/a", "Bearer secret"), ("/b", "Bearer secret"), ("/c%20d?x=1%20", None)]


def test_redirects_in_a_circle_end():
    with client(lambda handler: handler.reply(302, Location="/b")) as (reader, server):
        with pytest.raises(StorageError, match="more than 5 times"):
            whole(reader)
        assert len(server.asked) == 6


def test_a_connection_that_breaks_is_made_again():
    """Half of the file comes, then the connection ends; what was read already is not read twice."""
    broken = threading.Event()

    def answer(handler: Handler) -> None:
        if broken.is_set():
            return handler.reply(200, CONTENT)
        broken.set()
        handler.reply(200, CONTENT[:700_001], announced=len(CONTENT))
        handler.close_connection = True
        return None

    with client(answer) as (reader, server):
        assert whole(reader) == CONTENT
        assert len(server.asked) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(status: int):
    waiting = [status, status]

    def answer(handler: Handler) -> None:
        if waiting:
            return handler.reply(waiting.pop(), b"busy", Retry_After="1000000")
        return handler.reply(200, CONTENT)

    with client(answer) as (reader, server):
        assert whole(reader) == CONTENT
        assert len(server.asked) == 3
        assert server.connections == 1


@pytest.mark.parametrize(("status", "asked"), [(429, 4), (502, 4), (403, 1), (416, 1)])
def test_a_server_that_refuses_is_left(status: int, asked: int):
    with client(lambda handler: handler.reply(status, b"why \x1b[2J not")) as (reader, server):
        with pytest.raises(StorageError, match=f"{status} ") as caught:
            whole(reader)
        assert len(server.asked) == asked
        assert "mend it" in caught.value.repair


def test_ranges():
    def answer(handler: Handler) -> None:
        if handler.path == "/none":
            return handler.reply(200, CONTENT)
        wrong = "bytes 5-9/100" if handler.path == "/wrong" else "bytes 2-4/100"
        return handler.reply(206, CONTENT[2:5], Content_Range=wrong)

    with client(answer) as (reader, _):
        assert b"".join(reader.stream("a", range(2, 5))) == CONTENT[2:5]
        assert reader.ranges("a", 100, [(2, 3), (2, 3)]) == 2 * CONTENT[2:5]
        with pytest.raises(FileNotFoundError, match="another size than 99"):
            reader.ranges("a", 99, [(2, 3)])
        for name in ("none", "wrong"):
            with pytest.raises(StorageError, match="Range"):
                list(reader.stream(name, range(2, 5)))


def test_one_connection_serves_many_requests():
    with client(lambda handler: handler.reply(200 if handler.path < "/m" else 404, CONTENT)) as (
        reader,
        server,
    ):
        for name in ("a", "b", "z", "c"):
            if name == "z":
                assert reader.size(name) is None
                continue
            assert whole(reader, name) == CONTENT
            assert reader.size(name) == len(CONTENT)
        assert server.connections == 1


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    reader = WebClient(f"http://127.0.0.1:{port}", repair="mend it", retries=Retries(1, 0.01))
    with pytest.raises(StorageError, match="refused"):
        whole(reader)
