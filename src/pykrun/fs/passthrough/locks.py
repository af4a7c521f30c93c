"""Locks that the host and other guests see, where the options ask for them. None ever waits here."""

from __future__ import annotations

import fcntl
from errno import EACCES, EAGAIN, ENOLCK, ENOSYS
from os import O_ACCMODE, SEEK_SET
from struct import Struct
from typing import Any

from pykrun.fs.passthrough.core import Core
from pykrun.fs.passthrough.handles import FileHandle
from pykrun.fs.types import Lock, errno_error

_OFD_GETLK = 36
_OFD_SETLK = 37
_FLOCK = Struct("@hhqqi4x")  # struct flock: type, whence, start, length, pid
_OFFSET_MAX = (1 << 63) - 1
_MAX_OWNERS = 64
_FLOCKS = {fcntl.F_RDLCK: fcntl.LOCK_SH, fcntl.F_WRLCK: fcntl.LOCK_EX, fcntl.F_UNLCK: fcntl.LOCK_UN}


class LockOperations(Core):
    """See `pykrun.fs.interface`.

    A flock belongs to an open file, as the guest's does, so it is taken on the open file's descriptor. fcntl locks
    belong to a process of the guest: each owner has an open file of its own, and its locks are those of that (OFD
    locks, Linux 3.15).
    """

    def getlk(self, ino: int, handle: Any, owner: int, lock: Lock) -> Lock:
        """Tell a lock that is in the way of `lock`."""
        if not self.options.posix_locks:
            raise errno_error(ENOSYS)
        answer = fcntl.fcntl(self._owners_file(handle, owner), _OFD_GETLK, _pack(lock))
        kind, _, start, length, pid = _FLOCK.unpack(answer)
        if kind == fcntl.F_UNLCK:
            return Lock(0, 0, fcntl.F_UNLCK, 0)
        return Lock(start, start + length - 1 if length else _OFFSET_MAX, kind, max(pid, 0))

    def setlk(self, ino: int, handle: Any, owner: int, lock: Lock, flock: bool, wait: bool) -> None:
        """Set or drop a lock; EAGAIN where it would have to wait, asked to or not."""
        try:
            if flock:
                if not self.options.flocks:
                    raise errno_error(ENOSYS)
                fcntl.flock(handle.fd, _FLOCKS[lock.kind] | fcntl.LOCK_NB)
                return
            if not self.options.posix_locks:
                raise errno_error(ENOSYS)
            fcntl.fcntl(self._owners_file(handle, owner), _OFD_SETLK, _pack(lock))
        except OSError as error:
            if error.errno == EACCES:  # the other errno that POSIX allows for a taken lock
                raise errno_error(EAGAIN) from None
            raise

    def _owners_file(self, handle: FileHandle, owner: int) -> int:
        """Find or make the open file that carries an owner's locks."""
        if handle.locks is None:
            handle.locks = {}
        descriptor = handle.locks.get(owner)
        if descriptor is None:
            if len(handle.locks) >= _MAX_OWNERS or self._open_files >= self._max_files:
                raise errno_error(ENOLCK)
            descriptor = self._own.reopen(handle.fd, fcntl.fcntl(handle.fd, fcntl.F_GETFL) & O_ACCMODE)
            handle.locks[owner] = descriptor
            self._open_files += 1
        return descriptor


def _pack(lock: Lock) -> bytes:
    length = 0 if lock.end >= _OFFSET_MAX else lock.end - lock.start + 1
    return _FLOCK.pack(lock.kind, SEEK_SET, lock.start, length, 0)
