"""Reading what has no size: a pipe or device, which may have no end either."""

from __future__ import annotations

import errno
import os
import stat

MOST = 4 << 30
"""Bytes that one of them may bring, where half of the memory that is free is more."""
_STEP = 1 << 20
_ENDLESS = {os.makedev(1, minor) for minor in (5, 7, 8, 9)}
"""zero, full, random and urandom."""


def is_endless(status: os.stat_result) -> bool:
    """Whether it is a device that is known to bring bytes for ever."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev in _ENDLESS


def room() -> int:
    """Return how many bytes of unknown length may be read into memory."""
    try:
        with open("/proc/meminfo", "rb") as stream:
            found = next(int(line.split()[1]) for line in stream if line.startswith(b"MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return MOST
    return min(MOST, found * 1024 // 2)


def too_much(limit: int) -> OSError:
    """The error for what brings more."""
    return OSError(errno.EFBIG, f"it does not end within {limit >> 20} MiB")


def read_to_end(descriptor: int, limit: int) -> bytearray:
    """Read what is left, growing as it comes.

    :raise OSError: as read(2), ENOMEM; EFBIG when there are more than `limit` bytes.
    """
    content = bytearray()
    try:
        while chunk := os.read(descriptor, min(_STEP, limit + 1 - len(content))):
            content += chunk
            if len(content) > limit:
                raise too_much(limit)
    except MemoryError:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None
    return content
