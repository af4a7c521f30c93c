"""The file system as a whole, and the one ioctl that means something here."""

from __future__ import annotations

import os
from errno import EBADF, EINVAL, ENOSPC, ENOTTY, EOPNOTSUPP
from itertools import count
from os import O_DIRECTORY, O_RDONLY
from stat import S_IFDIR
from struct import Struct
from typing import Any

from pykrun.fs.passthrough.core import Core
from pykrun.fs.passthrough.handles import FileHandle
from pykrun.fs.types import FileSystemStatistics, errno_error
from pykrun.host import files

EXPORT_FD = 0x8010_7601
"""_IOR('v', 1, 16): keep a duplicate of the open file in the export table; answers with two native 64-bit numbers,
file system and handle (as libkrun)."""

_EXPORTED = Struct("@QQ")


class WholeOperations(Core):
    """See `pykrun.fs.interface`."""

    def statfs(self, ino: int) -> FileSystemStatistics:
        """Tell the host file system's sizes, where this inode lies."""
        found = os.fstatvfs(self._inodes.reach(self._inodes.get(ino)))
        return FileSystemStatistics(
            blocks=found.f_blocks,
            free=found.f_bfree,
            available=found.f_bavail,
            files=found.f_files,
            free_files=found.f_ffree,
            block_size=found.f_bsize,
            name_length=found.f_namemax,
            fragment_size=found.f_frsize,
        )

    def syncfs(self, ino: int) -> None:
        """Bring the host's file system to stable storage, where this inode lies.

        Nothing is done as long as the guest has changed nothing: what others have yet to write, and that may be much,
        is not its business. Every guest says this at its end.
        """
        if not self._changed:
            return
        inode = self._inodes.get(ino)
        if inode.kind != S_IFDIR:
            inode = self._inodes.root
        fd = os.open(b".", O_RDONLY | O_DIRECTORY, dir_fd=self._inodes.reach(inode))
        try:
            files.sync_file_system(fd)
        finally:
            os.close(fd)

    def ioctl(self, ino: int, handle: Any, command: int, argument: int, data: bytes, out_size: int) -> bytes:
        """Export an open file.

        :raise OSError: ENOTTY for what asks for a file's flags, EOPNOTSUPP for anything else and without a table,
            EINVAL for a wrong size, EBADF for a wrong handle, ENOSPC when the table is full.
        """
        if command in ASKING_FLAGS:
            raise errno_error(ENOTTY)
        exports = self.options.exports
        if command != EXPORT_FD or exports is None:
            raise errno_error(EOPNOTSUPP)
        if out_size != _EXPORTED.size:
            raise errno_error(EINVAL)
        if not isinstance(handle, FileHandle):
            raise errno_error(EBADF)
        number = handle.exported or next(_numbers)
        if not exports.add(self.options.file_system, number, handle.fd):
            raise errno_error(ENOSPC)
        handle.exported = number
        return _EXPORTED.pack(self.options.file_system, number)


ASKING_FLAGS = (0x8008_6601, 0x801C_581F)
"""FS_IOC_GETFLAGS and FS_IOC_FSGETXATTR of uapi/linux/fs.h. Of a lower layer whose answer is anything but that there is
no such thing (ENOTTY, EINVAL), the guest's overlayfs can copy nothing up."""

_numbers = count(1)  # of all exports of this process: tables may be shared
