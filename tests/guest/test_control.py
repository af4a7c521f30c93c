"""The control port's frames as bytes."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krun_init import control
from krun_init.control import Control, frames
from krun_init.errors import Ending, ProtocolError
from krun_init.loop import Loop
from tests.guest.machine import frame

KINDS = sorted(control.BODIES)


def process_of(kind: int) -> int:
    """A process that such a frame may be for."""
    return 3 if kind >= control.SPEC else 0


@given(
    st.lists(st.tuples(st.sampled_from([*KINDS, 0x8000, 0xFFFF]), st.binary(max_size=20)), max_size=6),
    st.lists(st.integers(1, 30), max_size=50),
)
def test_frames_however_they_are_cut(sent: list[tuple[int, bytes]], cuts: list[int]) -> None:
    expected = []
    stream = b""
    for kind, extra in sent:
        fields = control.BODIES.get(kind)
        body = bytes(fields.size) + extra if fields is not None else extra
        stream += frame(kind, body, process_of(kind) if fields is not None else 7)
        if fields is not None:
            values = (body,) if kind in control.BYTES else fields.unpack(bytes(fields.size))
            expected.append((kind, process_of(kind), values))
    received, found = bytearray(), []
    for size in [*cuts, len(stream)]:
        received += stream[:size]
        stream = stream[size:]
        found += list(frames(received))
    assert found == expected
    assert received == b""


@given(st.binary(max_size=80))
def test_any_bytes_are_frames_or_an_error(data: bytes) -> None:
    received = bytearray(data)
    try:
        for kind, process, values in frames(received):
            assert kind in control.BODIES
            assert (kind < control.SPEC) or process
            assert all(isinstance(value, bytes if kind in control.BYTES else int) for value in values)
    except ProtocolError:
        return
    assert len(received) < 12 or struct.unpack_from("<I", received)[0] > len(received) - 12


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack("<IHHI", control.MAX_BODY + 1, control.ACK, 0, 0),
        struct.pack("<IHHI", 0, control.ACK, 1, 0),
        struct.pack("<IHHI", 0, control.ACK, 0, 1),
        frame(control.STOP, bytes(4), 1),
        frame(control.EXEC, b"{}"),
        frame(control.INPUT, b"x"),
        frame(control.CREDIT, bytes(4), 1),
        frame(0x00),
        frame(0x7FFF),
        frame(control.HELLO, bytes(8)),
        frame(control.STOP, bytes(3)),
        frame(control.RESIZE, bytes(7)),
    ],
)
def test_bad_frames(bad: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(frames(bytearray(frame(control.ACK) + bad)))


@pytest.fixture
def pair() -> object:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    yield ours, theirs
    ours.close()


def test_what_the_guest_says(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    port = Control(theirs.detach())
    port.started(7)
    port.counts(1 << 40, 2)
    port.close_input()
    assert port.log(1, "línea")
    ours.sendall(frame(control.ACK))
    port.finish(Ending(139, 11, "why"))
    port.close()
    expected = [
        frame(0x01, struct.pack("<HHI", 1, 0, 1)),
        frame(0x02, struct.pack("<i", 7)),
        frame(0x03, struct.pack("<QQ", 1 << 40, 2)),
        frame(0x06, b"\0"),
        frame(0x05, b"\1" + "línea".encode()),
        frame(0x04, struct.pack("<ii", 139, 11) + b"why"),
        frame(0x07),
    ]
    assert ours.recv(4096) == b"".join(expected)
    assert not port.log(1, "after")


def test_long_texts_are_cut_to_a_frame(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    port = Control(theirs.detach())
    port.log(0, "x" * 100_000)
    port.close()
    ours.recv(20)
    assert struct.unpack("<IHHI", ours.recv(12))[:2] == (control.MAX_BODY, control.LOG)


def test_host_that_reads_nothing_costs_no_memory(pair: tuple[socket.socket, socket.socket]) -> None:
    _ours, theirs = pair
    port = Control(theirs.detach())
    for _ in range(400):
        assert port.log(2, "x" * 60_000)
    assert len(port._pending) < 2 << 20
    port.close()


def test_frames_that_wait_go_out_when_there_is_room(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    port = Control(theirs.detach())
    for _ in range(8):
        port.log(2, "x" * 60_000)
    loop = Loop()
    port.attach(loop)
    received = b""
    while len(received) < 20 + 8 * 60_013:
        received += ours.recv(1 << 20)
        if port._pending:
            loop.turn()
    port.close()
    assert len(received) == 20 + 8 * 60_013


def test_host_that_goes_away_closes_the_port(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    port = Control(theirs.detach())
    loop = Loop()
    port.attach(loop)
    ours.sendall(frame(control.WELCOME, bytes(8)))
    loop.turn()
    ours.close()
    for _ in range(3):
        if port.fd is not None:
            loop.turn()
    assert port.fd is None
