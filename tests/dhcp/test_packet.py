"""Messages: what is sent, what is understood, and that no bytes do any harm."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krun_init.dhcp import packet, resolver, wire
from krun_init.dhcp.packet import ANY, Malformed, Reply
from tests.dhcp.cable import number
from tests.dhcp.scripted import ACK, ADDRESS, LEASE, MASK, OFFER, Asked, Option, frame, message, standard

XID, MAC = b"\1\2\3\4", b"\2\0\0\0\0\7"
ASKED = Asked(frame(packet.encode(packet.DISCOVER, XID, MAC), "0.0.0.0", "255.255.255.255", MAC, b"\xff" * 6))
FULL: list[Option] = [
    MASK,
    (3, number("192.0.2.1")),
    (6, number("192.0.2.2") + number("192.0.2.3")),
    (12, b"guest-7"),
    (15, b"fifteen.example"),
    (26, struct.pack("!H", 1400)),
    (58, struct.pack("!I", 100)),
    (59, struct.pack("!I", 200)),
]


def decode(options: Sequence[Option] | bytes, **fields: object) -> Reply:
    reply = packet.decode(message(ASKED, options, **fields), XID, MAC)  # type: ignore[arg-type]
    assert reply is not None
    return reply


def answer(*options: Option) -> Reply:
    return decode(standard(ACK, *options))


# -- what is sent --------------------------------------------------------------------------------------------------


def test_discover() -> None:
    assert (ASKED.op, ASKED.htype, ASKED.hlen, ASKED.hops, ASKED.xid, ASKED.mac) == (1, 1, 6, 0, XID, MAC)
    assert (ASKED.flags, ASKED.own, ASKED.message[236:240]) == (0x8000, "0.0.0.0", bytes.fromhex("63825363"))
    assert len(ASKED.message) == 300
    assert set(ASKED.options) == {53, 55, 57, 80}
    assert (ASKED.options[53], ASKED.options[80]) == (b"\1", b"")
    assert ASKED.options[55] == bytes((1, 3, 6, 12, 15, 26, 119, 121))
    assert 576 <= int.from_bytes(ASKED.options[57], "big") <= 1500


def test_request_of_an_offer() -> None:
    sent = packet.encode(packet.REQUEST, XID, MAC, 70_000, requested=number(ADDRESS), server=number("192.0.2.9"))
    asked = Asked(bytes(42) + sent)
    assert (asked.kind, asked.flags, asked.own, asked.secs) == (3, 0x8000, "0.0.0.0", 65535)
    assert (asked.options[50], asked.options[54]) == (number(ADDRESS), number("192.0.2.9"))
    assert 80 not in asked.options


def test_request_for_more_time() -> None:
    """RFC 2131, 4.3.2: ciaddr, and neither option 50 nor 54; we hear unicast by then."""
    asked = Asked(bytes(42) + packet.encode(packet.REQUEST, XID, MAC, own=number(ADDRESS)))
    assert (asked.kind, asked.flags, asked.own) == (3, 0, ADDRESS)
    assert not {50, 54, 80} & set(asked.options)


# -- what is understood --------------------------------------------------------------------------------------------


def test_all_fields() -> None:
    reply = answer(*FULL)
    assert (reply.kind, reply.address, reply.server) == (ACK, number(ADDRESS), number("192.0.2.1"))
    assert (reply.prefix, reply.mtu, reply.hostname, reply.search) == (24, 1400, "guest-7", ["fifteen.example"])
    assert reply.routes == [(ANY, 0, number("192.0.2.1"))]
    assert reply.servers == [number("192.0.2.2"), number("192.0.2.3")]
    assert (reply.lease, reply.renew, reply.rebind, reply.ignored) == (3600, 100, 200, [])


def test_only_what_must_be() -> None:
    reply = decode(standard(OFFER, lease=None))
    assert (reply.kind, reply.routes, reply.servers, reply.search) == (OFFER, [], [], [])
    assert (reply.mtu, reply.hostname, reply.lease, reply.renew, reply.rebind) == (None, None, None, None, None)


@pytest.mark.parametrize(("address", "prefix"), [("10.1.2.3", 8), ("172.16.0.9", 16), ("192.168.7.7", 24)])
def test_without_a_mask_it_is_that_of_the_class(address: str, prefix: int) -> None:
    """libkrun would use /0."""
    assert decode(standard(ACK), address=address).prefix == prefix


@pytest.mark.parametrize("mask", ["255.0.255.0", "0.0.0.0", "0.0.0.255", "255.255.255"])
def test_a_mask_that_is_none_is_that_of_the_class(mask: str) -> None:
    reply = answer((1, bytes(int(part) for part in mask.split("."))))
    assert (reply.prefix, reply.ignored) == (24, [1])


@pytest.mark.parametrize("prefix", range(1, 33))
def test_every_mask(prefix: int) -> None:
    assert answer((1, struct.pack("!I", (1 << 32) - (1 << 32 - prefix)))).prefix == prefix


def test_an_endless_lease() -> None:
    assert decode(standard(ACK, lease=(51, b"\xff" * 4))).lease is None


@pytest.mark.parametrize(
    ("value", "routes"),
    [
        ("00 c0000209", [("0.0.0.0", 0, "192.0.2.9")]),
        ("18 0a1122 c0000209", [("10.17.34.0", 24, "192.0.2.9")]),
        ("20 0a112233 00000000", [("10.17.34.51", 32, "0.0.0.0")]),
        (
            "09 0aff c0000209",
            [("10.128.0.0", 9, "192.0.2.9")],
        ),  # bits beyond the prefix: RFC 3442 has the client mask them
        ("08 0a c0000209 00 c0000208", [("10.0.0.0", 8, "192.0.2.9"), ("0.0.0.0", 0, "192.0.2.8")]),
    ],
)
def test_classless_routes(value: str, routes: list[tuple[str, int, str]]) -> None:
    """libkrun knows the one default route only; option 3 does not count beside option 121."""
    reply = answer((3, number("192.0.2.1")), (121, bytes.fromhex(value)))
    assert reply.routes == [(number(target), prefix, number(gateway)) for target, prefix, gateway in routes]


@pytest.mark.parametrize(
    "value", ["", "21 0a00000000 c0000209", "18 0a11 c00002", "00", "18 0a1122 c0000209 18", "00 e0000001"]
)
def test_malformed_routes_leave_the_router(value: str) -> None:
    reply = answer((121, bytes.fromhex(value)), (3, number("192.0.2.1")))
    assert (reply.routes, reply.ignored) == ([(ANY, 0, number("192.0.2.1"))], [121])


def test_no_route_through_an_address_that_is_none() -> None:
    """libkrun adds a route through 0.0.0.0."""
    assert answer((3, number("0.0.0.0"))).routes == []
    assert answer((3, number("0.0.0.0") + number("192.0.2.4"))).routes == [(ANY, 0, number("192.0.2.4"))]


def test_name_servers_that_are_none_are_left_out() -> None:
    assert answer((6, number("0.0.0.0") + number("192.0.2.4") + b"\xff" * 4)).servers == [number("192.0.2.4")]


def test_search_domains_win_over_the_domain() -> None:
    """RFC 3397's own example; libkrun knows neither."""
    value = b"\3eng\5apple\3com\0\11marketing\300\4"
    reply = answer((119, value), (15, b"fifteen.example"))
    assert reply.search == ["eng.apple.com", "marketing.apple.com"]


