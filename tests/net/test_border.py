"""What may leave the guest: frames by hand, and passt itself behind the border."""

from __future__ import annotations

import random
import select
import socket
import struct
import time

import pytest

from pykrun.loop import Loop
from pykrun.machine import Network
from pykrun.net import FrameStream, make_pair
from pykrun.net import passt as program
from pykrun.net.border import Border
from tests.net.internet import SERVER4, SERVER6, Internet

MACS = bytes.fromhex("52550a0002025254006b7275")
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
GUEST4, GUEST6 = "10.0.2.15", "fd6b:7275:6e00::15"


def checksum(content: bytes) -> bytes:
    total = sum(struct.unpack(f"!{(len(content) + 1) // 2}H", content + bytes(len(content) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def packet(to: str, protocol: int = TCP, port: int = 80, options: bytes = b"", source_port: int = 4000) -> bytes:
    """A frame with a SYN, a datagram or an echo request."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    source = socket.inet_pton(family, GUEST6 if family == socket.AF_INET6 else GUEST4)
    target = socket.inet_pton(family, to)
    if protocol == TCP:
        body = struct.pack("!HHIIBBHHH", source_port, port, 1000, 0, 0x50, 2, 65535, 0, 0)
    else:
        body = struct.pack("!HHHH", source_port, port, 12, 0) + b"hoax"
    pseudo = source + target + struct.pack("!IHBB", len(body), 0, 0, protocol)
    place = 16 if protocol == TCP else 6
    body = body[:place] + checksum(pseudo + body) + body[place + 2 :]
    if family == socket.AF_INET6:
        head = struct.pack("!IHBB", 0x60000000, len(options + body), protocol, 64) + source + target
        return MACS + b"\x86\xdd" + head + options + body
    words = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, 4 * words + len(body), 1, 0, 64, protocol, 0) + source + target
    head = head[:10] + checksum(head + options) + head[12:]
    return MACS + b"\x08\x00" + head + options + body


def segment(to: str, flags: int) -> bytes:
    """A frame with a TCP segment without data."""
    frame = bytearray(packet(to))
    frame[-7] = flags
    return bytes(frame)


def turned(frame: bytes) -> bytes:
    """The same datagram in the other direction."""
    start, size = (22, 16) if frame[12:14] == b"\x86\xdd" else (26, 4)
    ports = start + 2 * size
    addresses = frame[start + size : ports] + frame[start : start + size]
    return frame[:start] + addresses + frame[ports + 2 : ports + 4] + frame[ports : ports + 2] + frame[ports + 4 :]


REFUSED = {
    "127.0.0.1": packet("127.0.0.1"),
    "anywhere in 127": packet("127.53.0.53", UDP, 53),
    "0.0.0.0, which Linux takes for the loopback": packet("0.0.0.0"),
    "0 and something": packet("0.1.2.3"),
    "an echo to the loopback": packet("127.0.0.1", ICMP),
    "options in front": packet("127.0.0.1", options=b"\1" * 40),
    "the gateway": packet("10.0.2.2", TCP, 53),
    "the gateway, another port": packet("10.0.2.2", UDP, 54),
    "the gateway, a port in the options": packet("10.0.2.2", UDP, 631, options=b"\0\x35\0\x35"),
    "the gateway, cut before its ports": packet("10.0.2.2", UDP, 53)[:36],
    "::1": packet("::1"),
    "::": packet("::"),
    "IPv4 in IPv6": packet("::ffff:127.0.0.1"),
    "any IPv4 in IPv6": packet("::ffff:192.0.2.2"),
    "IPv4 in IPv6, the old way": packet("::127.0.0.1"),
    "the gateway, IPv6": packet("fe80::2"),
    "the gateway, IPv6, UDP": packet("fe80::2", UDP, 53),
    "the gateway, cut before its flags": packet("10.0.2.2", TCP, 80)[:46],
    "the gateway, SYN with URG": segment("10.0.2.2", 0x22),
    "the gateway, IPv6, SYN": segment("fe80::2", 0x02),
    "the gateway, IPv6, behind an extension header": packet("fe80::2", 0, options=b"\6" + bytes(7)),
    "cut IPv4": packet("192.0.2.2")[:33],
    "cut IPv6": packet("2001:db8::2")[:53],
    "an Ethernet header alone": MACS + b"\x08\x00",
    "a VLAN": MACS + b"\x81\x00\0\1" + packet("192.0.2.2")[12:],
    "no protocol that passt knows": MACS + b"\x88\xb5" + bytes(60),
}

ALLOWED = {
    "somewhere": packet("192.0.2.2"),
    "with options": packet("192.0.2.2", options=b"\1" * 40),
    "DNS at the gateway": packet("10.0.2.2", UDP, 53),
    "DNS at the gateway, with options": packet("10.0.2.2", UDP, 53, options=b"\1" * 40),
    "DHCP at the gateway": packet("10.0.2.2", UDP, 67),
    "an answer of TCP to the gateway": segment("10.0.2.2", 0x12),
    "its data": segment("10.0.2.2", 0x18),
    "its end": segment("10.0.2.2", 0x04),
    "an answer of TCP to the gateway, IPv6": segment("fe80::2", 0x12),
    "broadcast": packet("255.255.255.255", UDP, 67),
    "126": packet("126.255.255.255"),
    "128": packet("128.0.0.0"),
    "somewhere, IPv6": packet("2001:db8::2"),
    "neighbours": packet("ff02::1:ff00:2", ICMPV6),
    "the gateway's echo, IPv6": packet("fe80::2", ICMPV6),
    "the 64 network of zeros ends": packet("0:0:0:1::1"),
    "ARP": MACS + b"\x08\x06" + bytes(28),
}


@pytest.mark.parametrize("frame", REFUSED.values(), ids=REFUSED.keys())
def test_refused(frame: bytes) -> None:
    assert not Border(dns=True).may_leave(frame[:128])


@pytest.mark.parametrize("frame", ALLOWED.values(), ids=ALLOWED.keys())
def test_allowed(frame: bytes) -> None:
    assert Border(dns=True).may_leave(frame[:128])


@pytest.mark.parametrize("gateway", ["10.0.2.2", "fe80::2"])
def test_only_who_asked_by_udp_is_answered(gateway: str) -> None:
    border = Border(asked=True)
    answer = packet(gateway, UDP, 40000, source_port=53)
    assert not border.may_leave(answer)
    border.note(
        memoryview(turned(packet("192.0.2.2" if gateway == "10.0.2.2" else "2001:db8::2", UDP, 40000, source_port=53)))
    )
    assert not border.may_leave(answer), "that was somebody else"
    border.note(memoryview(turned(answer)))
    assert border.may_leave(answer)
    for port, source_port in ((40001, 53), (40000, 54), (5353, 40000)):
        assert not border.may_leave(packet(gateway, UDP, port, source_port=source_port))
    assert not border.may_leave(packet("fe80::2" if gateway == "10.0.2.2" else "10.0.2.2", UDP, 40000, source_port=53))


def test_dns_at_the_gateway_only_where_it_is_handed_on() -> None:
    """Otherwise passt would take it for the host's loopback when a UDP port is published."""
    assert not Border(asked=True).may_leave(packet("10.0.2.2", UDP, 53))
    assert Border().may_leave(packet("10.0.2.2", UDP, 67))


def test_askers_are_bounded() -> None:
    border = Border(asked=True)
    first = packet("10.0.2.2", UDP, 1024, source_port=53)
    border.note(memoryview(turned(first)))
    for port in range(2000, 7000):
        border.note(memoryview(turned(packet("10.0.2.2", UDP, port, source_port=53))))
    assert len(border._askers) == 4096
    assert not border.may_leave(first)
    assert border.may_leave(packet("10.0.2.2", UDP, 6999, source_port=53))


def test_noise_is_judged() -> None:
    chance = random.Random(1)
    border = Border(asked=True)
    for _ in range(20_000):
        frame = bytearray(chance.randbytes(chance.randrange(14, 129)))
        if chance.random() < 0.9:
            frame[12:14] = chance.choice((b"\x08\x00", b"\x86\xdd", b"\x08\x06"))
        assert border.may_leave(bytes(frame)) in (True, False)
        border.note(memoryview(frame))


@pytest.mark.root
def test_passt_behind_the_border_reaches_nobody_on_the_host(internet: Internet, passt: str) -> None:
    """Without the border, passt of 2023 connects to four of them."""
    listeners = [
        internet.listener(internet.host, address, 5555, kind)
        for address in ("127.0.0.1", "::1")
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    ]
    there = [internet.listener(internet.server, address, 5555) for address in (SERVER4, SERVER6)]
    loop, (ours, theirs) = Loop(), make_pair()
    with internet.on_host(), theirs:
        process = program.start(theirs, Network())
    stream = FrameStream(loop, ours, lambda why: None)
    source_port = 5000
    targets = ("127.0.0.1", "0.0.0.0", "127.9.9.9", "10.0.2.2", "::1", "::", "::ffff:127.0.0.1", "fe80::2")
    for target in (*targets, SERVER4, SERVER6):
        for protocol in (TCP, UDP):
            source_port += 1
            frame = packet(target, protocol, 5555, source_port=source_port)
            stream.send(frame[:128], [memoryview(frame)[128:]], len(frame))
    stream.flush()
    for listener in there:  # passt takes frames in order: what went before has been done
        listener.accept()[0].close()
    time.sleep(0.1)
    assert select.select(listeners, [], [], 0)[0] == []
    assert stream.refused == 2 * len(targets)
    stream.close()
    process.close()
    loop.close()
    for listener in (*listeners, *there):
        listener.close()
