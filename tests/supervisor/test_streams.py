"""Standard streams as sinks and sources: real pipes, terminals, sockets and files."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import socket
import termios
import threading
import time
from pathlib import Path

import pytest

from pykrun.loop import Loop
from pykrun.ports import NoSink, NoSource
from pykrun.supervisor.socket_port import BufferedSink, SocketPort
from pykrun.supervisor.streams import FdSink, FdSource, write_bounded
from tests.support.processes import as_nobody, in_child


class Watch:
    """A loop and what the streams told."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.broken: list[OSError | None] = []
        self.ends: list[int] = []
        self.count = 0

    def sink(self, fd: int | None) -> FdSink:
        return FdSink(self.loop, fd, on_broken=self.broken.append, on_count=lambda count: setattr(self, "count", count))

    def source(self, fd: int | None) -> FdSource:
        return FdSource(self.loop, fd, on_end=self.ends.append)

    def run_until(self, condition, seconds: float = 60) -> None:  # type: ignore[no-untyped-def]
        def check() -> None:
            if condition():
                self.loop.stop()
            else:
                self.loop.call_later(0.005, check)

        guard = self.loop.call_later(seconds, self.loop.stop)
        check()
        if not condition():
            self.loop.run()
        guard.cancel()
        assert condition()


@pytest.fixture
def watch():  # type: ignore[no-untyped-def]
    watch = Watch()
    yield watch
    watch.loop.close()


def views(*parts: bytes) -> list[memoryview]:
    return [memoryview(part) for part in parts]


def feed(watch: Watch, sink: FdSink, data: bytes) -> None:
    """Offer all of `data` the way a device does: what is not taken again when the sink is ready."""
    rest = memoryview(data)

    def offer() -> None:
        nonlocal rest
        rest = rest[sink.write([rest[:1000], rest[1000:]]) :]

    sink.on_ready = offer
    offer()
    watch.run_until(lambda: not rest)


