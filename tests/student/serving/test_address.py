import pytest

from cache_schema.errors import RequestError
from student.serving.address import Address


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("tcp://127.0.0.1:0", True),
        ("tcp://127.8.0.1:65535", True),
        ("tcp://localhost:5000", True),
        ("tcp://[::1]:5000", True),
        ("unix:///run/user/teachonce.sock", True),
        ("tcp://0.0.0.0:5000", False),
        ("tcp://[::]:5000", False),
        ("tcp://10.0.0.7:5000", False),
        ("tcp://gpu.example.org:5000", False),
        ("tcp://localhost.example.org:5000", False),
    ],
)
def test_addresses_are_read_and_written(text, local):
    address = Address.parse(text)
    assert str(address) == text
    assert address.is_local is local


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:80",
        "http://127.0.0.1:80",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1:65536",
        "tcp://:80",
        "tcp://::1:80",
        "tcp://a,b:80",
        "unix://relative",
        "unix:///a+b",
        "unix:///a,b",
        "unix://",
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(RequestError, match="is no address"):
        Address.parse(text)
