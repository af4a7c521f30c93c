"""What goes on after the boot: late answers, renewals, the end of a lease. libkrun asks once and never again."""

from __future__ import annotations

import struct
import time
from itertools import pairwise

import pytest

from tests.dhcp.cable import SERVER, Cable, number
from tests.dhcp.guest import Guest
from tests.dhcp.scripted import (
    ACK,
    ADDRESS,
    DISCOVER,
    MASK,
    NAK,
    OFFER,
    REQUEST,
    Asked,
    Option,
    Scripted,
    message,
    standard,
)

ROUTER = (3, number(SERVER))
OTHER = "192.0.2.60"


def seconds(lease: int, renew: int, rebind: int) -> tuple[Option, Option, Option]:
    """The lease's duration, T1, T2."""
    return (51, struct.pack("!I", lease)), (58, struct.pack("!I", renew)), (59, struct.pack("!I", rebind))


def renewals(server: Scripted) -> list[Asked]:
    """Requests for more time."""
    return [asked for asked in server.asked if asked.own != "0.0.0.0"]


def lease_for(guest: Guest, server: Scripted, lease: int, renew: int, rebind: int, *more: Option) -> None:
    """Boot with such a lease."""
    whole, first, second = seconds(lease, renew, rebind)
    server.answer(MASK, first, second, *more, lease=whole)
    guest.up()
    guest.until_address(f"{ADDRESS}/24")


def test_late_answer_is_applied(guest: Guest, cable: Cable, server: Scripted) -> None:
    """libkrun waits for 100 ms, and then never hears of it."""
    begun = time.monotonic()
    guest.up()
    assert (cable.addresses(), guest.warnings) == ([], [])
    time.sleep(0.4)
    server.answer(MASK, ROUTER, (6, number(SERVER)), (12, b"late"))
    guest.until_address(f"{ADDRESS}/24")
    guest.until(lambda: guest.resolv_conf == f"nameserver {SERVER}\n", "resolv.conf")
    assert (cable.routes(), guest.hostname, guest.warnings) == ({"default": SERVER}, None, [])
    # Whole seconds since the client began (RFC 2131, 2): on a busy machine that may be more than none.
    assert 0 <= server.asked[-1].secs <= time.monotonic() - begun
    assert guest.ask("children") == 1


def test_answer_to_what_the_boot_asked_is_taken_by_the_child(guest: Guest, server: Scripted) -> None:
    """The exchange goes on where it was."""
    guest.up()
    first = server.asked[0]
    server.on_ask = lambda asked: server.send(message(asked, standard(ACK, MASK))) if asked.kind == REQUEST else None
    server.send(message(first, standard(OFFER, MASK)))
    guest.until_address(f"{ADDRESS}/24")
    assert server.asked[-1].xid == first.xid


def test_silence_is_asked_into_ever_more_slowly(guest: Guest, server: Scripted) -> None:
    guest.up()
    time.sleep(1.5)
    assert {asked.kind for asked in server.asked} == {DISCOVER}
    times = [asked.at for asked in server.asked]
    pauses = [after - before for before, after in pairwise(times)]
    assert 5 <= len(times) <= 8
    assert pauses[-1] > 4 * pauses[0]


def test_what_goes_on_is_no_part_of_init(guest: Guest, server: Scripted) -> None:
    """Its descriptors and its session are its own, it hears signals, and it ends at once when told to."""
    guest.up()
    guest.until(lambda: guest.ask("descriptors") == [["socket", "socket"]], "its sockets alone")
    assert guest.ask("signals") == [["0" * 16, "own session"]]
    server.answer(MASK)
    guest.until(lambda: guest.ask("descriptors") == [[]], "no descriptor while there is nothing to do")
    assert guest.ask("end") is True


