"""Standard streams of the host as a port's `Sink` and `Source`: never blocking, byte-exact, counted."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence

from pykrun.buffers import skip
from pykrun.loop import IN, OUT, Loop

PIPE_BUF = 4096
"""A pipe that poll calls writable takes this many bytes without blocking (Linux: at least one free page)."""
_PTMX = os.makedev(5, 2)


OnData = Callable[[Sequence[memoryview], int], None]


def _own_description(fd: int, flags: int) -> int | None:
    """Open what `fd` refers to once more, so that O_NONBLOCK stays ours; None when the kernel does not let us."""
    if os.fstat(fd).st_rdev == _PTMX:  # which would be another terminal
        return None
    flags |= os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{fd}", flags)
    except OSError:  # a socket, or the terminal of somebody else: after su, say
        pass
    try:
        os.tcgetpgrp(fd)  # fails on all but our controlling terminal, which everybody may open by this name (tty(4))
        return os.open("/dev/tty", flags)
    except OSError:
        return None


def _write_terminal(fd: int, data: memoryview | bytes) -> int:
    """Write to a terminal of which there is no description of our own, and never sleep.

    poll calls a terminal writable that has any room at all, but a write sleeps until all of it is taken: a reader that
    stops would stop the whole VM. So what others have too is non-blocking for the length of this one call. A write of
    theirs in these microseconds may get EAGAIN, and only if the terminal is full; ours too may find the flag set by
    another pykrun, which takes it back, so it is never left behind.

    :raise BlockingIOError: nothing goes.
    """
    if not os.get_blocking(fd):
        return os.write(fd, data)
    os.set_blocking(fd, False)
    try:
        return os.write(fd, data)
    finally:
        os.set_blocking(fd, True)


class FdSink:
    """Hands what the guest writes to a descriptor of the host, as fast as its reader takes it.

    Descriptors that others hold too keep their flags: O_NONBLOCK belongs to the open file description, and our parent
    would see it. So a pipe or terminal is opened anew, and a socket is written with MSG_DONTWAIT. A pipe that cannot be
    opened is written in pieces that poll promised not to block, such a terminal as `_write_terminal` says.

    :param fd: descriptor to write to, None when it was closed before we started.
    :param on_broken: called once when the reader is gone (EPIPE) or the write fails for good; bytes are dropped then.
    :param on_count: called after bytes went out, with the total.
    """

    def __init__(
        self,
        loop: Loop,
        fd: int | None,
        *,
        on_broken: Callable[[OSError], None],
        on_count: Callable[[int], None],
    ) -> None:
        self.on_ready: Callable[[], None] | None = None
        self.count = 0
        self.broken = fd is None
        self._loop = loop
        self._on_broken = on_broken
        self._on_count = on_count
        self._own: int | None = None
        self._piece: Callable[[int, memoryview], int] | None = None
        self._waiting = False
        self._fd = -1
        if fd is not None:
            self._choose(fd)

    def _choose(self, fd: int) -> None:
        mode = os.fstat(fd).st_mode
        self._fd = fd
        self._write: Callable[[int, Sequence[memoryview]], int] = os.writev
        if stat.S_ISSOCK(mode):
            self._write = _send_dontwait
        elif stat.S_ISFIFO(mode) or os.isatty(fd):
            self._own = _own_description(fd, os.O_WRONLY)
            if self._own is None:
                self._piece = os.write if stat.S_ISFIFO(mode) else _write_terminal
            else:
                self._fd = self._own

    def write(self, buffers: Sequence[memoryview]) -> int:
        """Write what goes without blocking (`Sink`)."""
        total = sum(map(len, buffers))
        if self.broken:
            self._add(total)
            return total
        if self._waiting:
            return 0
        written = 0
        while written < total:
            try:
                if self._piece is None:
                    count = self._write(self._fd, skip(buffers, written)[:512])
                elif self._writable():
                    count = self._piece(self._fd, skip(buffers, written)[0][:PIPE_BUF])
                else:
                    count = 0
            except BlockingIOError:
                count = 0
            except OSError as error:
                self._break(error)
                self._add(total)
                return total
            if count == 0:
                self._wait()
                break
            written += count
        self._add(written)
        return written

    def _writable(self) -> bool:
        import select

        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(0))

    def _add(self, count: int) -> None:
        self.count += count
        self._on_count(self.count)

    def _break(self, error: OSError) -> None:
        self.broken = True
        self._on_broken(error)

    def _wait(self) -> None:
        self._waiting = True
        self._loop.add(self._fd, OUT, self._on_event)

    def _on_event(self, _events: int) -> None:
        self._loop.remove(self._fd)
        self._waiting = False
        if self.on_ready is not None:
            self.on_ready()

    def close(self) -> None:
        """Give back what was opened here; the caller's descriptor stays open."""
        if self._waiting:
            self._loop.remove(self._fd)
            self._waiting = False
        if self._own is not None:
            os.close(self._own)
            self._own = None
        self.broken = True


