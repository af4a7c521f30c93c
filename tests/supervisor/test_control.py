"""The host's end of the control port against every kind of guest."""

from __future__ import annotations

import itertools
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykrun.errors import ControlError
from pykrun.supervisor import control as wire
from pykrun.supervisor.control import Control, Events, Exit


class Heard:
    """A control channel and all that it told its owner."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.errors: list[ControlError] = []

        def note(name: str):  # type: ignore[no-untyped-def]
            return lambda *values: self.calls.append((name, *values))

        names = ("hello", "started", "counts", "exit", "log", "close", "done")
        self.control = Control(Events(**{name: note(name) for name in names}), self.errors.append)

    def feed(self, *frames: bytes) -> None:
        data = b"".join(frames)
        assert self.control.write([memoryview(data)]) == len(data)

    def sent(self) -> bytes:
        room = bytearray(1 << 20)
        return bytes(room[: self.control.read_into([memoryview(room)])])


def frame(kind: int, body: bytes = b"", *, process: int = 0, reserved: int = 0) -> bytes:
    return struct.pack("<IHHI", len(body), kind, reserved, process) + body


HELLO = frame(wire.HELLO, struct.pack("<HHI", 1, 0, 0))


def test_a_whole_conversation() -> None:
    heard = Heard()
    heard.feed(
        HELLO,
        frame(wire.STARTED, struct.pack("<i", 7)),
        frame(wire.LOG, b"\x01careful \xff"),
        frame(wire.CLOSE, b"\0"),
        frame(wire.COUNTS, struct.pack("<QQ", 1 << 40, 2)),
        frame(wire.EXIT, struct.pack("<ii", 0x1FF, 9) + "warum: é".encode()),
        frame(wire.DONE),
    )
    assert heard.errors == []
    assert heard.calls == [
        ("hello", 1),
        ("started", 7),
        ("log", 1, "careful �"),
        ("close", 0),
        ("counts", 1 << 40, 2),
        ("exit", Exit(255, 9, "warum: é")),
        ("done",),
    ]
    assert heard.sent() == frame(wire.WELCOME, struct.pack("<HHI", 1, 0, 0))


def test_frames_may_come_in_any_pieces() -> None:
    heard = Heard()
    data = HELLO + frame(wire.EXIT, struct.pack("<ii", 3, 0) + b"because")
    for byte in data:
        heard.feed(bytes([byte]))
    assert heard.calls == [("hello", 1), ("exit", Exit(3, 0, "because"))]


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (struct.pack("<IHHI", wire.MAX_BODY + 1, wire.HELLO, 0, 0), "at most"),
        (frame(wire.HELLO, struct.pack("<HHI", 1, 0, 0), reserved=1), "reserved"),
        (frame(wire.HELLO, b"\1"), "bytes"),
        (frame(wire.HELLO, struct.pack("<HHI", 0, 0, 0)), "version 0"),
        (HELLO + HELLO, "twice"),
        (HELLO + 2 * frame(wire.STARTED, struct.pack("<i", 7)), "STARTED twice"),
        (frame(wire.DONE), "before HELLO"),
        (HELLO + frame(0x70), "unknown"),
        (HELLO + frame(wire.ACK), "unknown"),
        (HELLO + frame(wire.DONE, process=5), "process 5"),
        (HELLO + frame(wire.EXIT, b"\0" * 7), "at least 8"),
    ],
)
def test_a_broken_frame_is_said_once_and_ends_the_conversation(frames: bytes, said: str) -> None:
    heard = Heard()
    heard.feed(frames)
    assert len(heard.errors) == 1
    assert said in str(heard.errors[0])
    calls = list(heard.calls)
    heard.feed(HELLO, frame(wire.DONE))
    assert heard.calls == calls
    assert len(heard.errors) == 1


def test_unknown_optional_frames_are_skipped_and_longer_bodies_read() -> None:
    heard = Heard()
    heard.feed(HELLO + frame(0x8001, b"whatever"), frame(wire.COUNTS, struct.pack("<QQQ", 1, 2, 3)))
    assert heard.errors == []
    assert heard.calls[1:] == [("counts", 1, 2)]


def test_what_the_host_says() -> None:
    heard = Heard()
    ready: list[int] = []
    heard.control.on_ready = lambda: ready.append(1)
    heard.control.signal(15)
    heard.control.resize(24, 80)
    heard.control.stdin_end(1 << 33)
    heard.control.close_output(2)
    heard.control.stop(1.5)
    heard.control.ack()
    heard.control.draining()
    assert len(ready) == 7
    assert heard.sent() == b"".join(
        [
            frame(wire.SIGNAL, struct.pack("<I", 15)),
            frame(wire.RESIZE, struct.pack("<HHHH", 24, 80, 0, 0)),
            frame(wire.STDIN_END, struct.pack("<Q", 1 << 33)),
            frame(wire.CLOSE_OUTPUT, b"\2"),
            frame(wire.STOP, struct.pack("<I", 1500)),
            frame(wire.ACK),
            frame(wire.DRAINING),
        ]
    )


@pytest.mark.parametrize(
    ("grace", "milliseconds"),
    [(0, 0), (-1.0, 0), (math.nan, 0), (0.0015, 1), (1e6, 10**9), (1e7, 10**9), (math.inf, 10**9), (10**400, 10**9)],
)
def test_a_grace_is_brought_into_bounds(grace: float, milliseconds: int) -> None:
    heard = Heard()
    heard.control.stop(grace)
    assert heard.sent() == frame(wire.STOP, struct.pack("<I", milliseconds))


def test_what_is_no_signal_is_dropped() -> None:
    heard = Heard()
    for number in (-1, 0, 65, 1 << 32):
        heard.control.signal(number)
    assert heard.sent() == b""
    heard.control.signal(64)
    assert heard.sent() == frame(wire.SIGNAL, struct.pack("<I", 64))


def test_small_buffers_get_the_same_bytes() -> None:
    heard = Heard()
    heard.control.signal(15)
    room = [bytearray(5), bytearray(1), bytearray(100)]
    assert heard.control.read_into([memoryview(part) for part in room]) == 16
    assert b"".join(room)[:16] == frame(wire.SIGNAL, struct.pack("<I", 15))


def test_a_guest_that_never_reads_is_given_up() -> None:
    heard = Heard()
    for _ in range(wire.MAX_PENDING // wire.HEADER.size + 1):
        heard.control.draining()
    assert "does not read" in str(heard.errors[0])
    assert heard.sent() == b""


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
def test_no_bytes_escape_as_an_exception(data: bytes, cuts: list[int]) -> None:
    heard = Heard()
    heard.feed(HELLO)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        heard.feed(data[start:end])
    assert len(heard.errors) <= 1
