"""Where the server listens: a TCP port, or a socket in the file system."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from cache_schema.errors import RequestError


@dataclass(frozen=True)
class Address:
    """An address of ``tcp://HOST:PORT`` or ``unix:///PATH``. Port 0 takes a free one."""

    host: str = ""
    """Of TCP; without the brackets of IPv6."""
    port: int = 0
    path: str = ""
    """Of the socket; empty for TCP."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return an address.

        Raises:
            RequestError: It is none.
        """
        if found := re.fullmatch(r"tcp://(\[([0-9a-fA-F:.]+)\]|[^:/\[\],+]+):(\d{1,5})", text):
            if (port := int(found[3])) < 65536:
                return cls(host=found[2] or found[1], port=port)
        elif found := re.fullmatch(r"unix://(/[^,+]+)", text):
            return cls(path=found[1])
        raise RequestError(
            f"{text!r} is no address",
            expected="tcp://HOST:PORT or unix:///PATH; agents divide theirs at , and +",
            repair="write, for example, tcp://127.0.0.1:0 for a free port",
        )

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
