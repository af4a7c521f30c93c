"""Keeping 0, 1 and 2 what they were: a closed standard stream must not become some socket of ours."""

from __future__ import annotations

import fcntl
import os

_closed: set[int] = set()


def keep_standard_streams() -> None:
    """Fill the numbers 0 to 2 that were closed, so that nothing opened later takes their place. Call once, first."""
    for fd in range(3):
        try:
            fcntl.fcntl(fd, fcntl.F_GETFD)
        except OSError:
            _closed.add(fd)
            placeholder = os.open("/dev/null", os.O_RDWR)
            if placeholder != fd:  # cannot be: the lowest free number is taken
                os.dup2(placeholder, fd)
                os.close(placeholder)


def standard_stream(fd: int) -> int | None:
    """The descriptor, or None when it was closed when the program started."""
    return None if fd in _closed else fd
