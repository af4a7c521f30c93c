"""The relay: moves the workload's standard streams between pipes and virtio ports.

A port can be opened once only and never gives EPIPE, so the workload gets pipes: programs of other users may open
/dev/stderr, `yes | head` ends, and what was written is counted, so that nothing is lost when the machine goes down.
"""

from __future__ import annotations

import fcntl
import posix

from krun_init.loop import ERR, HUP, IN, OUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from krun_init.loop import Loop
    from krun_init.user import User

_CHUNK = 65536
_PAGE = 4096
_PAGES = 16
_BIG_PIPE = 1 << 20
_BUSY = 4 * _CHUNK
"""So many bytes make a stream worth a bigger pipe and splice(2)."""

_SPLICE_MOVE_NONBLOCK = 1 | 2  # fcntl.h
_F_SETPIPE_SZ = 1031
_FIONREAD = 0x541B

_UNCONNECTED = 0.002
_GIVE_UP_AFTER = 5000
"""Looks at a port, 2 ms apart, that the host does not open before the stream counts as closed."""


def make_pipe(user: User | None) -> tuple[int, int]:
    """A pipe whose ends belong to the workload's user, so that it can open /dev/stdout again."""
    ends = posix.pipe2(posix.O_CLOEXEC)
    if user is not None and (user.uid or user.gid):
        for end in ends:
            posix.fchown(end, user.uid, user.gid)
    return ends


class Output:
    """One of the workload's output streams: from a pipe into a port.

    :param pipe: the pipe's end to read; taken over, and set non-blocking.
    :param port: the port, non-blocking; taken over.
    :param may_splice: whether splice(2) into the port is safe, asked when much data comes.
    """

    def __init__(self, loop: Loop, pipe: int, port: int, may_splice: Callable[[], bool]) -> None:
        self.count = 0
        self._loop = loop
        self._pipe = pipe
        self._port = port
        self._may_splice = may_splice
        self._splice: bool | None = None
        self._held = b""  # read from the pipe, not yet taken by the port
        self._left = -1  # how many bytes of the pipe still count, once the workload has ended
        self._refused = 0
        posix.set_blocking(pipe, False)
        loop.add(pipe, IN, self._on_pipe)

    @property
    def closed(self) -> bool:
        """Whether everything that will ever go into the port is in it."""
        return self._pipe < 0 and not self._held

    def close_after_drain(self) -> None:
        """The workload has ended: move what the pipe holds now, then close it, whoever else may hold it open."""
        if self._pipe < 0:
            return
        self._left = waiting(self._pipe)
        if not self._left:
            self._close_pipe()

    def close(self) -> None:
        """Nobody reads the port any more: the workload gets EPIPE."""
        self._held = b""
        self._loop.remove(self._port)
        self._loop.forget(f"port {self._port}")
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            self._loop.remove(self._pipe)
            posix.close(self._pipe)
            self._pipe = -1

    def _on_pipe(self, events: int) -> None:
        try:
            if not events & IN:
                self._close_pipe()
            elif self._splice:
                self._move()
            else:
                self._copy()
        except BlockingIOError:
            self._wait_for_port()
        except OSError:
            self.close()

    def _on_port(self, events: int) -> None:
        self._loop.remove(self._port)
        if not events & OUT:
            self._port_refused()
            return
        self._refused = 0
        try:
            self._write_held()
        except BlockingIOError:
            self._wait_for_port()
        except OSError:
            self.close()
        else:
            self._listen()

    def _port_refused(self) -> None:
        """The host has not opened its end (yet): look again soon, and not for ever."""
        self._refused += 1
        if self._refused > _GIVE_UP_AFTER:
            self.close()
        else:
            self._loop.after(f"port {self._port}", _UNCONNECTED, self._wait_for_port)

    def _wait_for_port(self) -> None:
        if self._pipe >= 0:
            self._loop.remove(self._pipe)
        self._loop.add(self._port, OUT, self._on_port)

    def _listen(self) -> None:
        if self._pipe >= 0:
            self._loop.add(self._pipe, IN, self._on_pipe)

    def _copy(self) -> None:
        data = posix.read(self._pipe, _CHUNK if self._left < 0 else min(_CHUNK, self._left))
        if not data:
            self._close_pipe()
            return
        self._held = data
        self._taken(len(data))
        self._write_held()
        if self._splice is None and self.count >= _BUSY:
            self._grow()

    def _write_held(self) -> None:
        while self._held:
            written = posix.write(self._port, self._held)
            self.count += written
            self._held = self._held[written:]

    def _move(self) -> None:
        most = _BIG_PIPE if self._left < 0 else self._left
        moved = posix.splice(self._pipe, self._port, most, flags=_SPLICE_MOVE_NONBLOCK)
        if moved:
            self.count += moved
            self._taken(moved)
        else:
            self._copy()

    def _taken(self, size: int) -> None:
        if self._left >= 0:
            self._left -= size
            if self._left <= 0:
                self._close_pipe()

    def _grow(self) -> None:
        self._splice = self._may_splice()
        grow(self._pipe)


