"""What the host has: routes in real namespaces, resolv.conf as people write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pykrun.net import surroundings
from pykrun.net.surroundings import Surroundings
from tests.net.internet import Internet


@pytest.mark.root
@pytest.mark.parametrize(
    ("routed", "ipv6", "expected"),
    [
        (True, True, Surroundings("up0", "up0")),
        (True, False, Surroundings("up0", "")),
        (False, False, Surroundings("", "")),
    ],
)
def test_routes(tmp_path: Path, routed: bool, ipv6: bool, expected: Surroundings) -> None:
    internet = Internet(tmp_path, routed=routed, ipv6=ipv6)
    try:
        with internet.on_host():
            found = surroundings.look()
            assert (found.ipv4, found.ipv6) == (expected.ipv4, expected.ipv6)
    finally:
        internet.close()


@pytest.mark.root
def test_a_route_that_refuses_is_none(internet: Internet) -> None:
    internet.run(internet.host, "ip route replace unreachable default")
    internet.run(internet.host, "ip -6 route replace unreachable default metric 1")
    internet.run(internet.host, "ip -6 route delete default via 2001:db8::2")
    with internet.on_host():
        found = surroundings.look()
        assert (found.ipv4, found.ipv6) == ("", "")


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch here\n", True),
        ("# nameserver 127.0.0.1\nnameserver 192.0.2.2\n", False),
        ("nameserver 192.0.2.2\nnameserver\t127.0.0.1\n", True),
        ("nameserver ::1\n", False),
        ("nameserver\nnameserver 1270.0.0.1\n", False),
        ("", False),
        ("\xff\xfe nameserver 127.0.0.1", False),
    ],
)
def test_resolvers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, local: bool) -> None:
    file = tmp_path / "resolv.conf"
    file.write_bytes(text.encode("latin-1"))
    monkeypatch.setattr(surroundings, "_RESOLVERS", str(file))
    assert surroundings.look().local_resolver == local


def test_no_resolvers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(surroundings, "_RESOLVERS", str(tmp_path / "none"))
    assert not surroundings.look().local_resolver
