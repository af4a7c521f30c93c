"""An advisory lock on an image that QEMU and its tools understand.

QEMU locks single bytes far behind nothing in particular (block/file-posix.c): byte 100 + n, shared, by whoever uses the
permission n, and byte 200 + n, shared, by whoever does not bear that others use it. A conflict is a lock of somebody
else on the opposite byte. The locks belong to the open file description, so they live as long as the last process that
inherited the descriptor.
"""

from __future__ import annotations

import errno
import fcntl
from struct import Struct

_USED, _REFUSED = 100, 200  # RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE
_READ, _WRITE, _RESIZE = 0, 1, 3  # bit numbers of BLK_PERM_CONSISTENT_READ, BLK_PERM_WRITE, BLK_PERM_RESIZE
_FLOCK = Struct("hhqqi4x")  # struct flock on 64-bit Linux: type, whence, start, length, pid
_TAKEN = (errno.EAGAIN, errno.EACCES)


def lock(descriptor: int, *, read_only: bool) -> bool:
    """Lock an image for writing, or for reading while nobody writes; return False when it is in use.

    Where the file system knows no locks nothing is locked, as QEMU has it.
    """
    mine = [_USED + _READ] if read_only else [_USED + _READ, _USED + _WRITE]
    mine += [_REFUSED + _WRITE, _REFUSED + _RESIZE]
    opposite = [byte - _USED + _REFUSED if byte < _REFUSED else byte - _REFUSED + _USED for byte in mine]
    try:
        for byte in mine:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, 0, byte, 1, 0))
        for byte in opposite:
            answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, byte, 1, 0))
            if _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK:
                return False
    except OSError as error:
        return error.errno not in _TAKEN
    return True