class Input:
    """The workload's standard input: from a port into a pipe.

    :param on_closed: called when the workload does not read any more.
    """

    def __init__(self, loop: Loop, port: int, pipe: int, on_closed: Callable[[], None]) -> None:
        self.count = 0
        self._loop = loop
        self._port = port
        self._pipe = pipe
        self._on_closed = on_closed
        self._end = -1  # the host's count, once it has said that there is no more
        self._held = b""
        self._full = 0  # whole pages in a row: worth a bigger buffer
        self._buffer: list[bytearray] = []
        self._connected = False
        posix.set_blocking(pipe, False)
        loop.add(port, IN, self._on_port)
        loop.add(pipe, 0, self._on_pipe)

    def end(self, count: int) -> None:
        """The host's input ended after so many bytes."""
        self._end = count
        self._close_at_end()

    def close(self) -> None:
        """The workload has its end of file; what the host sends from now on is dropped."""
        self._held = b""
        if self._pipe >= 0:
            self._loop.remove(self._pipe)
            posix.close(self._pipe)
            self._pipe = -1

    def _close_at_end(self) -> None:
        if 0 <= self._end <= self.count and not self._held:
            self._loop.remove(self._port)
            self.close()

    def _on_port(self, events: int) -> None:
        if events & IN:
            try:
                data = self._read()
            except BlockingIOError:
                return
            except OSError:
                self._stop()
                return
            if data:
                self._connected = True
                self.count += len(data)
                if self._pipe >= 0:
                    self._held = data
                    self._write()
                self._close_at_end()
                return
        self._hung_up()

    def _hung_up(self) -> None:
        """No host at the other end: after it was there that is the end, before it a matter of waiting."""
        self._loop.remove(self._port)
        if self._connected:
            self._stop()
        else:
            self._loop.after("stdin", _UNCONNECTED, self._listen)

    def _stop(self) -> None:
        self._loop.remove(self._port)
        self.close()

    def _listen(self) -> None:
        self._loop.add(self._port, IN, self._on_port)

    def _read(self) -> bytes:
        """The driver gives at most a page at a time, so a bulk read is one of many pages."""
        if self._full < 2:
            data = posix.read(self._port, _PAGE)
            self._full = self._full + 1 if len(data) == _PAGE else 0
            return data
        if not self._buffer:
            self._buffer = [bytearray(_PAGE) for _ in range(_PAGES)]
            grow(self._pipe)
        size = posix.readv(self._port, self._buffer)
        return b"".join(self._buffer)[:size]

    def _write(self) -> None:
        try:
            while self._held:
                self._held = self._held[posix.write(self._pipe, self._held) :]
        except BlockingIOError:
            self._loop.remove(self._port)
            self._loop.add(self._pipe, OUT, self._on_pipe)
        except OSError:
            self._nobody_reads()

    def _on_pipe(self, events: int) -> None:
        if events & (ERR | HUP):
            self._nobody_reads()
        elif events & OUT:
            self._write()
            if self._pipe >= 0 and not self._held:
                self._loop.add(self._pipe, 0, self._on_pipe)
                self._listen()
                self._close_at_end()

    def _nobody_reads(self) -> None:
        """Take and drop what still comes, so that the host is not held up."""
        self.close()
        self._on_closed()
        self._listen()


def waiting(pipe: int) -> int:
    """Bytes that a pipe holds now."""
    size = bytearray(4)
    try:
        fcntl.ioctl(pipe, _FIONREAD, size)
    except OSError:
        pass
    return int.from_bytes(size, "little")


def grow(pipe: int) -> None:
    """Make a pipe bigger; a kernel that refuses leaves it as it is, and one that is closed (-1) stays so."""
    if pipe < 0:
        return
    try:
        fcntl.fcntl(pipe, _F_SETPIPE_SZ, _BIG_PIPE)
    except OSError:
        pass