def test_search_domains_in_parts() -> None:
    """RFC 3396: a pointer may lead from the second part into the first."""
    names = [b"\77" + bytes([97 + index]) * 63 for index in range(5)]
    value = b"\0".join(names) + b"\0" + b"\1x\300\0"
    assert len(value) > 255
    reply = answer((119, value))
    assert reply.search == ["a" * 63, "b" * 63, "c" * 63, "d" * 63, "e" * 63, "x." + "a" * 63]


@pytest.mark.parametrize(
    "value",
    [
        b"\300\0",  # itself
        b"\1a\300\0",  # round and round
        b"\1a\300\2",
        b"\300\2\300\0",
        b"\1a\300\11",  # forward
        b"\1a\300",  # half a pointer
        b"\1a",  # no end
        b"\100" + b"a" * 64 + b"\0",  # 0x40 is no length
        b"\200a\0",
        b"\5ab\0",
        b"\3a b\0",
        b"\3a\nb\0",
        b"\0",
        b"",
        (b"\77" + b"a" * 63) * 4 + b"\0",  # 256 bytes
    ],
)
def test_malformed_search_domains_leave_the_domain(value: bytes) -> None:
    reply = answer((119, value), (15, b"fifteen.example"))
    assert (reply.search, reply.ignored) == (["fifteen.example"], [119])