@pytest.mark.parametrize("kind", ["pipe", "socket", "file"])
def test_a_megabyte_arrives_as_it_was_through_a_slow_reader(watch: Watch, kind: str, tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    if kind == "file":
        target = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
        feed(watch, watch.sink(target), data)
        assert os.pread(target, len(data) + 1, 0) == data
        os.close(target)
        return
    ends = os.pipe() if kind == "pipe" else tuple(end.detach() for end in socket.socketpair())
    got = bytearray()

    def read_slowly() -> None:
        while piece := os.read(ends[0], 10007):
            got.extend(piece)
            select.select([], [], [], 0.0002)

    reader = threading.Thread(daemon=True, target=read_slowly)
    reader.start()
    sink = watch.sink(ends[1])
    flags = os.get_blocking(ends[1])
    feed(watch, sink, data)
    assert os.get_blocking(ends[1]) is flags
    assert sink.count == watch.count == len(data)
    sink.close()
    os.close(ends[1])
    reader.join()
    os.close(ends[0])
    assert got == data


def test_a_pipe_that_cannot_be_opened_anew_is_written_without_blocking(watch: Watch, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    import pykrun.supervisor.streams as module

    monkeypatch.setattr(module, "_own_description", lambda fd, flags: None)
    read, write = os.pipe()
    sink = watch.sink(write)
    data = os.urandom(300_000)
    taken = sink.write(views(data))
    assert 0 < taken < len(data)
    assert sink.write(views(data[taken:])) == 0
    got = bytearray()
    threading.Thread(
        target=lambda: [got.extend(os.read(read, 5000)) for _ in range(200) if len(got) < len(data)]
    ).start()
    feed(watch, sink, data[taken:])
    watch.run_until(lambda: len(got) == len(data))
    assert got == data
    sink.close()
    os.close(read)
    os.close(write)


def test_a_reader_that_leaves_is_told_once_and_the_rest_is_dropped(watch: Watch) -> None:
    read, write = os.pipe()
    sink = watch.sink(write)
    os.close(read)
    assert sink.write(views(b"x" * 10, b"y" * 5)) == 15
    assert sink.write(views(b"z")) == 1
    assert len(watch.broken) == 1
    assert watch.count == 16
    os.close(write)


def test_a_stream_that_was_closed_takes_everything(watch: Watch) -> None:
    sink = watch.sink(None)
    assert sink.broken
    assert sink.write(views(b"abc")) == 3


def test_a_terminal_gets_its_bytes(watch: Watch) -> None:
    master, slave = pty.openpty()
    sink = watch.sink(slave)
    assert sink.write(views(b"hello\n")) == 6
    assert os.read(master, 100) == b"hello\r\n"
    assert os.get_blocking(slave)
    sink.close()
    os.close(master)
    os.close(slave)


LATE = 5.0


def drain_later(master: int) -> threading.Timer:
    """After some seconds let a write go on that sleeps, so that a test fails and does not hang."""

    def drain() -> None:
        while True:
            os.read(master, 65536)

    timer = threading.Timer(LATE, drain)
    timer.daemon = True
    timer.start()
    return timer


@pytest.mark.root
@pytest.mark.parametrize("controlling", [False, True])
def test_a_terminal_of_somebody_else_whose_reader_stops_holds_nothing_up(controlling: bool) -> None:
    """As after su: it cannot be opened anew by its own name, but as /dev/tty if it is the controlling one."""
    master, slave = pty.openpty()
    data = memoryview(b"line\n" * 40_000)

    def check() -> None:
        watch = Watch()
        sink = watch.sink(slave)
        began, late = time.monotonic(), drain_later(master)
        taken = sink.write([data])
        assert time.monotonic() - began < LATE, "it slept"
        late.cancel()
        assert 0 < taken < len(data)
        assert os.get_blocking(slave)
        assert (sink._own is not None) is controlling
        got = bytearray()

        def read() -> None:
            while len(got) < len(data) + 40_000:  # each line's end is two bytes
                got.extend(os.read(master, 65536))

        reader = threading.Thread(daemon=True, target=read)
        reader.start()
        feed(watch, sink, bytes(data[taken:]))
        reader.join()
        assert got == bytes(data).replace(b"\n", b"\r\n")
        assert os.get_blocking(slave)
        sink.close()
        began = time.monotonic()
        drain_later(master)
        write_bounded(slave, bytes(data), 0.2)
        assert time.monotonic() - began < LATE, "it slept"

    def as_somebody_else() -> None:
        os.setsid()
        if controlling:
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        as_nobody(check)

    in_child(as_somebody_else)
    os.close(master)
    os.close(slave)


def test_the_other_end_of_a_terminal_is_written_itself(watch: Watch) -> None:
    """Opened anew it would be another terminal."""
    master, slave = pty.openpty()
    sink = watch.sink(master)
    assert sink.write(views(b"typed\n")) == 6
    assert select.select([slave], [], [], 5)[0]
    assert os.read(slave, 100) == b"typed\n"
    assert os.get_blocking(master)
    sink.close()
    os.close(master)
    os.close(slave)


def read_all(watch: Watch, source: FdSource, size: int = 777) -> bytes:
    got = bytearray()

    def take() -> None:
        while True:
            room = [bytearray(size), bytearray(5)]
            count = source.read_into([memoryview(part) for part in room])
            if not count:
                return
            got.extend(b"".join(room)[:count])

    source.on_ready = take
    take()
    watch.run_until(lambda: source.ended)
    return bytes(got)


@pytest.mark.parametrize("kind", ["pipe", "socket", "file", "null", "closed", "directory"])
def test_sources_of_every_kind(watch: Watch, kind: str, tmp_path: Path) -> None:
    data = os.urandom(200_000)
    writer = None
    fd: int | None = None
    if kind == "file":
        (tmp_path / "in").write_bytes(data)
        fd = os.open(tmp_path / "in", os.O_RDONLY)
    elif kind == "null":
        fd = os.open("/dev/null", os.O_RDONLY)
    elif kind == "directory":
        fd = os.open(tmp_path, os.O_RDONLY)
    elif kind != "closed":
        fd, other = os.pipe() if kind == "pipe" else tuple(end.detach() for end in socket.socketpair())
        writer = threading.Thread(daemon=True, target=lambda: (_write_all(other, data), os.close(other)))
        writer.start()
    expected = data if kind in ("pipe", "socket", "file") else b""
    assert read_all(watch, watch.source(fd)) == expected
    assert watch.ends == [len(expected)]
    if writer is not None:
        writer.join()
    if fd is not None:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def test_an_end_may_have_a_mark(watch: Watch) -> None:
    read, write = os.pipe()
    os.write(write, b"line")
    os.close(write)
    source = FdSource(watch.loop, read, on_end=watch.ends.append, end_mark=b"\x04")
    assert read_all(watch, source) == b"line\x04"
    assert watch.ends == [5]
    os.close(read)


def test_a_source_waits_without_spinning(watch: Watch) -> None:
    read, write = os.pipe()
    source = watch.source(read)
    ready: list[int] = []
    source.on_ready = lambda: ready.append(1)
    assert source.read_into([memoryview(bytearray(10))]) == 0
    assert source.read_into([memoryview(bytearray(10))]) == 0
    os.write(write, b"x")
    watch.run_until(lambda: bool(ready))
    room = bytearray(10)
    assert source.read_into([memoryview(room)]) == 1
    assert room[0] == ord("x")
    assert ready == [1]
    source.close()
    assert watch.ends == []
    os.close(read)
    os.close(write)


def test_a_socket_port_moves_both_ways_and_ends(watch: Watch) -> None:
    ours, engine = socket.socketpair()
    out_read, out_write = os.pipe()
    in_read, in_write = os.pipe()
    data, answer = os.urandom(500_000), os.urandom(400_000)
    ended: list[int] = []
    sink, source = watch.sink(out_write), watch.source(in_read)
    port = SocketPort(watch.loop, ours, sink, source, on_end=lambda: ended.append(1))
    got, back = bytearray(), bytearray()

    def reader(fd: int, target: bytearray, size: int) -> None:
        while len(target) < size:
            target.extend(os.read(fd, 3001))

    threads = [
        threading.Thread(daemon=True, target=_write_all, args=(in_write, data)),
        threading.Thread(daemon=True, target=lambda: engine.sendall(answer)),
        threading.Thread(daemon=True, target=reader, args=(engine.fileno(), got, len(data))),
        threading.Thread(daemon=True, target=reader, args=(out_read, back, len(answer))),
    ]
    for thread in threads:
        thread.start()
    watch.run_until(lambda: len(got) == len(data) and len(back) == len(answer))
    for thread in threads:
        thread.join()
    assert (bytes(got), bytes(back)) == (data, answer)
    engine.sendall(b"last")
    engine.close()
    watch.run_until(lambda: port.ended)
    assert ended == [1]
    assert os.read(out_read, 100) == b"last"
    for stream in (sink, source):
        stream.close()
    for fd in (out_read, out_write, in_read, in_write):
        os.close(fd)


def test_a_socket_port_with_nothing_to_say(watch: Watch) -> None:
    ours, engine = socket.socketpair()
    port = SocketPort(watch.loop, ours, NoSink(), NoSource())
    engine.sendall(b"dropped")
    engine.close()
    watch.run_until(lambda: port.ended)


def test_last_words_do_not_wait_for_a_reader_that_never_reads() -> None:
    read, write = os.pipe()
    began = time.monotonic()
    write_bounded(write, b"x" * 1_000_000, 0.2)
    assert time.monotonic() - began < 5
    assert len(os.read(read, 1 << 20)) >= 4096
    os.close(read)
    write_bounded(write, b"nobody", 0.2)
    os.close(write)


def test_last_words_are_appended_to_a_file(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"before ")
    write_bounded(fd, b"after", 1)
    assert os.pread(fd, 100, 0) == b"before after"
    os.close(fd)


def test_what_cannot_wait_is_kept_for_a_slow_sink(watch: Watch) -> None:
    read, write = os.pipe()
    sink, emptied = watch.sink(write), []
    kept = BufferedSink(sink, 1 << 20, lambda: emptied.append(1))
    data = os.urandom(600_000)
    assert kept.write(views(data[:1000], data[1000:])) == len(data)
    assert not kept.empty
    assert kept.write(views(bytes(1 << 20))) == (1 << 20) - (len(data) - sink.count)
    got = bytearray()
    thread = threading.Thread(daemon=True, target=lambda: [got.extend(os.read(read, 65536)) for _ in range(200)])
    thread.start()
    watch.run_until(lambda: bool(emptied))
    sink.close()
    os.close(write)
    watch.run_until(lambda: len(got) > len(data))
    assert got[: len(data)] == data
    thread.join()
    os.close(read)
