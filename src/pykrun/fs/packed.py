"""Structures of the wire that a file system may fill in itself, because it does so for every request.

What is told about each look-up and each name of a listing is packed where it comes from: a host's `struct statx` is
turned into a reply in two steps, without an object of sixteen members in between. `pykrun.fuse.wire` takes the
declarations from here.

Source: the Linux kernel's include/uapi/linux/fuse.h.
"""

from __future__ import annotations

from functools import lru_cache
from os import major, makedev, minor
from struct import Struct

ATTR = Struct("<QQQQQQIIIIIIIIII")
"""struct fuse_attr: ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev, blksize,
flags. Times before 1970 are two's complement."""

ENTRY_OUT = Struct("<QQQQII" + ATTR.format[1:])
"""struct fuse_entry_out: nodeid, generation, seconds of the name and of the attributes, nanoseconds of both, attr."""

ATTR_OUT = Struct("<QI4x" + ATTR.format[1:])
"""struct fuse_attr_out: seconds, nanoseconds, attr."""

ATTR_SUBMOUNT = 1 << 0

DIRENT = Struct("<QQII")
"""struct fuse_dirent without its name: ino, off, namelen, type. A record is padded to 8 bytes."""


FOREVER = float("inf")
"""A timeout that never ends."""


@lru_cache(maxsize=64)
def split_timeout(seconds: float) -> tuple[int, int]:
    """Split a timeout into seconds and nanoseconds; for ever is the greatest number there is."""
    if seconds == FOREVER:
        return (1 << 64) - 1, 0
    whole = int(seconds)
    return whole, int((seconds - whole) * 1_000_000_000)


def kernel_device(major_: int, minor_: int) -> int:
    """Fold a device number into the kernel's 32 bits: 12 of major, 20 of minor (new_encode_dev)."""
    return (minor_ & 0xFF) | (major_ & 0xFFF) << 8 | (minor_ & 0xFFF00) << 12


def fold_device(rdev: int) -> int:
    """Turn the C library's dev_t into the kernel's 32 bits."""
    return kernel_device(major(rdev), minor(rdev)) if rdev else 0


def unfold_device(packed: int) -> int:
    """Turn the kernel's 32 bits into the C library's dev_t."""
    return makedev(packed >> 8 & 0xFFF, packed & 0xFF | packed >> 12 & 0xFFF00)
