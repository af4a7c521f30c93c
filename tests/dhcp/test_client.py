"""The set-up within the boot, against a server that misbehaves as each test says."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.dhcp.cable import Cable, number
from tests.dhcp.guest import Guest
from tests.dhcp.scripted import (
    ACK,
    ADDRESS,
    DISCOVER,
    FOREVER,
    LEASE,
    MASK,
    NAK,
    OFFER,
    REQUEST,
    Asked,
    Option,
    Scripted,
    encode_options,
    message,
    standard,
)

ROUTER = (3, number("192.0.2.1"))
WRONG = "192.0.2.66"
"""The address in everything that must not be believed."""


def mtu(size: int) -> Option:
    return 26, struct.pack("!H", size)


# -- what is applied -----------------------------------------------------------------------------------------------


def test_everything_of_an_ordinary_answer(guest: Guest, cable: Cable, server: Scripted) -> None:
    """libkrun knows no search domain and no host name."""
    server.answer(
        MASK, ROUTER, (6, number("192.0.2.2") + number("192.0.2.3")), (15, b"a.example"), (12, b"seven"), mtu(1400)
    )
    guest.up()
    assert server.steps() == [DISCOVER, REQUEST]
    assert cable.addresses() == [f"{ADDRESS}/24"]
    assert cable.json("-4", "address", "show", "dev", "eth0")[0]["addr_info"][0]["broadcast"] == "192.0.2.255"
    assert cable.routes() == {"default": "192.0.2.1"}
    assert cable.mtu() == 1400
    assert guest.resolv_conf == "search a.example\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n"
    assert guest.hostname == "seven"
    assert guest.warnings == []


def test_rapid_commit(guest: Guest, cable: Cable, server: Scripted) -> None:
    server.on_ask = lambda asked: server.send(message(asked, standard(ACK, MASK, (80, b""))))
    guest.up()
    assert (server.steps(), cable.addresses()) == ([DISCOVER], [f"{ADDRESS}/24"])


def test_no_route_without_a_router(guest: Guest, cable: Cable, server: Scripted) -> None:
    """libkrun adds a route through 0.0.0.0."""
    server.answer(MASK)
    guest.up()
    assert (cable.addresses(), cable.routes(), guest.warnings) == ([f"{ADDRESS}/24"], {}, [])


def test_without_a_mask_it_is_that_of_the_class(guest: Guest, cable: Cable, server: Scripted) -> None:
    """libkrun uses /0, which makes the whole world local."""
    server.answer(address="172.20.1.2")
    guest.up()
    assert cable.addresses() == ["172.20.1.2/16"]


def test_gateway_outside_of_the_network(guest: Guest, cable: Cable, server: Scripted) -> None:
    server.answer((1, b"\xff" * 4), (3, number("198.51.100.1")))
    guest.up()
    assert (cable.addresses(), cable.routes()) == ([f"{ADDRESS}/32"], {"default": "198.51.100.1"})
    assert guest.warnings == []


def test_classless_routes(guest: Guest, cable: Cable, server: Scripted) -> None:
    """libkrun knows the one default route only. The gateway's own route may come last."""
    routes = "10 0a09 c0000209  00 c6336401  20 c6336401 00000000  18 0a0b0c 00000000"
    server.answer(MASK, ROUTER, (121, bytes.fromhex(routes)))
    guest.up()
    assert cable.routes() == {
        "10.9.0.0/16": "192.0.2.9",
        "198.51.100.1": "link",
        "default": "198.51.100.1",
        "10.11.12.0/24": "link",
    }
    flags = [one["flags"] for one in cable.json("-4", "route", "show", "default")]
    assert (flags, guest.warnings) == ([[]], [])  # not `onlink`: the route to the gateway was there first


def test_a_route_that_is_none_is_one_warning_and_the_others_are_set(
    guest: Guest, cable: Cable, server: Scripted
) -> None:
    routes = "18 0a0b0c " + number("192.0.2.255").hex() + " 00 c0000201"
    server.answer(MASK, (121, bytes.fromhex(routes)))
    guest.up()
    assert cable.routes() == {"default": "192.0.2.1"}
    assert guest.warnings == ["DHCP on eth0: no route to 10.11.12.0/24: Invalid argument"]


