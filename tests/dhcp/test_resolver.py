"""resolv.conf, wherever it is or is not."""

from __future__ import annotations

import os

import pytest

from krun_init.dhcp import packet, resolver
from tests.dhcp.cable import SERVER, number
from tests.dhcp.guest import Guest
from tests.dhcp.scripted import MASK, Scripted

TEXT = f"search a.example\nnameserver {SERVER}\n"


@pytest.fixture
def answered(server: Scripted) -> None:
    server.answer(MASK, (6, number(SERVER)), (15, b"a.example"))


def test_without_name_servers_nothing_is_written(guest: Guest, server: Scripted) -> None:
    guest.resolver.write_text("mine\n")
    server.answer(MASK, (15, b"a.example"))
    guest.up()
    assert (guest.resolv_conf, guest.warnings) == ("mine\n", [])


@pytest.mark.usefixtures("answered")
def test_made_or_replaced(guest: Guest) -> None:
    guest.up()
    assert guest.resolv_conf == TEXT
    assert guest.resolver.stat().st_mode & 0o777 == 0o644


@pytest.mark.usefixtures("answered")
def test_longer_one_before(guest: Guest) -> None:
    guest.resolver.write_text("nameserver 10.0.0.1\n" * 50)
    guest.up()
    assert guest.resolv_conf == TEXT


@pytest.mark.usefixtures("answered")
def test_folder_is_missing(guest: Guest) -> None:
    guest.resolver.parent.rmdir()
    assert guest.up().warnings == []
    assert guest.resolv_conf == TEXT


@pytest.mark.usefixtures("answered")
@pytest.mark.parametrize("relative", [True, False])
def test_link_to_what_a_service_would_make(guest: Guest, relative: bool) -> None:
    """As distributions with systemd-resolved have it; that does not run here."""
    target = guest.resolver.parent.parent / "run" / "resolve" / "stub.conf"
    guest.resolver.symlink_to("../run/resolve/stub.conf" if relative else target)
    assert guest.up().warnings == []
    assert target.read_text() == TEXT


@pytest.mark.usefixtures("answered")
@pytest.mark.parametrize("remains", [False, True], ids=["", "remains of an earlier one"])
def test_read_only_root(guest: Guest, remains: bool) -> None:
    """libkrun cannot write it there: the guest has a network without names."""
    guest.resolver.write_text("of the image\n")
    if remains:
        (guest.devices / ".resolv.conf").symlink_to(guest.resolver)
    guest.readonly = True
    assert guest.up().warnings == []
    assert guest.ask("resolver") == TEXT
    assert guest.ask("leftovers") == []
    assert guest.resolv_conf == "of the image\n"


def test_read_only_root_and_another_server_later(guest: Guest, server: Scripted) -> None:
    """What was mounted over it can be written."""
    renew = (58, b"\0\0\0\1"), (59, b"\0\0\0\7")
    server.answer(MASK, (6, number(SERVER)), *renew)
    guest.resolver.write_text("of the image\n")
    guest.readonly = True
    guest.up()
    server.answer(MASK, (6, number("192.0.2.5")), *renew)
    guest.until(lambda: guest.ask("resolver") == "nameserver 192.0.2.5\n", "the other server")
    assert guest.warnings == []


@pytest.mark.usefixtures("answered")
@pytest.mark.parametrize("folder", [False, True])
def test_nothing_to_put_it_over(guest: Guest, folder: bool) -> None:
    if folder:
        guest.resolver.mkdir()
    guest.readonly = True
    guest.up()
    reason = "Is a directory" if folder else "Read-only file system"
    assert guest.warnings == [f"DHCP on eth0: cannot write {guest.resolver}: {reason}"]
    assert guest.ask("leftovers") == []
    assert os.listdir(guest.resolver.parent) == ["resolv.conf"] * folder


def test_a_line_is_no_longer_than_programs_read() -> None:
    reply = packet.Reply(packet.ACK)
    reply.servers = [number(SERVER)]
    reply.search = [letter * 60 + ".example" for letter in "abcdefgh"]
    lines = resolver.content(reply).decode().splitlines()
    assert [len(line) <= 255 for line in lines] == [True, True]
    assert lines[0] == "search " + " ".join(reply.search[:3])
    reply.search = ["a" * 250]
    assert resolver.content(reply).decode() == f"nameserver {SERVER}\n"
