"""Connections into a guest that does not answer yet: by hand, through the cable, and with passt itself."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from pykrun.loop import Loop
from pykrun.net import FrameStream, make_pair
from pykrun.net.openings import NOBODY, Openings
from tests.net.internet import SERVER4, turn
from tests.net.test_border import turned
from tests.net.test_ends import ACK, FIN, RST, SYN, segment
from tests.net.test_passt import running, settled
from tests.net.test_stream import framed

CARD = b"\x52\x54\0kru"
PORTS = (80, 4000)


class Wire:
    """The openings of one guest, and what it is told again."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.loop = Loop()
        self.said: list[bytes] = []
        self.openings = Openings(self.loop, self.said.append, CARD)

    def passt(self, flags: int, number: int = 7, to: bytes = NOBODY) -> bytes:
        """A segment of passt's."""
        frame = to + turned(segment(self.peer, PORTS, number, 0, flags))[6:]
        self.openings.note(memoryview(frame))
        return frame

    def guest(self, flags: int, ports: tuple[int, int] = PORTS) -> bool:
        """Whether a segment of the guest's goes on."""
        return not self.openings.answers_again(segment(self.peer, ports, 1, 8, flags)[:128])

    def turn(self, seconds: float) -> None:
        turn(self.loop, seconds)


@pytest.fixture
def wire(peer: str) -> Iterator[Wire]:
    wire = Wire(peer)
    yield wire
    wire.loop.close()


def test_an_opening_is_repeated_until_the_guest_answers(wire: Wire) -> None:
    opening = CARD + wire.passt(SYN)[6:]
    wire.passt(SYN)
    wire.turn(0.03)
    assert wire.said == [], "not at once"
    wire.turn(0.3)
    assert 1 <= len(wire.said) <= 3
    assert set(wire.said) == {opening}
    assert wire.guest(RST | ACK, (81, 4000))
    assert wire.openings.waiting
    assert wire.guest(RST | ACK)
    assert not wire.openings.waiting
    said = len(wire.said)
    wire.turn(0.3)
    assert len(wire.said) == said


@pytest.mark.parametrize("to", [NOBODY, b"\xff" * 6])
def test_an_opening_to_nobody_goes_to_the_guests_card(wire: Wire, to: bytes) -> None:
    opening = wire.passt(SYN, to=to)
    wire.turn(0.07)
    assert wire.said == [CARD + opening[6:]]