def test_without_an_mtu_the_devices_stays(guest: Guest, cable: Cable, server: Scripted) -> None:
    """libkrun sets 65520."""
    cable.run(cable.guest, "ip", "link", "set", "eth0", "mtu", "1434")
    server.answer(MASK)
    guest.up()
    assert cable.mtu() == 1434


@pytest.mark.parametrize(("told", "set_to"), [(9000, 9000), (576, 1280), (0, 1280), (65535, 65520)])
def test_mtu(guest: Guest, cable: Cable, server: Scripted, told: int, set_to: int) -> None:
    server.answer(MASK, mtu(told))
    guest.up()
    assert (cable.mtu(), guest.warnings) == (set_to, [])


def test_an_mtu_that_the_device_cannot_have_is_no_failure(guest: Guest, cable: Cable, server: Scripted) -> None:
    cable.run(cable.guest, "ip", "link", "set", "eth0", "name", "base0")
    cable.run(cable.guest, "ip", "link", "set", "base0", "up")
    cable.run(cable.guest, "ip", "link", "add", "link", "base0", "eth0", "type", "macvlan", "mode", "bridge")
    server.answer(MASK, ROUTER, mtu(9000))
    guest.up()
    assert (cable.mtu(), cable.routes(), guest.warnings) == (1500, {"default": "192.0.2.1"}, [])


def test_what_is_there_already_is_left_alone(guest: Guest, cable: Cable, server: Scripted) -> None:
    cable.run(cable.guest, "ip", "link", "set", "eth0", "up")
    cable.run(cable.guest, "ip", "address", "add", f"{ADDRESS}/24", "dev", "eth0")
    cable.run(cable.guest, "ip", "route", "add", "default", "via", "192.0.2.200")
    server.answer(MASK, ROUTER)
    guest.up()
    assert (cable.addresses(), cable.routes(), guest.warnings) == ([f"{ADDRESS}/24"], {"default": "192.0.2.200"}, [])


def test_other_flags_of_the_interface_stay(guest: Guest, cable: Cable, server: Scripted) -> None:
    server.answer(MASK)
    guest.up()
    assert {"UP", "BROADCAST", "MULTICAST"} <= set(cable.json("link", "show", "eth0")[0]["flags"])
    assert "UP" in cable.json("link", "show", "lo")[0]["flags"]


# -- how it is asked for -------------------------------------------------------------------------------------------


def test_asked_again_within_the_boot(guest: Guest, cable: Cable, server: Scripted) -> None:
    """libkrun asks once: what a link loses while it comes up costs the machine its network."""
    server.answer(MASK)
    answer = server.on_ask
    assert answer is not None
    server.on_ask = lambda asked: answer(asked) if len(server.asked) > 2 else None
    guest.up()
    if not cable.addresses():  # a busy machine: the third came after the tenth of a second
        guest.until_address(f"{ADDRESS}/24")
    assert server.kinds()[:3] == [DISCOVER] * 3
    assert len({asked.xid for asked in server.asked}) == 1


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict reverse path"])
def test_answers_to_the_offered_address(guest: Guest, cable: Cable, server: Scripted, strict: bool) -> None:
    """As passt sends them, ignoring the broadcast flag. libkrun's UDP socket never sees those."""
    if strict:
        cable.run(cable.guest, "sh", "-c", "for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $file; done")
    server.answer(MASK, target=ADDRESS)
    guest.up()
    assert (cable.addresses(), guest.warnings) == ([f"{ADDRESS}/24"], [])


def test_kernel_without_packet_sockets(guest: Guest, cable: Cable, server: Scripted) -> None:
    guest.prefix = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"]
    server.answer(MASK)
    guest.up()
    assert (cable.addresses(), guest.warnings) == ([f"{ADDRESS}/24"], [])


def test_server_is_who_it_says_not_who_sends(guest: Guest, cable: Cable, server: Scripted) -> None:
    """libkrun takes the sender's address: behind a relay that is not the server's."""
    server.answer(MASK, server="203.0.113.7")
    guest.up()
    assert server.asked[-1].options[54] == number("203.0.113.7")
    assert cable.addresses() == [f"{ADDRESS}/24"]


def test_everything_comes_three_times(guest: Guest, cable: Cable, server: Scripted) -> None:
    server.answer(MASK, ROUTER)
    answer = server.on_ask
    assert answer is not None
    server.on_ask = lambda asked: [answer(asked) for _ in range(3)] and None
    guest.up()
    assert (server.kinds().count(REQUEST), cable.addresses()) == (1, [f"{ADDRESS}/24"])
    assert guest.warnings == []


