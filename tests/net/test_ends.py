"""Ends of TCP streams: passt itself, and a guest's TCP by hand, whose end comes before passt has taken its bytes."""

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
from tests.net.internet import SERVER4, SERVER6, Internet
from tests.net.test_border import GUEST4, GUEST6, MACS, TCP, checksum

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
