"""Sessions and terminals: init's own session, the workload's terminal, its window."""

from __future__ import annotations

import errno
import fcntl
import posix
import time

from krun_init.errors import InitError, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.places import Places

# asm-generic/ioctls.h
_TIOCSCTTY = 0x540E
_TIOCSWINSZ = 0x5414
_TCSBRK = 0x5409

_NOT_YET = (errno.ENOENT, errno.ENODEV, errno.ENXIO)


def begin(own_console: bool) -> None:
    """Begin init's session; with `own_console` standard input becomes its controlling terminal.

    The relay leaves the console alone, and a workload with a terminal of its own begins a session of its own.
    """
    try:
        posix.setsid()
    except PermissionError:
        pass  # leads one already
    if own_console:
        try:
            fcntl.ioctl(0, _TIOCSCTTY, 1)
        except OSError:
            pass  # no terminal, which is fine


def standard_descriptors(places: Places) -> None:
    """Fill 0, 1 and 2 if the kernel could not open its console: what is opened later must not land there."""
    try:
        fcntl.fcntl(2, fcntl.F_GETFD)
        return
    except OSError:
        pass
    for path, flags in ((places.console, posix.O_RDWR), ("/", posix.O_RDONLY)):
        try:
            fd = posix.open(path, flags | posix.O_NOCTTY)
        except OSError:
            continue
        for target in range(3):
            if fd != target:
                posix.dup2(fd, target)
        posix.set_inheritable(0, True)
        if fd > 2:
            posix.close(fd)
        return


def open_terminal(places: Places) -> int:
    """Open the virtio console, which may still be on its way.

    :raise InitError: there is none.
    """
    deadline = 0.0
    while True:
        try:
            return posix.open(places.terminal, posix.O_RDWR | posix.O_NOCTTY | posix.O_CLOEXEC)
        except OSError as error:
            now = time.monotonic()
            deadline = deadline or now + places.patience
            if error.errno not in _NOT_YET or now >= deadline:
                raise InitError(f"cannot open the terminal {places.terminal}: {reason_of(error)}") from None
            time.sleep(0.002)


def resize(terminal: int, rows: int, columns: int, width: int = 0, height: int = 0) -> None:
    """Set the window's size; the kernel sends SIGWINCH to the foreground process group."""
    size = b"".join(value.to_bytes(2, "little") for value in (rows, columns, width, height))
    try:
        fcntl.ioctl(terminal, _TIOCSWINSZ, size)
    except OSError:
        pass


def drain(terminal: int) -> None:
    """Wait until everything written to the terminal has left the machine.

    The end of a workload that led its session has hung it up before (EIO): nothing can be written any more then, and
    the virtio console has handed over every write before it returned.
    """
    try:
        fcntl.ioctl(terminal, _TCSBRK, 1)
    except OSError:
        pass
