"""What the host says about its clock, and when."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykrun.host import linux
from pykrun.loop import Loop
from pykrun.supervisor import control as wire
from pykrun.supervisor import timesync
from pykrun.supervisor.timesync import ClockWatch, TimePort
from tests.supervisor.test_control import HELLO, Heard


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def read(source: TimePort | wire.Control, *sizes: int) -> bytes:
    room = [memoryview(bytearray(size)) for size in sizes or (4096,)]
    count = source.read_into(room)
    return b"".join(bytes(part) for part in room)[:count]


# ---- when


def test_soon_and_then_every_period(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timesync, "SOON", 0.05)
    monkeypatch.setattr(timesync, "PERIOD", 0.2)
    times: list[float] = []

    def note() -> None:
        times.append(time.monotonic())
        if len(times) == 3:
            loop.stop()

    watch = ClockWatch(loop, note)
    loop.call_later(5, loop.stop)
    began = time.monotonic()
    watch.start()
    loop.run()
    watch.close()
    first, second, third = (time_ - began for time_ in times)
    assert 0.04 < first < second - 0.19 < third - 0.38


def test_nothing_wakes_the_loop_in_between(loop: Loop) -> None:
    watch = ClockWatch(loop, lambda: pytest.fail("too early"))
    watch.start()
    loop.call_later(0.1, loop.stop)
    loop.run()
    watch.close()


def test_it_is_a_timer_that_a_leap_of_the_clock_cancels(loop: Loop) -> None:
    """What a leap does then needs a clock that may be set: tests/boot/test_timesync.py."""
    watch = ClockWatch(loop, lambda: None)
    watch.start()
    about = Path(f"/proc/self/fdinfo/{watch._timer}")
    timer = about.read_text()
    flags = linux.TFD_TIMER_ABSTIME | linux.TFD_TIMER_CANCEL_ON_SET
    assert f"clockid: {time.CLOCK_REALTIME}\n" in timer
    assert int(timer.split("settime flags:")[1].split()[0], 8) == flags
    watch.close()
    assert not about.exists()


# ---- by the port of its own


def test_port_says_nothing_before_it_is_asked() -> None:
    port, woken = TimePort(), []
    port.on_ready = lambda: woken.append(1)
    port.tell()
    assert (read(port), woken) == (b"", [])


def test_port_answers_with_the_time_of_the_moment_when_it_is_read() -> None:
    port, woken = TimePort(), []
    port.on_ready = lambda: woken.append(1)
    assert port.write([memoryview(b"?"), memoryview(b"??")]) == 3
    time.sleep(0.1)
    before = time.time_ns()
    record = read(port)
    assert len(record) == 8
    assert before <= int.from_bytes(record, "little") <= time.time_ns()
    assert read(port) == b""
    assert woken == [1]


def test_port_keeps_no_old_ones() -> None:
    port = TimePort()
    port.write([memoryview(b"?")])
    for _ in range(5):
        port.tell()
    assert read(port, 3, 4) == b""  # no room for a whole one: it waits
    assert len(read(port, 3, 100)) == 8
    assert read(port) == b""


# ---- by the control port


def frames(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        length, kind, _reserved, _process = wire.HEADER.unpack_from(data)
        found.append((kind, data[12 : 12 + length]))
        data = data[12 + length :]
    return found


def test_frame_is_made_when_it_is_taken() -> None:
    heard = Heard()
    heard.control.tell_time()
    assert heard.sent() == b""  # nobody is there
    heard.feed(HELLO)
    heard.control.tell_time()
    heard.control.tell_time()
    time.sleep(0.1)
    heard.control.signal(15)
    before = time.time_ns()
    (welcome, _), (signal, _), (kind, body) = frames(heard.sent())
    assert (welcome, signal, kind) == (wire.WELCOME, wire.SIGNAL, wire.TIME)
    assert before <= struct.unpack("<Q", body)[0] <= time.time_ns()
    assert heard.sent() == b""


@pytest.mark.parametrize("room", range(1, 42))
def test_frame_is_never_cut(room: int) -> None:
    """However little the guest takes at once, the time comes after what was said before, whole."""
    heard = Heard()
    heard.feed(HELLO)
    heard.control.tell_time()
    data, rounds = b"", 0
    while len(data) < 40 and rounds < 100:
        data += read(heard.control, room)
        rounds += 1
        if room < 20 and len(data) == 20:
            assert read(heard.control, room) == b""
            data += read(heard.control, 10, 10)
    assert [(kind, len(body)) for kind, body in frames(data)] == [(wire.WELCOME, 8), (wire.TIME, 8)]
