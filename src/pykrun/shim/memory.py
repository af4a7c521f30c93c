"""Contents on their way to another process: files of the kernel's memory, which nobody can change or shrink."""

from __future__ import annotations

import fcntl
import os

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def memory_file(content: bytes | bytearray | memoryview) -> int:
    """Put bytes into a sealed memory file (memfd_create(2)); its descriptor is the caller's to close.

    :raise OSError: there is no room.
    """
    descriptor = os.memfd_create("pykrun", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with memoryview(content) as view, view.cast("B") as data:
            written = 0
            while written < len(data):
                written += os.write(descriptor, data[written:])
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
