"""Ends of TCP streams that come too early: by hand, and with passt itself and a guest of ours that speaks TCP."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pykrun.loop import Loop
from pykrun.machine import Network
from pykrun.net import FrameStream, make_pair
from pykrun.net import passt as program
from pykrun.net.ends import Ends
from tests.net.internet import SERVER4, SERVER6, Internet, turn
from tests.net.test_border import GUEST4, GUEST6, MACS, TCP, UDP, checksum, packet, turned

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
FIRST = 0xFFFF0000
"""The guest's first sequence number: it comes round while the stream is on its way."""
PIECE = 32000


def segment(to: str, ports: tuple[int, int], number: int, ack: int, flags: int, content: bytes = b"") -> bytes:
    """A frame of the guest's."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    addresses = socket.inet_pton(family, GUEST6 if family == socket.AF_INET6 else GUEST4) + socket.inet_pton(family, to)
    options = bytes.fromhex("0204ffd7 01030307") if flags & SYN else b""
    number, ack = number & 0xFFFFFFFF, ack & 0xFFFFFFFF
    body = struct.pack("!HHIIBBHHH", *ports, number, ack, (20 + len(options)) << 2, flags, 65000, 0, 0)
    body += options + content
    body = body[:16] + checksum(addresses + struct.pack("!II", len(body), TCP) + body) + body[18:]
    if family == socket.AF_INET6:
        return MACS + b"\x86\xdd" + struct.pack("!IHBB", 0x60000000, len(body), TCP, 64) + addresses + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, TCP, 0) + addresses
    return MACS + b"\x08\x00" + head[:10] + checksum(head) + head[12:] + body


class Wire:
    """The ends of one guest, and what goes to passt."""

    def __init__(self, to: str = SERVER4) -> None:
        self.to = to
        self.loop = Loop()
        self.sent: list[bytes] = []
        self.ends = Ends(self.loop, self.sent.append)

    def guest(self, number: int, flags: int, content: bytes = b"", port: int = 4000) -> bool:
        """Whether a segment of the guest's goes at once."""
        frame = segment(self.to, (port, 80), number, 77, flags, content)
        return not self.ends.keeps(frame[:128], len(frame))

    def passt(self, acknowledged: int, flags: int = ACK, port: int = 4000) -> None:
        """A segment of passt's."""
        self.ends.note(memoryview(turned(segment(self.to, (port, 80), 77, acknowledged, flags))))

    def turn(self, seconds: float) -> None:
        turn(self.loop, seconds)


@pytest.fixture
def wire(peer: str) -> Iterator[Wire]:
    wire = Wire(peer)
    yield wire
    wire.loop.close()


def test_an_end_in_its_place_goes(wire: Wire) -> None:
    wire.passt(1000)
    assert wire.guest(1000, FIN | ACK)
    assert wire.guest(900, FIN | ACK), "sent again, when passt had it already"
    assert wire.guest(2000, FIN | ACK, b"behind data passt puts it in its place")
    assert wire.guest(2000, ACK)
    assert wire.guest(2000, FIN | ACK, port=4001), "nothing is known of that connection"
    assert wire.sent == []


@pytest.mark.parametrize("number", [1500, 5])
def test_an_end_waits_for_what_comes_before(wire: Wire, number: int) -> None:
    """Over the edge of sequence numbers, too."""
    wire.passt(number - 500)
    assert not wire.guest(number, FIN | ACK)
    end = segment(wire.to, (4000, 80), number, 77, FIN | ACK)
    assert wire.sent == [segment(wire.to, (4000, 80), number, 77, ACK)], "a question, its checksum right"
    wire.sent.clear()
    wire.passt(number - 1)
    wire.passt(number, port=4001)
    assert wire.sent == []
    wire.passt(number)
    wire.passt(number)
    assert wire.sent == [end]
    wire.turn(0.02)
    assert wire.sent == [end]
    assert wire.guest(number, FIN | ACK)


def test_questions_become_rare_and_end(wire: Wire) -> None:
    wire.passt(1000)
    assert not wire.guest(1500, FIN | ACK)
    wire.turn(0.2)
    assert len(wire.sent) == 7
    assert not wire.guest(1500, FIN | ACK)
    wire.turn(0.1)
    assert len(wire.sent) == 8, "one for each time that the guest repeats itself"
    assert set(wire.sent) == {segment(wire.to, (4000, 80), 1500, 77, ACK)}


@pytest.mark.parametrize("flags", [SYN, RST, RST | ACK, SYN | ACK])
@pytest.mark.parametrize("whose", ["guest", "passt"])
def test_an_end_is_forgotten_with_its_connection(wire: Wire, whose: str, flags: int) -> None:
    wire.passt(1000)
    assert not wire.guest(1500, FIN | ACK)
    wire.sent.clear()
    if whose == "guest":
        assert wire.guest(1500, flags)
    else:
        wire.passt(1500, flags)
    wire.passt(1500)
    assert wire.sent == []


def test_an_end_that_passt_had_by_other_means_is_not_sent_again(wire: Wire) -> None:
    """The guest has put it behind the last data, sending that again."""
    wire.passt(1000)
    assert not wire.guest(1500, FIN | ACK)
    wire.sent.clear()
    assert wire.guest(1000, FIN | ACK, bytes(500))
    wire.passt(1501)
    assert wire.sent == []
    assert not wire.ends._waiting