@pytest.mark.parametrize(
    ("value", "search"),
    [
        (b"a.example", ["a.example"]),
        (b"a.example\0", ["a.example"]),
        (b"a.example b.example", ["a.example", "b.example"]),
    ],
)
def test_domain(value: bytes, search: list[str]) -> None:
    assert answer((15, value)).search == search


@pytest.mark.parametrize(
    "option",
    [
        (12, b"a\nb"),
        (12, b""),
        (12, b"a" * 65),
        (12, b"-x"),
        (15, b"a\nnameserver 10.0.0.1"),
        (15, b"a;b"),
        (15, b"\xff"),
    ],
)
def test_names_that_are_none_are_ignored(option: Option) -> None:
    reply = answer(option)
    assert (reply.hostname, reply.search, reply.ignored) == (None, [], [option[0]])


@pytest.mark.parametrize("code", [1, 3, 6, 12, 26, 58, 59, 119])
def test_options_of_a_wrong_length_are_ignored(code: int) -> None:
    for value in (b"", b"\0\0\0\0\0"):
        reply = answer((code, value))
        assert reply.ignored == [code]
        assert (reply.prefix, reply.routes, reply.servers, reply.mtu, reply.renew) == (24, [], [], None, None)


@pytest.mark.parametrize("overload", [1, 2, 3])
def test_overload(overload: int) -> None:
    """Option 52: the fields of the boot file and of the server's name hold options too, in that order (RFC 3396)."""
    file, sname = b"\6\4" + number("192.0.2.7") + b"\xff", b"\0\0\6\4" + number("192.0.2.8") + b"\xff"
    reply = decode(standard(ACK, (52, bytes((overload,)))), file=file, sname=sname)
    wanted = [number("192.0.2.7")] * (overload & 1) + [number("192.0.2.8")] * (overload >> 1)
    assert reply.servers == wanted


def test_fields_that_are_not_overloaded_are_not_read() -> None:
    assert decode(standard(ACK), file=b"\6\4\1\1\1\1\xff", sname=b"boot.example").servers == []


def test_overload_within_an_overloaded_field_leads_nowhere() -> None:
    field = b"\x34\1\3\6\4" + number("192.0.2.7") + b"\xff"
    assert decode(standard(ACK, (52, b"\1")), file=field, sname=field).servers == [number("192.0.2.7")]


# -- what is refused -----------------------------------------------------------------------------------------------