def test_renewal(guest: Guest, cable: Cable, server: Scripted) -> None:
    """At T1, to the server alone, from the address, and without the options of a first request (RFC 2131, 4.3.2)."""
    lease_for(guest, server, 60, 1, 30)
    guest.until(lambda: len(renewals(server)) >= 2, "two renewals")
    first, second = renewals(server)[:2]
    assert (first.kind, first.own, first.source, first.target) == (REQUEST, ADDRESS, ADDRESS, SERVER)
    assert first.target_mac != b"\xff" * 6
    assert first.flags == 0
    assert not {50, 54, 80} & set(first.options)
    assert 0.9 < second.at - first.at < 3
    assert first.xid != second.xid
    assert (cable.addresses(), guest.warnings) == ([f"{ADDRESS}/24"], [])


def test_renewal_goes_to_who_the_server_says_it_is(guest: Guest, cable: Cable, server: Scripted) -> None:
    """libkrun takes the sender's address for the server's."""
    cable.run(cable.server, "ip", "address", "add", "192.0.2.7/24", "dev", "srv0")
    whole, first, second = seconds(60, 1, 30)
    server.answer(MASK, first, second, lease=whole, server="192.0.2.7")
    guest.up()
    guest.until(lambda: renewals(server) != [], "a renewal")
    assert renewals(server)[0].target == "192.0.2.7"


def test_renewal_that_changes_everything(guest: Guest, cable: Cable, server: Scripted) -> None:
    lease_for(guest, server, 60, 1, 30, ROUTER, (121, bytes.fromhex("08 0a c0000201 00 c0000201")), (6, number(SERVER)))
    assert cable.routes() == {"10.0.0.0/8": SERVER, "default": SERVER}
    more = [(26, struct.pack("!H", 1300)), (6, number("192.0.2.5")), (15, b"new.example"), (3, number("192.0.2.9"))]
    server.answer((1, number("255.255.255.128")), *seconds(60, 20, 30)[1:], *more, address=OTHER)
    guest.until_address(f"{OTHER}/25")
    guest.until(lambda: guest.resolv_conf == "search new.example\nnameserver 192.0.2.5\n", "resolv.conf")
    assert (cable.routes(), cable.mtu(), guest.warnings) == ({"default": "192.0.2.9"}, 1300, [])


def test_renewal_leaves_what_did_not_change(guest: Guest, cable: Cable, server: Scripted) -> None:
    """The guest may have made its own of it."""
    lease_for(guest, server, 60, 1, 30, ROUTER, (6, number(SERVER)), (26, struct.pack("!H", 1400)), (12, b"\n"))
    guest.resolver.write_text("mine\n")
    cable.run(cable.guest, "ip", "link", "set", "eth0", "mtu", "1350")
    cable.run(cable.guest, "ip", "route", "replace", "default", "via", "192.0.2.77")
    guest.until(lambda: len(renewals(server)) >= 2, "two renewals")
    assert (guest.resolv_conf, cable.mtu(), cable.routes()) == ("mine\n", 1350, {"default": "192.0.2.77"})
    assert guest.warnings == ["DHCP on eth0: option 12 is malformed"]


def test_rebinding(guest: Guest, cable: Cable, server: Scripted) -> None:
    """The server is gone: from T2 on all are asked, and who answers is the server from then on."""
    lease_for(guest, server, 60, 1, 2)
    cable.run(cable.server, "ip", "address", "add", "192.0.2.8/24", "dev", "srv0")

    def on_ask(asked: Asked) -> None:
        if asked.target != SERVER:
            whole, first, second = seconds(60, 1, 30)
            reply = message(asked, standard(ACK, MASK, first, second, lease=whole, server="192.0.2.8"))
            server.send(reply, target=ADDRESS)

    server.on_ask = on_ask
    guest.until(lambda: len(renewals(server)) >= 3, "three requests")
    assert [asked.target for asked in renewals(server)[:3]] == [SERVER, "255.255.255.255", "192.0.2.8"]
    assert renewals(server)[1].flags == 0
    assert (cable.addresses(), guest.warnings) == ([f"{ADDRESS}/24"], [])


