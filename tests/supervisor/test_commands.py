"""The host's side of further commands, against every kind of guest."""

from __future__ import annotations

import itertools
import os
import select
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykrun.errors import ControlError, UsageError
from pykrun.loop import Loop
from pykrun.supervisor import commands as ours
from pykrun.supervisor import control as wire
from pykrun.supervisor.commands import Command, Commands
from pykrun.supervisor.control import Control, Events, Exit, make_frame
from pykrun.supervisor.outlet import WINDOW

HELLO = make_frame(wire.HELLO, struct.pack("<HHI", 1, 0, wire.FURTHER_COMMANDS))
SPEC = b'{"args": ["/bin/true"]}'


class Guest:
    """Commands, and what a guest sees and says of them."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.errors: list[ControlError] = []
        self.started: list[tuple[int, int]] = []
        self.ended: list[tuple[int, Exit]] = []
        self.why = ""
        self._numbers = itertools.count(1)
        self._received = bytearray()
        nothing: Any = lambda *values: None  # noqa: E731
        self.control = Control(Events(*[nothing] * 7), self.errors.append)
        self.commands = Commands(self.loop, self.control, lambda: self.why)
        self.say(HELLO)
        self.hear()

    def start(self, *streams: int | None, spec: bytes = SPEC) -> Command:
        number = next(self._numbers)
        three = (*streams, None, None, None)[:3]
        return self.commands.start(
            spec,
            (three[0], three[1], three[2]),
            on_started=lambda pid: self.started.append((number, pid)),
            on_end=lambda how: self.ended.append((number, how)),
        )

    def say(self, *frames: bytes) -> None:
        data = b"".join(frames)
        assert self.control.write([memoryview(data)]) == len(data)

    def say_started(self, number: int = 1) -> None:
        self.say(make_frame(wire.STARTED, struct.pack("<i", 7), number))

    def output(self, data: bytes, number: int = 1, stream: int = 1) -> None:
        for at in range(0, len(data), 60_000):
            self.say(make_frame(wire.OUTPUT, bytes([stream]) + data[at : at + 60_000], number))

    def exit(self, code: int = 0, number: int = 1, reason: bytes = b"") -> None:
        self.say(make_frame(wire.EXIT, struct.pack("<ii", code, 0) + reason, number))

    def hear(self, room: int = 1 << 20) -> list[tuple[int, int, bytes]]:
        """Take what the host has to say, `room` bytes at a time: type, process and body of whole frames."""
        while True:
            part = bytearray(room)
            count = self.control.read_into([memoryview(part)])
            if not count:
                break
            self._received += part[:count]
        frames = []
        while len(self._received) >= wire.HEADER.size:
            length, kind, reserved, number = wire.HEADER.unpack_from(self._received)
            assert reserved == 0
            frames.append((kind, number, bytes(self._received[12 : 12 + length])))
            del self._received[: 12 + length]
        return frames

    def turn(self, seconds: float = 0.02) -> None:
        """Let the loop run for a moment."""
        self.loop.call_later(seconds, self.loop.stop)
        self.loop.run()

    def close(self) -> None:
        self.commands.close()
        self.loop.close()


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    before = os.listdir("/proc/self/fd")
    yield guest
    guest.commands.close()
    assert len(os.listdir("/proc/self/fd")) <= len(before)
    guest.loop.close()


def pipe_for(data: bytes) -> int:
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


def kinds(frames: list[tuple[int, int, bytes]]) -> list[int]:
    return [kind for kind, _number, _body in frames]


def test_a_whole_conversation(guest: Guest) -> None:
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    command = guest.start(pipe_for(b"input"), out_end, err_end)
    command.resize(24, 80)
    assert guest.hear() == [
        (wire.EXEC, 1, SPEC),
        (wire.RESIZE, 1, struct.pack("<HHHH", 24, 80, 0, 0)),
        (wire.INPUT, 1, b"input"),
        (wire.STDIN_END, 1, struct.pack("<Q", 5)),
    ]
    guest.say_started()
    command.signal(15)
    assert guest.hear() == [(wire.SIGNAL, 1, struct.pack("<I", 15))]
    guest.output(b"some ")
    guest.output(b"errors", stream=2)
    guest.output(b"output")
    guest.exit(300, reason="warum: é\x1b".encode())
    assert guest.started == [(1, 7)]
    assert guest.ended == [(1, Exit(300 & 255, 0, "warum: é "))]
    assert os.read(out, 100) == b"some output"
    assert os.read(out, 100) == b"", "our end is closed"
    assert os.read(err, 100) == b"errors"
    os.close(out)
    os.close(err)
    command.signal(9)
    command.abandon()
    assert guest.hear() == []
    assert guest.errors == []


def test_streams_that_are_closed(guest: Guest) -> None:
    """The guest is told with the description."""
    guest.start(None, None, None)
    assert guest.hear() == [
        (wire.EXEC, 1, SPEC),
        (wire.CLOSE_OUTPUT, 1, b"\1"),
        (wire.CLOSE_OUTPUT, 1, b"\2"),
        (wire.STDIN_END, 1, bytes(8)),
    ]


def test_description_in_pieces_and_turns(guest: Guest) -> None:
    """A long one does not hold up the others."""
    long = b" " * 100_000 + SPEC
    guest.start(spec=long)
    guest.start()
    frames = guest.hear(room=4096)
    assert b"".join(body for kind, number, body in frames if number == 1 and kind in (wire.SPEC, wire.EXEC)) == long
    assert kinds([frame for frame in frames if frame[1] == 1])[:4] == [wire.SPEC] * 3 + [wire.EXEC]
    assert frames[1][:2] == (wire.EXEC, 2)


def test_refusals(guest: Guest) -> None:
    guest.why = "not now"
    with pytest.raises(UsageError, match="not now"):
        guest.start()
    guest.why = ""
    with pytest.raises(UsageError, match="at most"):
        guest.start(spec=bytes(ours.LARGEST + 1))
    assert guest.hear() == []


@pytest.mark.parametrize(
    ("features", "given", "said"),
    [
        (1, {"started": True}, ""),
        (1, {}, "not started"),
        (0, {"started": True}, "older"),
        (1, {"started": True, "over": True}, "has ended"),
        (1, {"pid1": True}, "PID 1 itself"),
    ],
)
def test_why_not(features: int, given: dict[str, bool], said: str) -> None:
    guest = Guest()
    guest.control.features = features
    why = ours.why_not(guest.control, **{"over": False, "started": False, "pid1": False, **given})
    assert said in why
    assert bool(why) == bool(said)
    guest.close()


def test_slow_reader_has_no_more_than_the_window(guest: Guest) -> None:
    """The pipe takes its part, the rest is kept; credit comes back as it is read, and the end comes last."""
    out, out_end = os.pipe()
    guest.start(None, out_end)
    guest.hear()
    guest.say_started()
    data = os.urandom(WINDOW)
    guest.output(data)
    guest.output(b"", stream=1)
    assert guest.errors == []
    received = b""
    credit = 0
    while len(received) < WINDOW:
        received += os.read(out, 4096)
        guest.turn(0.001)
        credit += sum(struct.unpack("<BI", body)[1] for kind, _number, body in guest.hear() if kind == wire.CREDIT)
    assert received == data
    assert 0 < credit <= WINDOW
    more = os.urandom(credit)
    guest.output(more)
    guest.exit(3)
    assert guest.ended == []
    while len(received) < len(data) + credit:
        received += os.read(out, 65536)
        guest.turn(0.001)
    assert received == data + more
    assert guest.ended == [(1, Exit(3, 0, ""))]
    os.close(out)


def test_input_goes_as_far_as_there_is_credit(guest: Guest) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    guest.start(reader)
    sent = os.write(writer, bytes(1 << 20))
    heard = sum(len(body) for kind, _number, body in guest.hear() if kind == wire.INPUT)
    assert heard == min(sent, ours.WINDOW)
    guest.say_started()
    sent += os.write(writer, bytes(50_000))
    guest.turn()
    assert wire.INPUT not in kinds(guest.hear())
    guest.say(make_frame(wire.INPUT_CREDIT, struct.pack("<I", 1000), 1))
    assert [(kind, len(body)) for kind, _number, body in guest.hear()] == [(wire.INPUT, 1000)]
    guest.say(make_frame(wire.CLOSE, b"\0", 1))
    assert not select.select([], [writer], [], 0)[1] or _is_broken(writer)
    os.close(writer)


def _is_broken(writer: int) -> bool:
    try:
        os.write(writer, b"x")
    except BrokenPipeError:
        return True
    return False


def test_reader_that_is_gone(guest: Guest) -> None:
    out, out_end = os.pipe()
    guest.start(None, out_end)
    guest.hear()
    guest.say_started()
    os.close(out)
    guest.output(b"x")
    assert guest.hear() == [(wire.CLOSE_OUTPUT, 1, b"\1")]
    guest.output(b"still under way")
    guest.exit()
    assert guest.ended == [(1, Exit(0, 0, ""))]


def test_abandoned(guest: Guest) -> None:
    """HUP, nothing to read or write, and KILL when that does not help."""
    (reader, writer), (out, out_end) = os.pipe(), os.pipe()
    command = guest.start(reader, out_end)
    guest.hear()
    guest.say_started()
    guest.output(bytes(WINDOW))
    command.abandon()
    command.abandon()
    heard = guest.hear()
    assert heard[0] == (wire.SIGNAL, 1, struct.pack("<I", 1))
    assert kinds(heard[1:]) == [wire.STDIN_END, wire.CLOSE_OUTPUT, wire.CLOSE_OUTPUT]
    guest.turn(ours.GRACE + 0.1)
    assert guest.hear() == [(wire.SIGNAL, 1, struct.pack("<I", 9))]
    guest.exit(137)
    assert len(guest.ended) == 1
    for fd in (writer, out):
        os.close(fd)


def test_abandoned_before_it_was_described(guest: Guest) -> None:
    command = guest.start()
    command.abandon()
    frames = guest.hear()
    assert kinds(frames)[0] == wire.EXEC
    assert wire.SIGNAL in kinds(frames)
    guest.exit(129)
    assert guest.ended[0][1].code == 129


def test_end_of_the_vm(guest: Guest) -> None:
    """One that had ended has its code as soon as its reader has the rest; the others hear of the end at once."""
    (slow, slow_end), (never, never_end) = os.pipe(), os.pipe()
    for end in (slow_end, never_end, None):
        guest.start(None, end)
    guest.hear()
    for number in (1, 2, 3):
        guest.say_started(number)
    for number in (1, 2):
        guest.output(bytes(100_000), number)
        guest.exit(number, number)
    drained: list[int] = []
    guest.commands.vm_ended(lambda: drained.append(1))
    assert guest.ended == [(3, ours.CUT_OFF)]
    assert not guest.commands.drained
    received = 0
    while received < 100_000:
        received += len(os.read(slow, 65536))
        guest.turn(0.001)
    assert guest.ended[1:] == [(1, Exit(1, 0, ""))]
    guest.turn(ours.PATIENCE + 0.1)
    assert guest.ended[2:] == [(2, Exit(2, 0, ""))]
    assert drained == [1]
    assert guest.commands.drained
    os.close(slow)
    os.close(never)


def test_end_without_a_loop(guest: Guest) -> None:
    guest.start()
    guest.hear()
    guest.commands.close()
    guest.commands.close()
    assert guest.ended == [(1, ours.CUT_OFF)]


START = make_frame(wire.STARTED, struct.pack("<i", 7), 1)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (make_frame(wire.STARTED, struct.pack("<i", 7), 2), "process 2, which does not run"),
        (make_frame(wire.OUTPUT, b"\1x", 1), "before process 1 has started"),
        (START + START, "started twice"),
        (make_frame(wire.STARTED, struct.pack("<i", -1), 1), "started twice, or as -1"),
        (START + make_frame(wire.OUTPUT, b"", 1), "at least 1"),
        (START + make_frame(wire.OUTPUT, b"\0x", 1), "to stream 0"),
        (START + make_frame(wire.OUTPUT, b"\3x", 1), "to stream 3"),
        (START + make_frame(wire.OUTPUT, b"\1" + bytes(60_000), 1) * 5, "beyond its credit"),
        (START + make_frame(wire.INPUT_CREDIT, b"\xff\xff\xff\xff", 1), "credit of"),
        (START + make_frame(wire.EXIT, bytes(7), 1), "at least 8"),
        (START + make_frame(wire.EXIT, bytes(8), 1) * 2, "does not run"),
        (START + make_frame(wire.COUNTS, bytes(16), 1), "unknown"),
        (START + make_frame(wire.LOG, b"\1x", 1), "unknown"),
        (START + make_frame(wire.HELLO, bytes(8), 1), "unknown"),
        (make_frame(wire.OUTPUT, b"\1x"), "unknown"),
        (make_frame(wire.INPUT_CREDIT, bytes(4)), "unknown"),
    ],
)
def test_guests_that_break_the_protocol(guest: Guest, frames: bytes, said: str) -> None:
    guest.start()
    guest.hear()
    guest.say(frames)
    assert len(guest.errors) == 1
    assert said in str(guest.errors[0])


def test_command_is_none_before_the_guest_has_its_description(guest: Guest) -> None:
    guest.start()
    guest.say_started()
    assert "does not run" in str(guest.errors[0])


FRAMES = st.builds(
    make_frame,
    st.sampled_from([wire.STARTED, wire.EXIT, wire.CLOSE, wire.OUTPUT, wire.INPUT_CREDIT, wire.LOG, 0x213, 0x8001]),
    st.one_of(
        st.binary(max_size=12),
        st.builds(lambda head, size: head + bytes(size), st.binary(max_size=9), st.integers(0, 65_000)),
    ),
    st.integers(0, 4),
)


@given(st.lists(FRAMES, max_size=20), st.integers(1, 5000))
def test_no_frames_escape_as_an_exception(frames: list[bytes], cut: int) -> None:
    """Whatever the guest says: at most one error, at most one end for each, bounded memory, nothing left open."""
    before = len(os.listdir("/proc/self/fd"))
    guest = Guest()
    reader, writer = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    for streams in ((pipe_for(b"input"), writer), (os.dup(null), os.dup(null), os.dup(null)), (None, os.dup(null))):
        guest.start(*streams)
    guest.hear()
    data = b"".join(frames)
    for at in range(0, len(data), cut):
        guest.say(data[at : at + cut])
        guest.hear()
    assert len(guest.errors) <= 1
    guest.close()
    assert sorted(number for number, _how in guest.ended) == [1, 2, 3]
    os.close(reader)
    os.close(null)
    assert len(os.listdir("/proc/self/fd")) == before


def test_abandoned_by_a_guest_that_never_ends_it(guest: Guest) -> None:
    """Its readers hear of that at once, and its descriptors are not kept."""
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    command = guest.start(pipe_for(b""), out_end, err_end)
    guest.hear()
    guest.say_started()
    command.abandon()
    assert (os.read(out, 1), os.read(err, 1)) == (b"", b"")
    os.close(out)
    os.close(err)
    guest.output(b"late")
    guest.exit()
    assert [number for number, _how in guest.ended] == [1]
