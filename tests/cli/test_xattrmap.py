"""The rules of --xattrmap."""

from __future__ import annotations

import pytest

from pykrun.cli.xattrmap import parse
from pykrun.errors import UsageError


@pytest.mark.parametrize(
    ("text", "guest", "host"),
    [
        (":map::user.guest.:", b"trusted.x", b"user.guest.trusted.x"),
        (":map:trusted.:user.guest.:", b"trusted.x", b"user.guest.trusted.x"),
        (":map:trusted.:user.guest.:", b"user.x", b"user.x"),
        ("/prefix/all/a./user.a./ :prefix:all:b.:user.b.: :ok:all:::", b"b.x", b"user.b.b.x"),
        ("/prefix/all/a./user.a./:ok:all:::", b"user.y", b"user.y"),
        (":ok:all:::", b"user.y", b"user.y"),
    ],
)
def test_names_to_the_host_and_back(text: str, guest: bytes, host: bytes) -> None:
    table = parse(text)
    assert table.to_host(guest) == host
    assert table.to_guest([host]) == [guest]


@pytest.mark.parametrize("text", [":bad:all:::", ":prefix:all:a.:user.a.: :bad:all:::"])
def test_names_that_do_not_exist(text: str) -> None:
    table = parse(text)
    with pytest.raises(PermissionError):
        table.to_host(b"user.other")
    assert table.to_guest([b"user.other"]) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "does not say what becomes"),
        (":map:", "is cut off"),
        ("map::user.:", "is cut off"),
        (":prefix:all:a.:user.a.:", "does not say what becomes"),
        (":prefix:client:a.:user.a.: :ok:all:::", "is not known here"),
        (":unsupported:all:::", "is not known here"),
        (":ok:all:::  :bad:all:::", "the last rule"),
        (":ok:all:x::", "for all names"),
        (":map:::", "none may be empty"),
    ],
)
def test_rules_that_cannot_be(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        parse(text)