def test_of_two_offers_the_first_counts(guest: Guest, cable: Cable, server: Scripted) -> None:
    def on_ask(asked: Asked) -> None:
        for name, address in (("192.0.2.7", ADDRESS), ("192.0.2.8", WRONG)):
            if asked.kind == DISCOVER:
                server.send(message(asked, standard(OFFER, MASK, server=name), address=address))
        if asked.kind == REQUEST:
            server.send(message(asked, standard(NAK, server="192.0.2.8"), address="0.0.0.0"))
            server.send(message(asked, standard(ACK, MASK, server="192.0.2.8"), address=WRONG))
            server.send(message(asked, standard(ACK, MASK, server="192.0.2.7")))

    server.on_ask = on_ask
    guest.up()
    request = server.asked[-1].options
    assert (request[50], request[54]) == (number(ADDRESS), number("192.0.2.7"))
    assert (cable.addresses(), guest.warnings) == ([f"{ADDRESS}/24"], [])


# -- what must not be believed -------------------------------------------------------------------------------------

Builder = Callable[[Asked], list[bytes]]


def wrong(options: list[Option] | bytes | None = None, **fields: object) -> Builder:
    return lambda asked: [message(asked, standard(ACK) if options is None else options, **{"address": WRONG, **fields})]  # type: ignore[arg-type]


def cut(asked: Asked) -> list[bytes]:
    whole = message(asked, standard(ACK, MASK, ROUTER, (121, bytes.fromhex("00 c0000201"))), address=WRONG)
    return [whole[:size] for size in range(len(whole))]


