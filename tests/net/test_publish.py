"""`[ADDR:]HOST:GUEST[/udp]`: what is understood, what is refused, and what is in use."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pykrun.errors import UsageError
from pykrun.net import Publish, check_all, parse

UNDERSTOOD = {
    "8080:80": Publish("127.0.0.1", 8080, 80),
    "1:65535": Publish("127.0.0.1", 1, 65535),
    "0.0.0.0:8080:80": Publish("0.0.0.0", 8080, 80),
    "192.0.2.7:53:5353/udp": Publish("192.0.2.7", 53, 5353, 1, "udp"),
    "8080:80/tcp": Publish("127.0.0.1", 8080, 80),
    "[::1]:8080:80": Publish("::1", 8080, 80),
    "[2001:DB8::0:1]:8080:80/udp": Publish("2001:db8::1", 8080, 80, 1, "udp"),
    "[::]:1-3:4-6": Publish("::", 1, 4, 3),
    "8000-8009:80-89/udp": Publish("127.0.0.1", 8000, 80, 10, "udp"),
}


@pytest.mark.parametrize(("text", "meaning"), UNDERSTOOD.items(), ids=UNDERSTOOD.keys())
def test_understood(text: str, meaning: Publish) -> None:
    assert parse(text) == meaning


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80",
        ":80",
        "80:",
        "a:b",
        "0:80",
        "80:0",
        "65536:80",
        "80:99999",
        "-1:80",
        "80-70:80-70",
        "80-89:80-88",
        "1-2000:1-2000",
        "80:80/sctp",
        "80:80/",
        "80:80/udp/udp",
        "1.2.3:80:80",
        "localhost:80:80",
        "::1:80:80",
        "[::1:80:80",
        "[127.0.0.1]:80:80",
        "[]:80:80",
        ":80:80",
        "1.2.3.4:5:6:7",
        "٣:80",
        "80:80\n",
        " 80:80",
        "127.0.0.1,--pcap:80:80",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--publish") as refused:
        parse(text)
    assert "\n" not in str(refused.value)


@contextmanager
def taken(kind: int, address: str = "127.0.0.1") -> Iterator[int]:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as holder:
        holder.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            holder.listen()
        yield holder.getsockname()[1]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_in_use_is_named(protocol: str, address: str) -> None:
    shown = f"[{address}]" if ":" in address else address
    with taken(socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM, address) as port:
        publish = Publish(address, port, 80, 1, protocol)
        with pytest.raises(UsageError, match="in use") as refused:
            check_all([publish])
        assert f"{shown}:{port}/{protocol}" in str(refused.value)
    check_all([publish])


def test_the_port_in_use_of_a_range_is_named() -> None:
    with taken(socket.SOCK_STREAM) as port, pytest.raises(UsageError, match=f"127.0.0.1:{port}/tcp"):
        check_all([Publish("127.0.0.1", port - 1, 80, 3)])


def test_the_other_protocol_is_free() -> None:
    with taken(socket.SOCK_DGRAM) as port:
        check_all([Publish("127.0.0.1", port, 80)])


def test_a_port_of_which_a_connection_has_just_ended_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        connection, _ = server.accept()
        connection.close()  # first: this side keeps the port for a minute
        client.recv(1)
        client.close()
    check_all([Publish("127.0.0.1", port, 80)])


def test_no_port_twice() -> None:
    with pytest.raises(UsageError, match="twice"):
        check_all([Publish("127.0.0.1", 40000, 80, 10), Publish("127.0.0.1", 40009, 80)])


def test_an_address_of_another_host() -> None:
    with pytest.raises(UsageError, match="does not have the address"):
        check_all([Publish("192.0.2.99", 40000, 80)])


@pytest.mark.root
def test_low_ports_are_roots() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setresuid(65534, 65534, 65534)
        try:
            check_all([Publish("127.0.0.1", 81, 80)])
        except UsageError as refused:
            os.write(writer, str(refused).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader) as said:
        assert "127.0.0.1:81/tcp: ports below 1024 are root's" in said.read()
