"""Regular files: opening them, and what is done with one that is open."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from errno import EINVAL, EISDIR, ELOOP, ENXIO
from os import (
    O_ACCMODE,
    O_APPEND,
    O_DIRECT,
    O_DSYNC,
    O_NOATIME,
    O_RDWR,
    O_SYNC,
    O_TRUNC,
    O_WRONLY,
    SEEK_DATA,
    SEEK_HOLE,
)
from stat import S_IFDIR, S_IFLNK, S_IFREG, S_ISGID, S_ISUID
from typing import Any

from pykrun.buffers import skip
from pykrun.fs.passthrough.core import Core
from pykrun.fs.passthrough.handles import FileHandle
from pykrun.fs.passthrough.inodes import Inode
from pykrun.fs.types import DIRECT_IO, KEEP_CACHE, NOFLUSH, Opened, errno_error
from pykrun.host import files
from pykrun.host.identity import CAP_FOWNER

_SET_IDS = S_ISUID | S_ISGID
_IOV_MAX = 1024
_COPY_MAX = 128 << 20
"""One copy_file_range at most: the server answers nobody else meanwhile."""

_CLOCK_NS = 20_000_000
"""Times of change come from a clock that ticks every 1 to 10 ms: within one tick a second change is not seen."""


class FileOperations(Core):
    """See `pykrun.fs.interface`."""

    def open(self, ino: int, flags: int, kill_privileges: bool) -> Opened:
        """Open a regular file; anything else is refused by its type, which is known without opening it.

        :raise OSError: EISDIR, ELOOP for a symbolic link, ENXIO for FIFOs, sockets and devices: the guest's kernel
            opens its own.
        """
        inode = self._inodes.get(ino)
        if inode.kind != S_IFREG:
            raise errno_error({S_IFDIR: EISDIR, S_IFLNK: ELOOP}.get(inode.kind, ENXIO))
        host_flags = self._open_flags(flags)
        self._require_room()
        if kill_privileges and flags & O_TRUNC:
            with self._killing(True):
                fd = self._reopen(inode, host_flags)
        else:
            fd = self._reopen(inode, host_flags)
        return self._opened(FileHandle(fd, inode), inode)

    def _open_flags(self, flags: int) -> int:
        """Choose what of a guest's open flags the host gets."""
        kept = O_ACCMODE | O_APPEND | O_TRUNC | O_SYNC | O_DSYNC
        options = self.options
        if options.direct_io:
            kept |= O_DIRECT
        if self._identity.has(CAP_FOWNER):
            kept |= O_NOATIME  # others may use it on files of their own only
        flags &= kept
        if flags & O_ACCMODE == O_ACCMODE:
            flags ^= O_WRONLY  # Linux' fourth way: the caller may do both, and will do neither
        if flags & (O_ACCMODE | O_TRUNC):
            self._changed = True
        if options.writeback:
            # The guest's kernel reads what it writes a part of, and knows itself where the end is.
            flags &= ~O_APPEND
            if flags & O_ACCMODE == O_WRONLY:
                flags ^= O_WRONLY | O_RDWR
        return flags

    def _opened(self, handle: FileHandle, inode: Inode) -> Opened:
        """Take an open file into the books, and say what the guest may keep of it."""
        if inode.files is None:
            inode.files = []
        inode.files.append(handle)
        self._open_files += 1
        data = self._cache.data
        if data == "never":
            flags = DIRECT_IO
        elif data == "always" or self._unchanged(handle, inode):
            flags = KEEP_CACHE
        else:
            flags = 0
        if not self.options.posix_locks:
            flags |= NOFLUSH
        return Opened(handle, flags)

    def _unchanged(self, handle: FileHandle, inode: Inode) -> bool:
        """Whether the file is as it was when the guest opened it last, so that its pages are good.

        The time of change, which nobody can set back, not that of modification.
        """
        fields = self._statx.of(handle.fd)
        size, seconds, nanoseconds = fields[6], fields[12], fields[13]
        state = (seconds, nanoseconds, size)
        unchanged = state == inode.seen
        settled = time.time_ns() - (seconds * 1_000_000_000 + nanoseconds) > _CLOCK_NS
        inode.seen = state if settled else None
        return unchanged

    def release(self, ino: int, handle: Any, flock_owner: int | None) -> None:
        """Close."""
        file: FileHandle = handle
        inode = file.inode
        if inode.files is not None and file in inode.files:
            inode.files.remove(file)
            self._open_files -= 1
        if file.exported and self.options.exports is not None:
            self.options.exports.remove(self.options.file_system, file.exported)
        if file.locks:
            for descriptor in file.locks.values():
                self._open_files -= 1
                os.close(descriptor)
        os.close(file.fd)

    # Data

    def read(self, ino: int, handle: Any, offset: int, buffers: Sequence[memoryview]) -> int:
        """Read straight into the buffers, until they are full or the file ends: a short answer means its end."""
        fd = handle.fd
        count = done = os.preadv(fd, buffers, offset) if len(buffers) <= _IOV_MAX else 0
        wanted = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        while done < wanted and (count or len(buffers) > _IOV_MAX):
            count = os.preadv(fd, skip(buffers, done)[:_IOV_MAX], offset + done)
            done += count
            if not count:
                break
        return done

    def write(
        self, ino: int, handle: Any, offset: int, buffers: Sequence[memoryview], flags: int, kill_privileges: bool
    ) -> int:
        """Write straight from the buffers.

        The kernel takes `security.capability` away by itself. The other two bits it leaves to a process with
        CAP_FSETID, as root's server is one, so that right is given up where it matters.
        """
        fd = handle.fd
        if len(buffers) > _IOV_MAX:
            buffers = buffers[:_IOV_MAX]
        if kill_privileges and os.fstat(fd).st_mode & _SET_IDS:
            with self._killing(True):
                return os.pwritev(fd, buffers, offset)
        return os.pwritev(fd, buffers, offset)

    def flush(self, ino: int, handle: Any, owner: int) -> None:
        """Drop the owner's fcntl locks; tell what the host's file system tells at a close (quota, a server's)."""
        file: FileHandle = handle
        if file.locks:
            descriptor = file.locks.pop(owner, -1)
            if descriptor >= 0:
                self._open_files -= 1
                os.close(descriptor)
        os.close(os.dup(file.fd))

    def fsync(self, ino: int, handle: Any, data_only: bool) -> None:
        """Bring the file to stable storage."""
        (os.fdatasync if data_only else os.fsync)(handle.fd)

    def fallocate(self, ino: int, handle: Any, offset: int, length: int, mode: int) -> None:
        """Allocate, punch, collapse, insert, zero: as the host's file system can.

        FUSE does not say whether the caller may keep set-ID bits: nobody does.
        """
        with self._killing(bool(os.fstat(handle.fd).st_mode & _SET_IDS)):
            files.allocate(handle.fd, mode, offset, length)

    def lseek(self, ino: int, handle: Any, offset: int, whence: int) -> int:
        """Find data or a hole."""
        if whence not in (SEEK_DATA, SEEK_HOLE):
            raise errno_error(EINVAL)
        return os.lseek(handle.fd, offset, whence)

    def copy_file_range(
        self,
        ino: int,
        handle: Any,
        offset: int,
        ino_out: int,
        handle_out: Any,
        offset_out: int,
        length: int,
        flags: int,
    ) -> int:
        """Copy on the host; by reference, where its file system can."""
        if flags:
            raise errno_error(EINVAL)
        length = min(length, _COPY_MAX)
        with self._killing(bool(os.fstat(handle_out.fd).st_mode & _SET_IDS)):
            return os.copy_file_range(handle.fd, handle_out.fd, length, offset, offset_out)
