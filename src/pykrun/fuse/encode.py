"""From the objects that file systems return to bytes on the wire. What is packed once is kept in their `wire`."""

from __future__ import annotations

from os import major, minor

from pykrun.fs.packed import fold_device, split_timeout
from pykrun.fs.types import Attributes, DirectoryEntry, Entry, FileSystemStatistics, Lock
from pykrun.fuse import wire

SECOND = 1_000_000_000
_U64 = (1 << 64) - 1

STATX_BASIC = 0x7FF
STATX_BTIME = 0x800

_pack_attr_head = wire.ATTR_HEAD.pack
_pack_entry_head = wire.ENTRY_HEAD.pack


def attr(attributes: Attributes) -> bytes:
    """Pack fuse_attr. Times before 1970 are two's complement, as in the kernel."""
    packed = attributes.packed
    if packed is None:
        atime, atime_ns = divmod(attributes.atime_ns, SECOND)
        mtime, mtime_ns = divmod(attributes.mtime_ns, SECOND)
        ctime, ctime_ns = divmod(attributes.ctime_ns, SECOND)
        packed = attributes.packed = wire.ATTR.pack(
            attributes.ino,
            attributes.size,
            attributes.blocks,
            atime & _U64,
            mtime & _U64,
            ctime & _U64,
            atime_ns,
            mtime_ns,
            ctime_ns,
            attributes.mode,
            attributes.nlink,
            attributes.uid,
            attributes.gid,
            fold_device(attributes.rdev),
            attributes.block_size,
            wire.ATTR_SUBMOUNT if attributes.submount else 0,
        )
    return packed


def attr_out(attributes: Attributes) -> bytes:
    """Pack fuse_attr_out."""
    if attributes.wire is None:
        attributes.wire = _pack_attr_head(*split_timeout(attributes.timeout)) + attr(attributes)
    return attributes.wire


def entry_out(entry: Entry) -> bytes:
    """Pack fuse_entry_out."""
    if entry.wire is None:
        attributes = entry.attributes
        name_seconds, name_ns = split_timeout(entry.timeout)
        seconds, ns = split_timeout(attributes.timeout)
        head = _pack_entry_head(entry.ino, entry.generation, name_seconds, seconds, name_ns, ns)
        entry.wire = head + attr(attributes)
    return entry.wire


NO_ENTRY = bytes(wire.ENTRY_OUT.size)
"""In READDIRPLUS: an entry whose attributes are not told, and that counts no look-up."""


def statx_out(attributes: Attributes) -> bytes:
    """Pack fuse_statx_out."""
    times = []
    for ns in (attributes.atime_ns, attributes.birth_ns or 0, attributes.ctime_ns, attributes.mtime_ns):
        times += [*divmod(ns, SECOND), 0]
    return wire.STATX_OUT.pack(
        *split_timeout(attributes.timeout),
        0,
        STATX_BASIC | (STATX_BTIME if attributes.birth_ns is not None else 0),
        attributes.block_size,
        0,
        attributes.nlink,
        attributes.uid,
        attributes.gid,
        attributes.mode,
        attributes.ino,
        attributes.size,
        attributes.blocks,
        0,
        *times,
        major(attributes.rdev),
        minor(attributes.rdev),
        0,
        0,
    )


def statfs_out(statistics: FileSystemStatistics) -> bytes:
    """Pack fuse_statfs_out."""
    return wire.STATFS_OUT.pack(
        statistics.blocks,
        statistics.free,
        statistics.available,
        statistics.files,
        statistics.free_files,
        statistics.block_size,
        statistics.name_length,
        statistics.fragment_size,
        0,
    )


def dirent(entry: DirectoryEntry) -> bytes:
    """Pack fuse_dirent with its name, padded to 8 bytes."""
    name = entry.name
    return wire.DIRENT.pack(entry.ino, entry.offset, len(name), entry.kind) + name + bytes(-len(name) % 8)


def lock_out(lock: Lock) -> bytes:
    """Pack fuse_lk_out."""
    return wire.LOCK_OUT.pack(lock.start, lock.end, lock.kind, lock.pid)