def test_what_is_remembered_is_bounded() -> None:
    wire = Wire()
    for port in range(20_000):
        wire.passt(1000, port=port)
        assert not wire.guest(1500, FIN | ACK, port=port)
    assert len(wire.ends._waiting) == 4096
    assert len(wire.ends._acknowledged) + len(wire.ends._earlier) <= 2 * 4097
    wire.sent.clear()
    wire.passt(1500, port=19_999)
    wire.passt(1500, port=0)
    assert len(wire.sent) == 1
    wire.loop.close()


def test_other_frames_are_none_of_its_business() -> None:
    wire = Wire()
    chance = random.Random(6)
    for frame in (packet(SERVER4, UDP), packet(SERVER6, UDP), MACS + b"\x08\x06" + bytes(28)):
        wire.ends.note(memoryview(frame))
        assert not wire.ends.keeps(frame, len(frame))
    for _ in range(20_000):
        noise = bytearray(chance.randbytes(chance.randrange(54, 129)))
        noise[12:14] = chance.choice((b"\x08\x00", b"\x86\xdd", b"\x08\x06"))
        noise[20 if noise[12] == 0x86 else 23] = TCP
        wire.ends.note(memoryview(noise))
        wire.ends.keeps(bytes(noise), len(noise) + chance.randrange(2))
        wire.ends.note(memoryview(noise)[: chance.randrange(14, 54)])
    wire.loop.close()


class Guest:
    """One end of a connection, which sends what it is told and remembers what was acknowledged."""

    def __init__(self, loop: Loop, stream: FrameStream, to: str, ports: tuple[int, int]) -> None:
        self._loop = loop
        self._stream = stream
        self._to = to
        self._ports = ports
        self._at = 54 if ":" in to else 34
        self.acknowledged = FIRST
        self.next = 0  # of the other side
        self.flags = 0
        stream.on_frame = self._take

    def _take(self) -> None:
        while (frame := self._stream.frame()) is not None:
            at = self._at
            if len(frame) >= at + 20 and frame[23 if at == 34 else 20] == TCP:
                number, ack, offset, flags = struct.unpack_from("!IIBB", frame, at + 4)
                self.flags |= flags
                if flags & ACK:
                    self.acknowledged += (ack - self.acknowledged) & 0xFFFFFFFF
                size = len(frame) - at - (offset >> 2)
                self.next = (number + size + bool(flags & (SYN | FIN))) & 0xFFFFFFFF
            self._stream.take()

    def send(self, number: int, flags: int, content: bytes = b"") -> None:
        frame = segment(self._to, self._ports, number, self.next, flags, content)
        self._stream.send(frame[:128], [memoryview(frame)[128:]] if len(frame) > 128 else [], len(frame))
        self._stream.flush()

    def turn(self, condition: Callable[[], object], seconds: float = 20) -> bool:
        """Turn the loop until the condition holds; say whether it does."""
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            self._loop.call_later(0.005, self._loop.stop)
            self._loop.run()
        return bool(condition())

    def open(self) -> None:
        self.send(FIRST, SYN)
        assert self.turn(lambda: self.flags & SYN)
        self.send(FIRST + 1, ACK)


class Line:
    """passt on the host, and a listener of the server's."""

    def __init__(self, internet: Internet, address: str) -> None:
        self.loop, (ours, theirs) = Loop(), make_pair()
        with internet.on_host(), theirs:
            self._process = program.start(theirs, Network())
        self.stream = FrameStream(self.loop, ours, lambda why: None)
        self.listener = internet.listener(internet.server, address, 7000)
        self.guest = Guest(self.loop, self.stream, address, (4000, 7000))

    def close(self) -> None:
        self.listener.close()
        self.stream.close()
        self._process.close()
        self.loop.close()


@pytest.fixture(params=[SERVER4, SERVER6], ids=["IPv4", "IPv6"])
def line(request: pytest.FixtureRequest, internet: Internet, passt: str) -> Iterator[Line]:
    line = Line(internet, request.param)
    yield line
    line.close()


CONTENT = random.Random(5).randbytes(8_000_000)
"""More than passt's socket takes."""


@pytest.mark.root
def test_an_end_that_comes_before_its_bytes(line: Line) -> None:
    """The server does not read yet, passt cannot take all, and the guest says that this was all."""
    guest = line.guest
    line.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    guest.open()
    server, _ = line.listener.accept()
    first = FIRST + 1
    last = first + len(CONTENT)
    for start in range(0, len(CONTENT), PIECE):
        guest.send(first + start, ACK, CONTENT[start : start + PIECE])
        guest.turn(lambda: False, 0.001)
    guest.send(last, FIN | ACK)
    guest.turn(lambda: False, 0.3)
    assert guest.acknowledged < last
    got: list[bytes] = []

    def read() -> None:
        with server:
            while chunk := server.recv(1 << 20):
                got.append(chunk)
            server.sendall(b"all of it")

    reader = threading.Thread(target=read)
    reader.start()
    end = time.monotonic() + 30
    while guest.acknowledged <= last and not guest.flags & RST and time.monotonic() < end:
        number = guest.acknowledged
        start = number - first
        guest.send(number, FIN | ACK if number == last else ACK, CONTENT[start : start + PIECE])
        guest.turn(lambda number=number: guest.acknowledged != number, 0.05)  # type: ignore[misc]
    reader.join(20)
    assert b"".join(got) == CONTENT