HOSTILE: dict[str, Builder] = {
    "another xid": wrong(xid=b"\1\2\3\4"),
    "another hardware address": wrong(mac=b"\2\0\0\0\0\1"),
    "a request": wrong(op=1),
    "another link type": wrong(htype=6),
    "another length of addresses": wrong(hlen=16),
    "BOOTP": wrong(magic=b"\0\0\0\0"),
    "no type": wrong([(54, number("192.0.2.1")), LEASE]),
    "two types": wrong([(53, b"\5"), *standard(ACK)]),
    "no server": wrong([(53, b"\5"), LEASE]),
    "half a server": wrong([(53, b"\5"), (54, b"\xc0\0"), LEASE]),
    "address 0": wrong(address="0.0.0.0"),
    "loopback address": wrong(address="127.0.0.1"),
    "multicast address": wrong(address="239.0.0.1"),
    "half a lease": wrong(standard(ACK, lease=(51, b"\0\1"))),
    "options without end": wrong(encode_options(standard(ACK))[:-1]),
    "options that leave the message": wrong(encode_options(standard(ACK))[:-1] + b"\6\xff\1"),
    "overload of nothing": wrong(standard(ACK, (52, b"\0"))),
    "overload without end": wrong(standard(ACK, (52, b"\3")), file=b"\x34\1\3", sname=b"\x34\1\3"),
    "overlong": wrong(standard(ACK, (200, bytes(1300)))),
    "longer than a frame takes": wrong(standard(ACK, *[(200 + part, bytes(255)) for part in range(8)])),
    "a refusal of nothing": wrong(standard(NAK)),
    "cut at every byte": cut,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_are_not_believed(guest: Guest, cable: Cable, server: Scripted, name: str) -> None:
    """libkrun takes whatever comes first. The real server's answer comes after the hostile ones, and counts."""
    cable.run(cable.guest, "ip", "link", "set", "eth0", "mtu", "9000")
    cable.run(cable.server, "ip", "link", "set", "srv0", "mtu", "9000")
    server.answer(MASK)
    answer = server.on_ask
    assert answer is not None

    def on_ask(asked: Asked) -> None:
        if asked.kind == DISCOVER:
            for payload in HOSTILE[name](asked):
                server.send(payload)
        answer(asked)

    server.on_ask = on_ask
    guest.up()
    guest.until_address(f"{ADDRESS}/24")
    assert all(asked.options.get(50) != number(WRONG) for asked in server.asked)
    assert (cable.routes(), guest.resolv_conf) == ({}, None)
    assert "internal error" not in guest.console


@pytest.mark.parametrize("name", ["another xid", "a request", "options without end", "address 0", "cut at every byte"])
def test_only_hostile_answers_are_at_most_one_warning(guest: Guest, cable: Cable, server: Scripted, name: str) -> None:
    server.on_ask = lambda asked: [server.send(payload) for payload in HOSTILE[name](asked)] and None
    guest.up()
    assert (cable.addresses(), guest.ask("children")) == ([], 1)
    assert len(guest.warnings) == (0 if name in ("another xid", "a request") else 1)
    assert all(line.startswith("DHCP on eth0: no lease yet: an answer was ") for line in guest.warnings)


def test_options_that_are_wrong_are_one_warning(guest: Guest, cable: Cable, server: Scripted) -> None:
    """Compression that runs in circles, a name that would be a line of its own, half an address."""
    bad = [
        (119, b"\1a\300\0"),
        (12, b"x\nnameserver 10.0.0.1"),
        (6, b"\xc0\0"),
        (26, b"\1"),
        (1, b"\xff\0\xff\0"),
        (121, b"\x21"),
    ]
    server.answer(*bad, (15, b"x\noptions"), ROUTER)
    guest.up()
    assert guest.warnings == [
        "DHCP on eth0: " + "; ".join(f"option {code} is malformed" for code in (1, 6, 12, 15, 26, 119, 121))
    ]
    assert (cable.addresses(), cable.routes()) == ([f"{ADDRESS}/24"], {"default": "192.0.2.1"})
    assert (guest.resolv_conf, guest.hostname, cable.mtu()) == (None, None, 1500)


def test_refusal_after_the_offer(guest: Guest, cable: Cable, server: Scripted) -> None:
    """NAK: from the beginning, with another xid, and ever more slowly."""

    def on_ask(asked: Asked) -> None:
        kind, address = (OFFER, ADDRESS) if asked.kind == DISCOVER else (NAK, "0.0.0.0")
        server.send(message(asked, standard(kind), address=address))

    server.on_ask = on_ask
    guest.up()
    guest.until(lambda: server.kinds().count(REQUEST) >= 3, "three requests")
    assert cable.addresses() == []
    requests = [asked for asked in server.asked if asked.kind == REQUEST]
    assert len({asked.xid for asked in requests}) == len(requests)
    pauses = [after.at - before.at for before, after in pairwise(requests)]
    assert pauses == sorted(pauses)
    assert len(guest.warnings) <= 1
    server.answer(MASK)
    guest.until_address(f"{ADDRESS}/24")


def test_server_that_is_silent_after_its_offer(guest: Guest, cable: Cable, server: Scripted) -> None:
    """Another one gets its chance."""

    def on_ask(asked: Asked) -> None:
        if asked.kind == DISCOVER:
            first = not any(one.kind == REQUEST for one in server.asked)
            name = "192.0.2.7" if first else "192.0.2.8"
            server.send(message(asked, standard(OFFER, MASK, server=name)))
        elif asked.options[54] == number("192.0.2.8"):
            server.send(message(asked, standard(ACK, MASK, server="192.0.2.8")))

    server.on_ask = on_ask
    guest.up()
    guest.until_address(f"{ADDRESS}/24")
    assert 3 < server.kinds().count(REQUEST) < 12


# -- time ----------------------------------------------------------------------------------------------------------


def test_silence_takes_a_tenth_of_a_second_and_is_no_failure(guest: Guest, server: Scripted) -> None:
    """An IPv6 network. libkrun waits as long; the bound is for the whole set-up."""
    took = []
    for _ in range(3):  # a busy machine adds to it: the best of three counts
        guest.up()
        took.append(guest.elapsed)
        assert (guest.warnings, guest.ask("children")) == ([], 1)
        guest.close()
    assert 0.1 <= min(took) < 0.15
    assert len(server.asked) > 3


def test_flood_does_not_hold_the_boot(guest: Guest, server: Scripted) -> None:
    def on_ask(asked: Asked) -> None:
        if len(server.asked) == 1:
            for _ in range(20_000):
                server.send(message(asked, standard(ACK), address="0.0.0.0"))

    server.on_ask = on_ask
    took = []
    for _ in range(3):  # as above
        server.asked.clear()
        guest.up()
        took.append(guest.elapsed)
        guest.close()
    assert min(took) < 0.3


def test_endless_lease_leaves_no_process(guest: Guest, cable: Cable, server: Scripted) -> None:
    server.answer(MASK, lease=FOREVER)
    guest.up()
    assert (cable.addresses(), guest.ask("children")) == ([f"{ADDRESS}/24"], 0)


def test_no_duration_is_an_endless_lease(guest: Guest, cable: Cable, server: Scripted) -> None:
    server.answer(MASK, lease=None)
    guest.up()
    assert (cable.addresses(), guest.ask("children")) == ([f"{ADDRESS}/24"], 0)


# -- whether it is asked for at all --------------------------------------------------------------------------------


def test_not_asked_for(guest: Guest, cable: Cable, server: Scripted) -> None:
    guest.words = {"KRUN_DHCP": "0"}
    guest.up()
    assert (server.asked, guest.ask("children"), guest.warnings) == ([], 0, [])
    assert "UP" not in cable.json("link", "show", "eth0")[0]["flags"]


def test_no_interface_is_looked_for_once(guest: Guest, cable: Cable) -> None:
    cable.run(cable.guest, "ip", "link", "set", "eth0", "name", "other0")
    guest.up()
    assert (guest.warnings, guest.ask("children")) == ([], 0)
    assert guest.elapsed < 1


@pytest.mark.parametrize("shown", [False, True])
def test_promised_interface_that_comes_late(
    guest: Guest, cable: Cable, server: Scripted, tmp_path: Path, shown: bool
) -> None:
    """Sysfs may show it before it can be used."""
    if shown:
        guest.interfaces = tmp_path
        (tmp_path / "eth0").mkdir()
    cable.run(cable.guest, "ip", "link", "set", "eth0", "name", "other0")
    server.answer(MASK)
    guest.words, guest.promised = {}, True
    guest.start()
    guest.until(lambda: "UP" in cable.json("link", "show", "lo")[0]["flags"], "lo")
    cable.run(cable.guest, "ip", "link", "set", "other0", "name", "eth0")
    guest.wait()
    assert (cable.addresses(), guest.warnings) == ([f"{ADDRESS}/24"], [])


def test_promised_interface_that_never_comes(guest: Guest, cable: Cable) -> None:
    cable.run(cable.guest, "ip", "link", "set", "eth0", "name", "other0")
    guest.promised, guest.patience = True, 0.2
    guest.up()
    assert guest.warnings == ["DHCP: there is no eth0"]
    assert 0.2 <= guest.elapsed < 3


def test_interface_that_is_no_ethernet(guest: Guest, cable: Cable) -> None:
    cable.run(cable.guest, "ip", "link", "set", "eth0", "name", "other0")
    cable.run(cable.guest, "ip", "tuntap", "add", "eth0", "mode", "tun")
    guest.up()
    assert (guest.warnings, guest.ask("children")) == (["DHCP on eth0: not an Ethernet interface"], 0)


def test_another_client_has_the_port(guest: Guest, cable: Cable) -> None:
    def take() -> socket.socket:
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        taken.bind(("", 68))
        return taken

    with cable.inside(cable.guest, take):
        guest.up()
    assert (guest.warnings, guest.ask("children")) == (["DHCP on eth0: Address already in use"], 0)


# -- TSI -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("quiet tsi_hijack init=/init.krun -- sh\n", True),
        ("tsi_hijack\n", True),
        ("quiet -- tsi_hijack\n", False),
        ("quiet no_tsi_hijack tsi_hijack=0\n", False),
        ("", False),
    ],
)
def test_dummy_interface_of_tsi(guest: Guest, cable: Cable, line: str, wanted: bool) -> None:
    cable.run(cable.guest, "ip", "link", "add", "dummy0", "type", "veth", "peer", "other0")  # is everywhere
    guest.words, guest.command_line = {}, line
    guest.up()
    (found,) = cable.json("-4", "address", "show", "dev", "dummy0") or [{"addr_info": []}]
    addresses = [f"{one['local']}/{one['prefixlen']}" for one in found.get("addr_info", []) if "local" in one]
    assert addresses == (["203.0.113.1/24"] if wanted else [])
    assert ("UP" in cable.json("link", "show", "dummy0")[0]["flags"]) == wanted
    assert guest.warnings == []


def test_tsi_without_the_driver(guest: Guest) -> None:
    guest.words, guest.command_line = {}, "tsi_hijack\n"
    assert guest.up().warnings == []
