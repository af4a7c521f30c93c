"""Reading parts of an image's file, which may say anything about where they are."""

from __future__ import annotations

import os


class Unreadable(Exception):
    """These bytes cannot be read in a simple way."""


def read_padded(descriptor: int, size: int, offset: int) -> bytes:
    """Read so many bytes; what lies behind the file's end is zeros: the last piece of an image may be cut.

    :raise Unreadable: no file reaches so far, or it cannot be read.
    """
    try:
        content = os.pread(descriptor, size, offset)
    except (OSError, OverflowError):
        raise Unreadable from None
    return content.ljust(size, b"\0")
