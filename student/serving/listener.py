"""Listening at an address, and the secret that guards one that others reach."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from typing import TYPE_CHECKING

from cache_schema.errors import RequestError
from student.serving.address import Address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

SHORTEST_TOKEN = 16
"""Characters: as hexadecimal digits, they are 64 bits, too many to try over a network."""


async def listen(
    address: Address, connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> tuple[asyncio.Server, Address]:
    """Listen at an address, and return where that is: port 0 has become the port that was free.

    Args:
        address: Where.
        connected: Serves a connection.

    Raises:
        RequestError: It is not free.
    """
    try:
        if address.path:
            await _remove_stale(address.path)
            return await asyncio.start_unix_server(connected, sock=_bound_socket(address.path)), address
        listener = await asyncio.start_server(connected, address.host, address.port)
    except OSError as error:
        raise RequestError(
            f"{address} cannot be listened at: {error.strerror or error}",
            expected="a free address of this machine",
            repair="choose another one, such as port 0 for any that is free; or end what listens there",
        ) from error
    return listener, Address(host=address.host, port=listener.sockets[0].getsockname()[1])


def read_token(file: Path) -> bytes:
    """Return the secret in a file.

    Raises:
        RequestError: It is too short.
    """
    token = file.read_text().strip().encode()
    if len(token) < SHORTEST_TOKEN:
        raise RequestError(
            f"the token in {file} has {len(token)} characters",
            expected=f"at least {SHORTEST_TOKEN}",
            repair="write a longer one, for example by `openssl rand -hex 32`",
        )
    return token


def token_missing(address: Address) -> RequestError:
    """Return the error of an address that needs a token."""
    return RequestError(
        f"{address} can be reached from other machines",
        expected="an address of this machine alone, or a token",
        repair="write a secret into a file, and give the file to the server and to agents",
    )


def _bound_socket(path: str) -> socket.socket:
    """Return a socket at a path, for its owner alone."""
    bound = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        bound.bind(path)
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(mask)
    return bound


async def _remove_stale(path: str) -> None:
    """Remove the socket of a server that was killed.

    Raises:
        OSError: A server listens there, or it is no socket.
    """
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(0, "a file that is no socket is there", path)
    except FileNotFoundError:
        return
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except ConnectionRefusedError:
        os.unlink(path)
        return
    writer.close()
    raise OSError(0, "another server listens there")
