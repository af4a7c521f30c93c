"""Any file system, read only: enforced here, whatever the guest's kernel and its mount options say."""

from __future__ import annotations

from collections.abc import Sequence
from errno import EROFS
from os import O_ACCMODE, O_APPEND, O_CREAT, O_RDONLY, O_TRUNC, W_OK
from typing import Any, Never

from pykrun.fs.interface import WRITEBACK_CACHE, FileSystem
from pykrun.fs.types import Caller, Lock, Opened, errno_error

_DELEGATED = (
    "lookup",
    "forget",
    "getattr",
    "statx",
    "readlink",
    "read",
    "flush",
    "fsync",
    "release",
    "lseek",
    "opendir",
    "readdir",
    "readdirplus",
    "list_packed",
    "list_packed_plus",
    "fsyncdir",
    "releasedir",
    "getxattr",
    "listxattr",
    "getlk",
    "statfs",
    "syncfs",
    "poll",
    "bmap",
    "close",
)
"""Passed on as they are: taken over from the inner file system, so that they cost nothing."""

CHANGING_IOCTLS = frozenset(
    {
        0x4008_6602,  # FS_IOC_SETFLAGS
        0x4004_6602,  # FS_IOC32_SETFLAGS
        0x401C_5820,  # FS_IOC_FSSETXATTR
        0x4008_7602,  # FS_IOC_SETVERSION
        0x4100_9432,  # FS_IOC_SETFSLABEL
        0x4004_9409,  # FICLONE
        0x4020_940D,  # FICLONERANGE
        0xC018_9436,  # FIDEDUPERANGE
        0xC018_6617,  # FS_IOC_SET_ENCRYPTION_POLICY, as its number was meant
        0x800C_6613,  # FS_IOC_SET_ENCRYPTION_POLICY
        0x4080_6685,  # FS_IOC_ENABLE_VERITY
        0xC004_5877,  # FIFREEZE
        0xC004_5878,  # FITHAW
        0xC018_5879,  # FITRIM
    }
)
"""From the Linux kernel's include/uapi/linux/fs.h, fscrypt.h and fsverity.h, for 64-bit machines."""


class ReadOnly(FileSystem):
    """`inner`, to be read only: EROFS for everything that changes it, and no collected writes.

    Opening for writing, O_TRUNC, O_CREAT and O_TMPFILE count as changes, and so does a lock for writing no more than
    it does on a read-only mount: it is not one.
    """

    def __init__(self, inner: FileSystem) -> None:
        self.features = inner.features & ~WRITEBACK_CACHE
        self._inner = inner
        for name in _DELEGATED:
            setattr(self, name, getattr(inner, name))

    def open(self, ino: int, flags: int, kill_privileges: bool) -> Opened:
        """Open for reading.

        :raise OSError: EROFS for anything else.
        """
        if flags & (O_TRUNC | O_CREAT) or flags & O_ACCMODE != O_RDONLY:
            raise errno_error(EROFS)
        return self._inner.open(ino, flags & ~O_APPEND, False)

    def access(self, ino: int, mask: int, caller: Caller) -> None:
        """Refuse writing; ask about the rest."""
        if mask & W_OK:
            raise errno_error(EROFS)
        self._inner.access(ino, mask, caller)

    def setlk(self, ino: int, handle: Any, owner: int, lock: Lock, flock: bool, wait: bool) -> None:
        """Leave locks to the inner file system: they change nothing."""
        self._inner.setlk(ino, handle, owner, lock, flock, wait)

    def ioctl(self, ino: int, handle: Any, command: int, argument: int, data: bytes, out_size: int) -> bytes:
        """Refuse those that change something."""
        if command in CHANGING_IOCTLS:
            raise errno_error(EROFS)
        return self._inner.ioctl(ino, handle, command, argument, data, out_size)

    def write(
        self, ino: int, handle: Any, offset: int, buffers: Sequence[memoryview], flags: int, kill_privileges: bool
    ) -> int:
        """Refuse. No handle is open for writing, but that is the inner file system's word."""
        raise errno_error(EROFS)

    def _refuse(self, *arguments: object, **named: object) -> Never:
        raise errno_error(EROFS)

    setattr = symlink = mknod = mkdir = unlink = rmdir = rename = link = create = tmpfile = _refuse
    fallocate = copy_file_range = setxattr = removexattr = _refuse