def test_only_the_first_answer_goes_on(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pykrun.net.openings._PATIENCE", 0.3)
    wire.passt(SYN)
    wire.turn(0.07)
    assert wire.guest(SYN | ACK)
    assert not wire.guest(SYN | ACK)
    wire.passt(ACK)
    assert not wire.guest(SYN | ACK)
    assert wire.guest(ACK)
    assert wire.guest(SYN)
    assert wire.guest(SYN | ACK, (81, 4000))
    wire.passt(SYN, 8)
    assert wire.guest(SYN | ACK), "another connection"
    assert wire.guest(SYN | ACK), "which was not begun twice"
    wire.turn(0.4)
    assert not wire.openings.waiting
    assert not wire.openings.answered


def test_a_guest_that_was_heard_of_has_more_time(wire: Wire) -> None:
    opening = wire.passt(SYN, to=CARD)
    wire.turn(0.3)
    assert wire.said == []
    wire.turn(0.8)
    assert wire.said == [opening]


@pytest.mark.parametrize("flags", [RST, RST | ACK, ACK, FIN | ACK])
def test_passt_goes_on_or_gives_up(wire: Wire, flags: int) -> None:
    wire.passt(SYN)
    wire.passt(flags)
    assert not wire.openings.waiting
    wire.turn(0.07)
    assert wire.said == []


def test_another_connection_of_the_same_ports(wire: Wire) -> None:
    wire.passt(SYN, 7)
    later = wire.passt(SYN, 8)
    wire.turn(0.07)
    assert wire.said == [CARD + later[6:]]


@pytest.mark.parametrize("flags", [SYN | ACK, ACK, RST])
def test_other_segments_are_no_openings(wire: Wire, flags: int) -> None:
    wire.passt(flags)
    for noise in (
        b"",
        bytes(14),
        b"\xff" * 60,
        bytes(12) + b"\x08\0" + b"\6" * 30,
        bytes(12) + b"\x86\xdd" + b"\6" * 50,
    ):
        wire.openings.note(memoryview(noise))
        assert not wire.openings.answers_again(noise)
    assert not wire.openings.waiting


def test_it_is_given_up_and_there_are_not_endlessly_many(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pykrun.net.openings._PATIENCE", 0.3)
    for port in range(1100):
        wire.openings.note(memoryview(NOBODY + turned(segment(wire.peer, (80, 4000 + port), 7, 0, SYN))[6:]))
    assert len(wire.openings.waiting) == 1024
    wire.turn(1)
    assert not wire.openings.waiting


def test_through_the_cable() -> None:
    """A frame that was shown stays the next one, whatever comes meanwhile."""
    loop = Loop()
    ours, theirs = make_pair()
    stream = FrameStream(loop, ours, lambda why: None, mac=CARD)
    opening = NOBODY + turned(segment(SERVER4, PORTS, 7, 0, SYN))[6:]
    again = CARD + opening[6:]
    other = CARD + turned(segment(SERVER4, (80, 4001), 7, 0, ACK, b"content"))[6:]

    def take() -> bytes | None:
        frame = stream.frame()
        if frame is None:
            return None
        content = bytes(frame)
        stream.take()
        return content

    theirs.sendall(framed(opening, other))
    turn(loop, 0.02)
    assert take() == opening
    assert stream.frame() == other
    turn(loop, 0.4)
    assert [take(), take(), take()] == [other, again, None], "one repetition at a time"
    theirs.sendall(framed(other)[:20])
    turn(loop, 0.25)
    assert [take(), take()] == [again, None]
    theirs.sendall(framed(other)[20:])
    refusal = segment(SERVER4, PORTS, 0, 8, RST | ACK)
    stream.send(refusal, [], len(refusal))
    turn(loop, 0.25)
    assert [take(), take()] == [other, None]
    stream.close()
    theirs.close()
    loop.close()


def test_a_frame_is_taken_from_a_cable_that_has_just_ended() -> None:
    """Sending what had waited for that frame may find out that nobody is there."""
    loop = Loop()
    ours, theirs = make_pair()
    stream = FrameStream(loop, ours, lambda why: None, mac=CARD)
    theirs.sendall(framed(turned(segment(SERVER4, PORTS, 7, 0, ACK, b"content"))))
    turn(loop, 0.02)
    assert stream.frame() is not None
    stream.close()
    stream.take()
    assert stream.frame() is None
    theirs.close()
    loop.close()


def test_passt_hears_an_answer_that_comes_late(passt: str) -> None:
    """The client is refused as soon as the guest refuses it, and not after ten seconds."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    with running(f"{port}:80") as (process, ours):
        settled(process.pid)
        loop = Loop()
        stream = FrameStream(loop, socket.socket(fileno=ours.detach()), lambda why: None, mac=CARD)
        openings: list[bytes] = []

        def on_frame() -> None:
            while (frame := stream.frame()) is not None:
                if frame[12:14] == b"\x08\0" and frame[23] == 6 and frame[47] == SYN:
                    openings.append(bytes(frame))
                stream.take()
            if len(openings) == 2:  # the first one came too early
                loop.stop()

        stream.on_frame = on_frame
        loop.call_later(5, loop.stop)
        with socket.create_connection(("127.0.0.1", port), timeout=8) as client:
            client.sendall(b"a request")  # unread, for a reset to come of it
            loop.run()
            assert len(openings) == 2
            assert openings[1][:6] == CARD
            peer = socket.inet_ntoa(openings[1][26:30])
            number = int.from_bytes(openings[1][38:42], "big")
            ports = (80, int.from_bytes(openings[1][34:36], "big"))
            refusal = segment(peer, ports, 0, number + 1, RST | ACK)
            refusal = refusal[:6] + CARD + refusal[12:]
            stream.send(refusal, [], len(refusal))
            stream.flush()
            start = time.monotonic()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            assert time.monotonic() - start < 5
        stream.close()
        loop.close()
