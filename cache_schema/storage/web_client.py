"""Reading from web servers that are not trusted.

A request ends where the server is slower than any connection is. A redirect leads to no other scheme, and
to no address of this machine or of a private network: a public server could otherwise make its readers ask
for what only they can reach.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import ipaddress
import os
import re
import socket
import ssl
import threading
import time
import urllib.request
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from cache_schema.errors import StorageError
from cache_schema.storage.backend import BLOCK_BYTES, SLOWEST_BYTES, SLOWEST_S

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from urllib.parse import SplitResult

CONNECT_S = 10.0
"""One attempt to connect."""
UNSEEN_BYTES = 2 * BLOCK_BYTES
REDIRECTS = 5
ADDRESSES = 4
"""Addresses of a host that are tried."""
RANGES_AHEAD = 8
"""Parts of one file that are asked for at the same time."""
IDLE = 16
"""Connections that are kept for further requests."""
BUSY = {408, 429, 500, 502, 503, 504}
"""Answers after which the same request may succeed."""
URL_CHARACTERS = "%/:?#[]@!$&'()*+,;=~"
"""Characters of a redirect's path and query that are sent as they are."""
MOVED = {301, 302, 303, 307, 308}


class Retries(NamedTuple):
    """How often a request is repeated where a server is busy or a connection breaks."""

    count: int
    longest_s: float
    """Longest pause; the first one is 0.1 s, each takes twice as long as that before."""


WEB_RETRIES = Retries(8, 10.0)


