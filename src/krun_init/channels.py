"""The streams of a further command: between a pipe or pseudo-terminal and frames, as far as there is credit.

Nothing is dropped and nobody is waited for: what has no credit stays in the pipe, and the command that writes to it
waits. An epoll(7) of their own keeps hundreds of them apart from init's loop.
"""

from __future__ import annotations

import fcntl
import posix
import select

from krun_init import relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW_OUT, WINDOW_IN = 1 << 18, 1 << 16
"""Bytes of an output and of the input that may be on their way when a command starts."""

_CHUNK = 32768 - 13  # one write of the driver, with the frame's header
_TERMINAL_HOLDS = 1 << 14
"""More than a pseudo-terminal keeps of what was written to it (8 KiB under way, 4 KiB to be read)."""
_END_OF_FILE = b"\x04"
_IN, _OUT, _HUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR

# asm-generic/ioctls.h
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441


class Poll:
    """Descriptors with handlers; one descriptor for all of them in init's loop."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}

    def fileno(self) -> int:
        """The descriptor that is readable when one of them has something."""
        return self._epoll.fileno()

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call `handler(events)` for these events of `fd` from now on, and for errors and hang-ups."""
        if fd in self._handlers:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """No more of `fd`; unknown is fine."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def turn(self) -> None:
        """Handle a few, each time others: the kernel puts what it has told of behind the rest."""
        for fd, events in self._epoll.poll(0, 8):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler(events)


class Output:
    """From a pipe, or a terminal's master, to the host.

    :param fd: taken over, and set non-blocking.
    :param send: takes the bytes.
    :param on_closed: called when there is nothing more to come.
    """

    def __init__(
        self, poll: Poll, fd: int, terminal: bool, send: Callable[[bytes], None], on_closed: Callable[[], None]
    ) -> None:
        self._poll = poll
        self._fd = fd
        self._terminal = terminal
        self._send = send
        self._on_closed = on_closed
        self._credit = WINDOW_OUT
        self._left = -1  # how many bytes still count, once the command has ended
        self._full = 0
        posix.set_blocking(fd, False)
        poll.watch(fd, _IN, self._on_event)

    @property
    def closed(self) -> bool:
        """Whether nothing more will come."""
        return self._fd < 0

    def grant(self, size: int) -> None:
        """The host takes so many bytes more."""
        had, self._credit = self._credit, self._credit + size
        if self._fd >= 0 and not had and size:
            self._poll.watch(self._fd, _IN, self._on_event)
            self._look_for_rest()

    def finish(self) -> None:
        """The command has ended: what is there now still counts, whoever else may go on writing."""
        if self._fd >= 0:
            self._left = _TERMINAL_HOLDS if self._terminal else relay.waiting(self._fd)
            if self._left == 0:
                self.close()
            self._look_for_rest()

    def _look_for_rest(self) -> None:
        """A terminal that has ended need not say so: somebody else may have it open."""
        while self._terminal and self._left >= 0 and self._fd >= 0 and self._credit:
            self._on_event(_IN)

    def close(self) -> None:
        """Take no more: whoever writes gets EPIPE, a terminal hangs up."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._poll.forget(fd)
            posix.close(fd)
            self._on_closed()

    def _on_event(self, _events: int) -> None:
        room = min(_CHUNK, self._credit)
        try:
            data = posix.read(self._fd, room if self._left < 0 else min(room, self._left))
        except BlockingIOError:
            if self._left >= 0:
                self.close()
            return
        except OSError:  # a terminal that nobody has open any more (EIO)
            data = b""
        if not data:
            self.close()
            return
        self._credit -= len(data)
        self._send(data)
        self._note(len(data))

    def _note(self, size: int) -> None:
        if size == _CHUNK and not self._terminal:
            self._full += 1
            if self._full == 8:
                relay.grow(self._fd)
        if self._left >= 0:
            self._left -= size
        if self._left == 0:
            self.close()
        elif not self._credit:
            self._poll.forget(self._fd)


class Input:
    """From the host to a pipe, or a terminal's master.

    :param fd: taken over, and set non-blocking.
    :param grant: takes how many bytes more the host may send.
    :param on_closed: called when the command reads no more.
    """

    def __init__(
        self, poll: Poll, fd: int, terminal: bool, grant: Callable[[int], None], on_closed: Callable[[], None]
    ) -> None:
        self._poll = poll
        self._fd = fd
        self._terminal = terminal
        self._grant = grant
        self._on_closed = on_closed
        self._credit = WINDOW_IN
        self._owed = 0
        self._held = bytearray()
        self._ended = False
        posix.set_blocking(fd, False)
        poll.watch(fd, 0, self._on_event)

    @property
    def closed(self) -> bool:
        """Whether the command gets nothing more."""
        return self._fd < 0

    def take(self, data: bytes) -> bool:
        """Bytes from the host; whether they had credit."""
        self._credit -= len(data)
        if self._fd >= 0:
            self._held += data
            self._write()
        return self._credit >= 0

    def end(self) -> None:
        """Nothing more comes. A terminal hears that as a character."""
        if self._fd >= 0 and not self._ended:
            self._ended = True
            if self._terminal:
                self._held += _END_OF_FILE
                self._write()
            elif not self._held:
                self.close()

    def close(self) -> None:
        """The command has its end of file; what comes from now on is dropped."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._held.clear()
            self._poll.forget(fd)
            posix.close(fd)

    def _write(self) -> None:
        try:
            while self._held:
                size = posix.write(self._fd, self._held)
                del self._held[:size]
                self._owed += size
        except BlockingIOError:
            self._poll.watch(self._fd, _OUT, self._on_event)
        except OSError:
            self._nobody_reads()
            return
        if self._owed >= WINDOW_IN // 4 and not self._ended:
            owed, self._owed = self._owed, 0
            self._credit += owed
            self._grant(owed)
        if self._ended and not self._held and not self._terminal:
            self.close()

    def _on_event(self, events: int) -> None:
        if events & _HUP:
            self._nobody_reads()
        elif events & _OUT:
            self._poll.watch(self._fd, 0, self._on_event)
            self._write()

    def _nobody_reads(self) -> None:
        self.close()
        self._on_closed()


def open_terminal(owner: int) -> tuple[int, int]:
    """A pseudo-terminal (pty(7)): its master, and the terminal that a command of that user gets.

    :raise OSError: there are none in this guest, or no more.
    """
    master = posix.open("/dev/ptmx", posix.O_RDWR | posix.O_NOCTTY | posix.O_CLOEXEC)
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, bytes(4))
        terminal = fcntl.ioctl(master, _TIOCGPTPEER, posix.O_RDWR | posix.O_NOCTTY | posix.O_CLOEXEC)
        if owner > 0:
            posix.fchown(terminal, owner, -1)
    except OSError:
        posix.close(master)
        raise
    return master, terminal
