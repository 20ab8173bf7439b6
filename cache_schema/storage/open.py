"""Which storage backend a path or a URL names."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from cache_schema.errors import RequestError
from cache_schema.storage.backend import StorageBackend
from cache_schema.storage.local_folder import LocalBackend

URL = re.compile(r"(hf|s3|gs|https?|ftp|file):|[^/]*://", re.IGNORECASE)
"""What begins like this is no folder: a misspelt URL must not become one."""
PRINTABLE = re.compile(r"[^\s\x00-\x1f\x7f-\x9f]+")
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")


def open_backend(where: str | Path | StorageBackend) -> StorageBackend:
    """Return the storage backend that a path or a URL names.

    Args:
        where: A folder, or a URL: ``s3://bucket/prefix``, ``gs://bucket/prefix``, ``https://host/path``,
            ``file:///path``, ``hf://datasets/org/name`` or ``hf://datasets/org/name@revision``. A backend
            is returned as it is.

    Raises:
        RequestError: The URL is of another kind.
        StorageError: The backend cannot be reached.
    """
    if isinstance(where, StorageBackend):
        return where
    if isinstance(where, Path) or not URL.match(where):
        return LocalBackend(Path(where))
    try:
        parts = urlsplit(where)
        scheme, port = parts.scheme.lower(), parts.port
    except ValueError:  # a port that is no number, brackets that do not close
        parts, scheme, port = urlsplit(""), "", None
    if not PRINTABLE.fullmatch(where):
        scheme = ""
    if scheme == "file" and parts.netloc in ("", "localhost"):
        return LocalBackend(Path(url2pathname(parts.path)))
    if scheme == "hf":
        from cache_schema.storage.huggingface import HubBackend

        return HubBackend(where)
    if parts.netloc and not (parts.query or parts.fragment or "@" in parts.netloc):
        from cache_schema.storage.object_store import BucketBackend
        from cache_schema.storage.web import WebBackend

        if scheme == "https" or (scheme == "http" and _is_loopback(parts.hostname or "")):
            return WebBackend(where.rstrip("/"))
        if scheme in ("s3", "gs") and BUCKET.fullmatch(parts.netloc) and port is None:
            return BucketBackend(where.rstrip("/"))
    raise RequestError(
        f"{where!r} names no storage that datasets can be in",
        expected="a folder, s3://bucket/prefix, gs://bucket/prefix, https://host/path (http only on this "
        "machine), file:///path or hf://datasets/org/name, without passwords and queries",
        repair="correct the URL; credentials come from the environment",
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