def _send_dontwait(fd: int, buffers: Sequence[memoryview]) -> int:
    import socket

    with socket.socket(fileno=os.dup(fd)) as duplicate:
        return duplicate.sendmsg(buffers, (), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class FdSource:
    """Gives the guest what a descriptor of the host delivers, read only when the guest has room.

    :param fd: descriptor to read from, None when it was closed before we started: it ends at once.
    :param on_end: called once, with the number of bytes given, when the descriptor ended or failed.
    :param on_data: called with the buffers and the number of bytes after each read.
    :param end_mark: bytes to give after the last one: a terminal's end of file is a character.
    """

    def __init__(
        self,
        loop: Loop,
        fd: int | None,
        *,
        on_end: Callable[[int], None],
        end_mark: bytes = b"",
        on_data: OnData | None = None,
    ) -> None:
        self.on_ready: Callable[[], None] | None = None
        self.count = 0
        self.ended = False
        self._loop = loop
        self._fd = -1 if fd is None else fd
        self._on_end = on_end
        self._end_mark = end_mark
        self._on_data = on_data
        self._waiting = False
        self._always_ready = fd is None or not _can_poll(loop, fd)

    def read_into(self, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers with what is there (`Source`)."""
        if self.ended or self._waiting:
            return 0
        if not self._always_ready and not self._readable():
            self._wait()
            return 0
        try:
            count = os.readv(self._fd, buffers[:512]) if self._fd >= 0 else 0
        except BlockingIOError:
            self._wait()
            return 0
        except OSError:  # the terminal hung up (EIO), a directory was given (EISDIR): nothing more will come
            count = 0
        if count == 0 and self._end_mark and buffers:
            count = min(len(buffers[0]), len(self._end_mark))
            buffers[0][:count] = self._end_mark[:count]
            self._end_mark = self._end_mark[count:]
            self._fd = -1
            self._always_ready = True
        elif count == 0:
            self.end()
            return 0
        elif self._on_data is not None:
            self._on_data(buffers, count)
        self.count += count
        return count

    def end(self) -> None:
        """Read no more; tells `on_end` unless it was told already."""
        if not self.ended:
            self.close()
            self._on_end(self.count)

    def close(self) -> None:
        """Forget the descriptor, which stays open."""
        if self._waiting:
            self._loop.remove(self._fd)
            self._waiting = False
        self.ended = True

    def _readable(self) -> bool:
        import select

        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    def _wait(self) -> None:
        self._waiting = True
        self._loop.add(self._fd, IN, self._on_event)

    def _on_event(self, _events: int) -> None:
        self._loop.remove(self._fd)
        self._waiting = False
        if self.on_ready is not None:
            self.on_ready()


def _can_poll(loop: Loop, fd: int) -> bool:
    """Whether epoll takes the descriptor: regular files and /dev/null are always ready instead."""
    try:
        loop.add(fd, 0, lambda events: None)
    except PermissionError:
        return False
    loop.remove(fd)
    return True


def write_bounded(fd: int, data: bytes, seconds: float) -> None:
    """Write what goes within `seconds` and drop the rest: whoever does not read may not keep us from ending."""
    import select
    import time

    # A file of its own position would be written from its start.
    is_terminal = os.isatty(fd)
    waits = is_terminal or stat.S_ISFIFO(os.fstat(fd).st_mode)
    own = _own_description(fd, os.O_WRONLY) if waits else None
    target = fd if own is None else own
    write = _write_terminal if is_terminal and own is None else os.write
    poll = select.poll()
    poll.register(target, select.POLLOUT)
    deadline = time.monotonic() + seconds
    try:
        while data and poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            data = data[write(target, data[:PIPE_BUF]) :]
    except OSError:
        pass
    finally:
        if own is not None:
            os.close(own)