def test_to_somebody_else() -> None:
    """libkrun takes any packet."""
    good = standard(ACK)
    for fields in ({"xid": b"\1\2\3\5"}, {"mac": b"\2\0\0\0\0\x08"}, {"op": 1}):
        assert packet.decode(message(ASKED, good, **fields), XID, MAC) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (standard(ACK), {"htype": 6}),
        (standard(ACK), {"hlen": 16}),
        (standard(ACK), {"magic": b"\x63\x82\x53\x64"}),
        (standard(ACK), {"address": "0.0.0.0"}),
        (standard(ACK), {"address": "127.0.0.1"}),
        (standard(ACK), {"address": "224.0.0.1"}),
        (standard(ACK), {"address": "255.255.255.255"}),
        ([(54, number("192.0.2.1")), LEASE], {}),
        ([(53, b"\5"), LEASE], {}),
        ([(53, b"\5\5"), (54, number("192.0.2.1")), LEASE], {}),
        ([(53, b"\5"), (53, b"\5"), (54, number("192.0.2.1")), LEASE], {}),
        ([(53, b"\1"), (54, number("192.0.2.1")), LEASE], {}),
        (standard(9), {}),
        (standard(ACK, server="0.0.0.0"), {}),
        (standard(ACK, server="239.1.1.1"), {}),
        (standard(ACK, (54, b"\1")), {}),
        (standard(ACK, lease=(51, b"\0\0\1")), {}),
        (standard(ACK, (52, b"\4")), {}),
        (standard(ACK, (52, b"\1\1")), {}),
        (standard(ACK, (52, b"\1"), (52, b"\2")), {}),
        (standard(ACK, (52, b"\1")), {"file": b"\6\xff\1\1"}),
        (standard(ACK, (52, b"\2")), {"sname": b""}),
        (b"", {}),
        (b"\0" * 60, {}),
        (b"\x35\1\5\x36\4\xc0\0\2\1", {}),
        (b"\x35\1\5\x36\4\xc0\0\2\1\6\xff\xff", {}),
        (standard(ACK, (200, bytes(255)), *[(201, bytes(255))] * 4), {}),
    ],
)
def test_refused(options: list[Option] | bytes, fields: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        decode(options, **fields)


def test_cut_at_every_byte() -> None:
    whole = message(ASKED, standard(ACK, *FULL, (119, b"\1a\0"), (121, bytes.fromhex("08 0a c0000209"))))
    assert packet.decode(whole, XID, MAC) is not None
    for size in range(len(whole)):
        with pytest.raises(Malformed):
            packet.decode(whole[:size], XID, MAC)


OPTIONS = st.lists(st.tuples(st.integers(1, 254), st.binary(max_size=40)), max_size=12)
KNOWN = st.sampled_from([1, 3, 6, 12, 15, 26, 50, 51, 52, 53, 54, 58, 59, 119, 121])
LIKELY = st.lists(st.tuples(KNOWN, st.binary(max_size=24)), max_size=12)


def check(data: bytes) -> None:
    """Either refused, or everything in it is fit to be applied."""
    try:
        reply = packet.decode(data, XID, MAC)
    except Malformed:
        return
    if reply is None or reply.kind == packet.NAK:
        return
    assert packet.is_host(reply.address)
    assert packet.is_host(reply.server)
    assert 1 <= reply.prefix <= 32
    for target, prefix, gateway in reply.routes:
        assert len(target) == len(gateway) == 4
        assert int.from_bytes(target, "big") & packet.mask_of(prefix) == int.from_bytes(target, "big")
        assert gateway == ANY or packet.is_host(gateway)
    text = resolver.content(reply).decode()
    assert re.fullmatch(r"(search( [\w.-]+)+\n)?(nameserver \d+\.\d+\.\d+\.\d+\n)*\n?", text)
    assert all(len(line) <= 255 for line in text.splitlines())
    assert reply.hostname is None or re.fullmatch(r"[\w.][\w.-]{0,63}", reply.hostname)


@given(st.binary(max_size=600))
def test_any_bytes(data: bytes) -> None:
    check(data)


@given(st.binary(max_size=400), st.binary(max_size=64), st.binary(max_size=128))
def test_any_options_as_bytes(options: bytes, sname: bytes, file: bytes) -> None:
    check(message(ASKED, options, sname=sname, file=file))


@given(OPTIONS | LIKELY, st.sampled_from([0, 1, 2, 3]), st.binary(max_size=64), st.binary(max_size=128))
def test_any_options(options: list[Option], overload: int, sname: bytes, file: bytes) -> None:
    more = [(52, bytes((overload,)))] if overload else []
    check(message(ASKED, standard(ACK, *more, *options), sname=sname, file=file))


@given(st.binary(max_size=300))
def test_any_search_domains(value: bytes) -> None:
    check(message(ASKED, standard(ACK, (119, value))))


@given(st.binary(max_size=120))
def test_any_frame(data: bytes) -> None:
    payload = wire.payload_of(data)
    assert payload is None or payload in data


def test_frame() -> None:
    whole = frame(b"message", "192.0.2.1", ADDRESS, MAC, MAC)[14:]
    assert wire.payload_of(whole) == b"message"
    assert wire.payload_of(whole + bytes(20)) == b"message"  # the padding of a short frame
    for size in range(len(whole)):
        assert wire.payload_of(whole[:size]) is None
    for at, value in ((0, 0x65), (0, 0x44), (6, 0x20), (7, 1), (9, 6), (22, 1), (25, 3)):
        assert wire.payload_of(whole[:at] + bytes((value,)) + whole[at + 1 :]) is None