def test_lease_that_is_over(guest: Guest, cable: Cable, server: Scripted) -> None:
    """The address goes when it is over, not before; another server's offer is taken then."""
    lease_for(guest, server, 5, 1, 2, ROUTER)
    asked_at = next(asked.at for asked in reversed(server.asked) if asked.kind == REQUEST)
    server.on_ask = None
    guest.until(lambda: cable.addresses() == [], "no address", 10)
    assert 4.8 < time.monotonic() - asked_at < 8
    assert cable.routes() == {}
    assert guest.warnings == ["DHCP on eth0: the lease is over and was not renewed: the address is gone"]
    guest.until(lambda: server.kinds()[-1] == DISCOVER, "a new beginning")
    server.answer(MASK, ROUTER, address=OTHER)
    guest.until_address(f"{OTHER}/24")
    assert (cable.routes(), len(guest.warnings)) == ({"default": SERVER}, 1)


@pytest.mark.parametrize("rebind", [2, 30], ids=["by all", "by the server"])
def test_renewal_that_is_refused(guest: Guest, cable: Cable, server: Scripted, rebind: int) -> None:
    """NAK, which is sent to all: the address goes at once, and it begins anew."""
    lease_for(guest, server, 60, 1, rebind)
    ordinary = server.on_ask
    assert ordinary is not None

    def on_ask(asked: Asked) -> None:
        if asked.own == "0.0.0.0":
            server.send(message(asked, standard(OFFER if asked.kind == DISCOVER else ACK, MASK), address=OTHER))
        elif rebind > 2 or asked.target != SERVER:
            server.send(message(asked, standard(NAK), address="0.0.0.0"))

    server.on_ask = on_ask
    guest.until_address(f"{OTHER}/24")
    assert guest.warnings == ["DHCP on eth0: the lease is over and was not renewed: the address is gone"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"xid": b"\1\2\3\4"},
        {"mac": b"\2\0\0\0\0\1"},
        {"op": 1},
        {"magic": b"\0\0\0\0"},
        {"address": "0.0.0.0"},
        {"cut": 250},
    ],
    ids=["xid", "mac", "op", "magic", "address", "cut"],
)
def test_hostile_answers_to_a_renewal(guest: Guest, cable: Cable, server: Scripted, wrong: dict[str, object]) -> None:
    lease_for(guest, server, 60, 1, 30)
    cut = wrong.pop("cut", None)

    def on_ask(asked: Asked) -> None:
        for kind in (NAK, ACK, OFFER):
            fields = {"address": OTHER, **wrong}
            hostile = message(asked, standard(kind, MASK), **fields)  # type: ignore[arg-type]
            if kind != NAK or "address" not in wrong:
                server.send(hostile[:cut], target=ADDRESS)  # type: ignore[misc]
        server.send(message(asked, standard(NAK, server="192.0.2.99")), target=ADDRESS)
        server.send(message(asked, standard(ACK, MASK, *seconds(60, 1, 30)[1:])), target=ADDRESS)

    server.on_ask = on_ask
    guest.until(lambda: len(renewals(server)) >= 2, "two renewals")
    assert (cable.addresses(), guest.warnings) == ([f"{ADDRESS}/24"], [])


def test_interface_that_goes_away(guest: Guest, cable: Cable, server: Scripted) -> None:
    lease_for(guest, server, 60, 1, 2)
    cable.run(cable.guest, "ip", "link", "delete", "eth0")
    guest.until(lambda: guest.ask("children") == 0, "the end of the process")
    assert guest.warnings == ["DHCP on eth0: given up: No such device"]


def test_times_that_cannot_be_are_those_of_the_rfc(guest: Guest, server: Scripted) -> None:
    """T1 after T2: a half of the lease it is."""
    lease_for(guest, server, 5, 4, 3)
    asked_at = next(asked.at for asked in reversed(server.asked) if asked.kind == REQUEST)
    guest.until(lambda: renewals(server) != [], "a renewal")
    assert 1.8 < renewals(server)[0].at - asked_at < 2.9