class WebClient:
    """Reads files below one address, from any number of threads.

    Args:
        root: The address, ``https://...``, or ``http://...`` of this machine.
        repair: What a user may do where it cannot be read.
        headers: Sent with every request; ``authorization`` to the server of ``root`` alone.
        retries: How often a request is repeated.
    """

    def __init__(
        self,
        root: str,
        *,
        repair: str,
        headers: Mapping[str, str] | None = None,
        retries: Retries = WEB_RETRIES,
    ) -> None:
        self.root, self.repair, self.retries = root.rstrip("/"), repair, retries
        # Sizes must be announced, which they are not where the transfer is compressed.
        self._headers = {name.lower(): value for name, value in (headers or {}).items()}
        self._headers["accept-encoding"] = "identity"
        self._idle: list[_Kept] = []
        self._lock, self._process = threading.Lock(), os.getpid()
        weakref.finalize(self, _close_all, self._idle)

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None where there is no such file.

        Raises:
            StorageError: The server cannot be reached, refuses, or does not tell.
        """
        with contextlib.suppress(FileNotFoundError), self._answer("HEAD", name, _Patience(), None) as answer:
            nbytes = answer.getheader("Content-Length")
            if nbytes is None:
                raise self._failed(name, "the server does not tell its size")
            return int(nbytes)
        return None

    def ranges(self, name: str, nbytes: int, ranges: Sequence[tuple[int, int]]) -> bytes:
        """Return parts of a file of ``nbytes``, each given by its begin and length, one behind the other.

        Raises:
            FileNotFoundError: There is no such file, or it has another size.
            StorageError: As of ``stream``.
        """

        def read(part: tuple[int, int]) -> bytes:
            begin, length = part
            content = bytearray()
            for block in self.stream(name, range(begin, begin + length), nbytes):
                content += block
                if len(content) > length:
                    break
            if len(content) != length:
                raise FileNotFoundError(f"{self.root}/{name} has another size than {nbytes} bytes")
            return bytes(content)

        if len(ranges) == 1:
            return read(ranges[0])
        with ThreadPoolExecutor(RANGES_AHEAD) as pool:
            return b"".join(pool.map(read, ranges))

    def stream(self, name: str, part: range | None = None, nbytes: int | None = None) -> Iterator[bytes]:
        """Yield a file block by block.

        Args:
            name: The file, relative to ``root``.
            part: Which of its bytes; all by default.
            nbytes: The size that the whole file must have, where a part is asked for.

        Raises:
            FileNotFoundError: There is no such file, or it has another size.
            StorageError: The server cannot be reached, refuses, is too slow, or knows no ranges.
        """
        patience, arrived, whole = _Patience(), 0, False
        span = None
        if part is not None and (part.start, part.stop) != (0, nbytes):
            span = f"bytes={part.start}-{part.stop - 1}"
        while not whole:
            with self._answer("GET", name, patience, span) as answer:
                if span is not None and nbytes is not None and _whole_size(answer) not in (nbytes, None):
                    raise FileNotFoundError(f"{self.root}/{name} has another size than {nbytes} bytes")
                try:
                    skipped = 0
                    while block := answer.read1(BLOCK_BYTES):
                        patience.unseen = 0
                        # After a broken connection, what has been yielded already comes once more.
                        new = block[max(0, arrived - skipped) :]
                        skipped += len(block)
                        arrived += len(new)
                        if new:
                            yield new
                    whole = not answer.length  # None where it was not announced
                    broken = f"the connection ended {answer.length} bytes early"
                except (_TooSlowError, _RefusedError) as error:
                    raise self._failed(name, str(error)) from error
                except (OSError, http.client.HTTPException) as error:
                    broken = f"the connection broke: {error!r}"
            if not whole:
                self._again(name, patience, broken)

    @contextlib.contextmanager
    def _answer(
        self, method: str, name: str, patience: _Patience, span: str | None
    ) -> Generator[http.client.HTTPResponse]:
        """Ask for a file, follow redirects, repeat what may succeed; yield the answer of the last server."""
        while True:
            try:
                kept, answer = self._ask(method, name, patience, span)
            except HOPELESS as error:
                raise self._failed(name, str(error)) from error
            except (OSError, http.client.HTTPException) as error:
                self._again(name, patience, str(error) or repr(error))
                continue
            try:
                if answer.status in (404, 410):
                    raise FileNotFoundError(f"{self.root}/{name}")
                if answer.status in (200, 206):
                    if span is not None and not _is_span(answer, span):
                        raise self._failed(name, f"the server does not support the header Range: {span}")
                    yield answer
                    return
                refusal = f"{answer.status} {answer.reason}"
                with contextlib.suppress(OSError, http.client.HTTPException, _RefusedError):
                    refusal += " " + " ".join(answer.read(200).decode(errors="replace").split())
                if answer.status not in BUSY:
                    raise self._failed(name, refusal.strip())
            finally:
                self._keep(kept, answer)
            self._again(name, patience, refusal.strip(), answer.getheader("Retry-After"))

    def _ask(
        self, method: str, name: str, patience: _Patience, span: str | None
    ) -> tuple[_Kept, http.client.HTTPResponse]:
        url = urlsplit(f"{self.root}/{quote(name)}")
        origin, home = (url.scheme, url.netloc), None
        for hop in range(REDIRECTS + 1):
            headers = self._headers | ({} if span is None else {"range": span})
            if (url.scheme, url.netloc) != origin:
                headers.pop("authorization", None)
            kept, answer = self._exchange(method, url, headers, patience, home if hop else None)
            home = home or kept.address
            place = answer.getheader("Location")
            if answer.status not in MOVED or place is None:
                return kept, answer
            self._keep(kept, answer)
            url = urlsplit(urljoin(url.geturl(), place))
            if url.scheme != "https" and url.scheme != origin[0]:
                raise _RefusedError(f"it leads to {url.scheme}: and is not followed")
            if not url.hostname or "@" in url.netloc:
                raise _RefusedError("it leads to an address that cannot be read, and is not followed")
        raise _RefusedError(f"it leads on more than {REDIRECTS} times")

    def _exchange(
        self, method: str, url: SplitResult, headers: Mapping[str, str], patience: _Patience, home: str | None
    ) -> tuple[_Kept, http.client.HTTPResponse]:
        """Send one request. With ``home``, the address of the server that was asked for, it is a redirect."""
        place = (url.scheme, url.hostname or "", url.port)
        path = quote((url.path or "/") + (f"?{url.query}" if url.query else ""), safe=URL_CHARACTERS)
        while True:
            kept = self._taken(place)
            new = kept is None
            if kept is None:
                kept = _Kept(place, patience)
            elif home is not None:
                _check_redirect(url.scheme, url.hostname or "", kept.address, home)
            try:
                if new:
                    with patience.waiting():
                        kept.connect(home)
                kept.patience = patience
                kept.connection.request(method, path, headers=dict(headers))
                return kept, kept.connection.getresponse()
            except (ConnectionError, http.client.BadStatusLine):
                kept.connection.close()
                if new:
                    raise
                # It was closed while it was idle.
            except BaseException:
                kept.connection.close()
                raise

    def _taken(self, place: tuple[str, str, int | None]) -> _Kept | None:
        with self._lock:
            if self._process != os.getpid():  # of the process that this one was forked from
                _close_all(self._idle)
                self._process = os.getpid()
            for kept in self._idle:
                if kept.place == place:
                    self._idle.remove(kept)
                    return kept
        return None

    def _keep(self, kept: _Kept, answer: http.client.HTTPResponse) -> None:
        """Keep a connection whose answer was read whole; close any other."""
        with contextlib.suppress(OSError, http.client.HTTPException, _RefusedError):
            # What is left of a short answer is not worth a new connection.
            if answer.length is not None and 0 < answer.length <= 4096 and not answer.isclosed():
                answer.read()
        whole = (answer.isclosed() or answer.length == 0) and not answer.will_close
        answer.close()
        with self._lock:
            if whole and len(self._idle) < IDLE and self._process == os.getpid():
                self._idle.append(kept)
                return
        kept.connection.close()

    def _again(self, name: str, patience: _Patience, why: str, asked: str | None = None) -> None:
        """Pause before a request is repeated; end with an error where that was tried often enough."""
        if patience.repeated == self.retries.count:
            raise self._failed(name, why)
        seconds = 0.1 * 2**patience.repeated
        if asked is not None and asked.isdecimal():
            seconds = max(seconds, float(asked[:9]))
        patience.repeated += 1
        time.sleep(min(seconds, self.retries.longest_s))

    def _failed(self, name: str, what: str) -> StorageError:
        return StorageError(
            f"{self.root} cannot be used: {name}: {what}",
            expected="a server that answers, grants access, and sends at least a kilobyte a second",
            repair=f"{self.repair}; then run the same command again, what is finished is kept",
        )


def _close_all(idle: list[_Kept]) -> None:
    while idle:
        idle.pop().connection.close()


class _TooSlowError(TimeoutError):
    """A server takes too long."""

    def __init__(self) -> None:
        super().__init__(f"the server sent less than {SLOWEST_BYTES // 1024} kB in {SLOWEST_S:.0f} s")


class _RefusedError(Exception):
    """A redirect leads where it is not followed, or an answer is none."""


HOPELESS = (
    _TooSlowError,
    _RefusedError,
    socket.gaierror,
    ssl.SSLCertVerificationError,
    http.client.InvalidURL,
    ValueError,  # of an address that cannot be parsed
)
"""What fails again however often a request is repeated."""


class _Patience:
    """How long a server may take: counts the time in which it is waited for, and the requests repeated."""

    def __init__(self) -> None:
        self.repeated = 0
        self.unseen = 0
        """Bytes that came since the last one of a file: of headers, which have no end by themselves."""
        self._waited, self._arrived = 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Generator[float]:
        """Yield how many seconds are left for what is done inside."""
        left, begun = SLOWEST_S - self._waited, time.monotonic()
        if left <= 0:
            raise _TooSlowError
        try:
            yield left
        finally:
            self._waited += time.monotonic() - begun

    def read(self, connection: socket.socket, read: Callable[[], int | None]) -> int | None:
        """Read from a connection; end with ``_TooSlowError`` once the server was waited for too long."""
        with self.waiting() as left:
            connection.settimeout(left)
            try:
                nbytes = read()
            except TimeoutError as error:
                raise _TooSlowError from error
        self.unseen += nbytes or 0
        if self.unseen > UNSEEN_BYTES:
            raise _RefusedError("the headers of its answer have no end")
        self._arrived += nbytes or 0
        if self._arrived >= SLOWEST_BYTES:
            self._waited, self._arrived = 0.0, 0
        return nbytes


class _Kept:
    """A connection to a server, and the address that it leads to."""

    def __init__(self, place: tuple[str, str, int | None], patience: _Patience) -> None:
        self.place, self.patience, self.address = place, patience, ""
        scheme, host, port = place
        proxy = _proxy(host) if scheme == "https" else None
        self._proxied = proxy is not None
        to, at = (host, port) if proxy is None else (proxy.hostname or "", proxy.port or 3128)
        if scheme == "https":
            context = ssl.create_default_context()
            self.connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                to, at, timeout=CONNECT_S, context=context
            )
        else:
            self.connection = http.client.HTTPConnection(to, at, timeout=CONNECT_S)
        if proxy is not None:
            self.connection.set_tunnel(host, port)
        # Answers are read through this object's patience, their first lines included.
        self.connection.response_class = functools.partial(_Answer, kept=self)  # ty: ignore[invalid-assignment]

    def connect(self, home: str | None) -> None:
        """Connect, after a redirect only to where it may lead."""
        scheme, host, port = self.place
        if home is not None and self._proxied:
            # The proxy looks the name up again; what this machine knows of it is checked.
            for address in _addresses(host, port, required=False):
                _check_redirect(scheme, host, address, home)

        def create(place: tuple[str, int], timeout: float, *_: object) -> socket.socket:
            addresses = _addresses(*place)
            for address in addresses:
                if home is not None and not self._proxied:
                    _check_redirect(scheme, host, address, home)
            for number, address in enumerate(addresses):
                try:
                    connected = socket.create_connection((address, place[1]), timeout)
                except OSError:
                    if number == len(addresses) - 1:
                        raise
                else:
                    self.address = address
                    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    return connected
            raise OSError(f"{host} has no address")

        setattr(self.connection, "_create_connection", create)  # noqa: B010 (the standard library's own hook)
        self.connection.connect()
        if self._proxied:
            self.address = next(iter(_addresses(host, port, required=False)), "0.0.0.0")


class _Answer(http.client.HTTPResponse):
    """An answer that is waited for no longer than ``SLOWEST_S`` allows."""

    def __init__(self, sock: socket.socket, *args: object, kept: _Kept, **options: object) -> None:
        super().__init__(sock, *args, **options)  # ty: ignore[invalid-argument-type]
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_Watched(raw, sock, kept))


class _Watched(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, connection: socket.socket, kept: _Kept) -> None:
        self._raw, self._connection, self._kept = raw, connection, kept

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int | None:
        return self._kept.patience.read(self._connection, lambda: self._raw.readinto(buffer))  # ty: ignore

    def close(self) -> None:
        self._raw.close()
        super().close()


def _addresses(host: str, port: int | None, *, required: bool = True) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port or 443, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        if not required:
            return []
        raise socket.gaierror(f"there is no host {host!r}") from error
    return list(dict.fromkeys(str(row[4][0]) for row in found))[:ADDRESSES]


def _check_redirect(scheme: str, host: str, address: str, home: str) -> None:
    """Check where a server at the address ``home`` leads its readers: to a public address, or at home."""
    there, here = _plain(address), _plain(home)
    at_home = there == here or (there.is_loopback and here.is_loopback)
    if not at_home and not (there.is_global and not there.is_multicast and scheme == "https"):
        raise _RefusedError(f"it leads to {scheme}://{host}, which is no public address, and is not followed")


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address, of an IPv4 address in the clothes of IPv6 that itself."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        embedded = found.ipv4_mapped or found.sixtofour
        if found in ipaddress.ip_network("64:ff9b::/96"):
            embedded = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        return embedded or found
    return found


def _proxy(host: str) -> SplitResult | None:
    """Return the proxy that the environment names for a host."""
    proxy = urllib.request.getproxies().get("https")
    if not proxy or urllib.request.proxy_bypass(host):
        return None
    return urlsplit(proxy if "//" in proxy else f"//{proxy}")


def _whole_size(answer: http.client.HTTPResponse) -> int | None:
    """Return the size of the file that an answer is a part of; None where it does not tell."""
    size = (answer.getheader("Content-Range") or "").rpartition("/")[2]
    return int(size) if size.isdecimal() else None


def _is_span(answer: http.client.HTTPResponse, span: str) -> bool:
    """Whether an answer holds the range that was asked for."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.getheader("Content-Range") or "")
    return answer.status == 206 and found is not None and f"bytes={found[1]}-{found[2]}" == span
