"""The values that file systems and the server exchange. All are made once and not changed after they were handed out.

Plain classes with slots: making one is on the path of every request, and a frozen dataclass takes five times as long.
`wire` is a place for the server to keep the packed form, so that what does not change is packed once. Where the host's
kernel is asked every time, attributes are born packed (`PackedAttributes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from os import strerror
from struct import Struct
from typing import Any

from pykrun.fs.packed import ATTR, ATTR_OUT, ATTR_SUBMOUNT, ENTRY_OUT, unfold_device
from pykrun.fs.packed import FOREVER as FOREVER  # for everybody else

# What the guest may do with an open file or directory: values as in FUSE's open reply.
DIRECT_IO = 1 << 0
KEEP_CACHE = 1 << 1
CACHE_DIR = 1 << 3
NOFLUSH = 1 << 5
PARALLEL_DIRECT_WRITES = 1 << 6


def errno_error(code: int) -> OSError:
    """Make the exception that answers a request with `code`."""
    return OSError(code, strerror(code))


class Attributes:
    """What stat(2) tells, and for how many seconds the guest may believe it.

    :param ino: st_ino, which need not be the inode number of the protocol.
    :param mode: type and permission bits.
    :param birth_ns: time of birth for statx, None when unknown.
    :param submount: the root of another file system: the guest shows it as a mount of its own.
    """

    __slots__ = (
        "atime_ns",
        "birth_ns",
        "block_size",
        "blocks",
        "ctime_ns",
        "gid",
        "ino",
        "mode",
        "mtime_ns",
        "nlink",
        "packed",
        "rdev",
        "size",
        "submount",
        "timeout",
        "uid",
        "wire",
    )

    def __init__(
        self,
        *,
        ino: int,
        mode: int,
        size: int = 0,
        blocks: int = 0,
        nlink: int = 1,
        uid: int = 0,
        gid: int = 0,
        rdev: int = 0,
        block_size: int = 4096,
        atime_ns: int = 0,
        mtime_ns: int = 0,
        ctime_ns: int = 0,
        birth_ns: int | None = None,
        submount: bool = False,
        timeout: float = 0,
    ) -> None:
        self.ino = ino
        self.mode = mode
        self.size = size
        self.blocks = blocks
        self.nlink = nlink
        self.uid = uid
        self.gid = gid
        self.rdev = rdev
        self.block_size = block_size
        self.atime_ns = atime_ns
        self.mtime_ns = mtime_ns
        self.ctime_ns = ctime_ns
        self.birth_ns = birth_ns
        self.submount = submount
        self.timeout = timeout
        self.packed: bytes | None = None
        """`struct fuse_attr`, once it was made."""
        self.wire: bytes | None = None


_SECOND = 1_000_000_000
_ATTR_HEAD = Struct("<QI4x")


class PackedAttributes(Attributes):
    """Attributes that came packed; members are unpacked when somebody asks for one.

    :param wire: `struct fuse_attr_out`.
    """

    __slots__ = ()

    def __init__(self, wire: bytes) -> None:
        self.wire = wire
        self.packed = None
        self.birth_ns = None

    def __getattr__(self, name: str) -> Any:
        """Unpack: called for a member that is not there yet, and so once at most."""
        if name not in Attributes.__slots__:
            raise AttributeError(name)
        assert self.wire is not None
        packed = self.packed = self.wire[-ATTR.size :]
        seconds, nanoseconds = ATTR_OUT.unpack(self.wire)[:2]
        self.timeout = seconds + nanoseconds / _SECOND
        self.ino, self.size, self.blocks, *times = ATTR.unpack(packed)[:9]
        self.mode, self.nlink, self.uid, self.gid, rdev, self.block_size, flags = ATTR.unpack(packed)[9:]
        self.atime_ns, self.mtime_ns, self.ctime_ns = (
            (seconds - (1 << 64) if seconds >> 63 else seconds) * _SECOND + nanoseconds
            for seconds, nanoseconds in zip(times[:3], times[3:], strict=True)
        )
        self.rdev = unfold_device(rdev)
        self.submount = bool(flags & ATTR_SUBMOUNT)
        return getattr(self, name)


class Entry:
    """The answer to a look-up.

    :param ino: the inode number of the protocol; 0 for a name that is missing.
    :param timeout: for how many seconds the guest may believe that the name means this inode (or nothing).
    """

    __slots__ = ("attributes", "generation", "ino", "timeout", "wire")

    def __init__(self, ino: int, attributes: Attributes, timeout: float = 0, generation: int = 0) -> None:
        self.ino = ino
        self.attributes = attributes
        self.timeout = timeout
        self.generation = generation
        self.wire: bytes | None = None


class PackedEntry(Entry):
    """An entry that came packed.

    :param wire: `struct fuse_entry_out`.
    """

    __slots__ = ()

    def __init__(self, ino: int, wire: bytes) -> None:
        self.ino = ino
        self.wire = wire

    def __getattr__(self, name: str) -> Any:
        """Unpack: called for a member that is not there yet, and so once at most."""
        if name not in Entry.__slots__:
            raise AttributeError(name)
        assert self.wire is not None
        _, self.generation, name_seconds, seconds, name_nanoseconds, nanoseconds = ENTRY_OUT.unpack(self.wire)[:6]
        self.timeout = name_seconds + name_nanoseconds / _SECOND
        self.attributes = PackedAttributes(_ATTR_HEAD.pack(seconds, nanoseconds) + self.wire[-ATTR.size :])
        return getattr(self, name)


MISSING_FOREVER = Entry(0, Attributes(ino=0, mode=0), FOREVER)
"""The answer to a look-up of a name that is not there and never will be."""


class Opened:
    """An open file or directory: any object as its handle, and `KEEP_CACHE` and its like."""

    __slots__ = ("flags", "handle")

    def __init__(self, handle: Any, flags: int = 0) -> None:
        self.handle = handle
        self.flags = flags


class DirectoryEntry:
    """One name of a listing.

    :param ino: st_ino of what it names.
    :param kind: the file type as in dirent's d_type (`mode >> 12`).
    :param offset: where the listing goes on after this entry; below 2^63.
    """

    __slots__ = ("ino", "kind", "name", "offset")

    def __init__(self, name: bytes, ino: int, kind: int, offset: int) -> None:
        self.name = name
        self.ino = ino
        self.kind = kind
        self.offset = offset


class Caller:
    """Who asks: ids as the guest knows them; `groups` only for file systems that want them."""

    __slots__ = ("gid", "groups", "pid", "uid")

    def __init__(self, uid: int, gid: int, pid: int, groups: Sequence[int] = ()) -> None:
        self.uid = uid
        self.gid = gid
        self.pid = pid
        self.groups = groups


class Changes:
    """What setattr is to change; None leaves a value alone, `*_now` means the time of the change."""

    __slots__ = (
        "atime_now",
        "atime_ns",
        "ctime_ns",
        "gid",
        "kill_privileges",
        "lock_owner",
        "mode",
        "mtime_now",
        "mtime_ns",
        "size",
        "uid",
    )

    def __init__(
        self,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
        atime_now: bool = False,
        mtime_now: bool = False,
        kill_privileges: bool = False,
        lock_owner: int | None = None,
    ) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = size
        self.atime_ns = atime_ns
        self.mtime_ns = mtime_ns
        self.ctime_ns = ctime_ns
        self.atime_now = atime_now
        self.mtime_now = mtime_now
        self.kill_privileges = kill_privileges
        self.lock_owner = lock_owner

    @property
    def is_empty(self) -> bool:
        """Nothing is asked for."""
        values = (self.mode, self.uid, self.gid, self.size, self.atime_ns, self.mtime_ns, self.ctime_ns)
        return all(value is None for value in values) and not (self.atime_now or self.mtime_now)


class Lock:
    """A byte-range lock: first and last byte, F_RDLCK, F_WRLCK or F_UNLCK, and its process in the guest."""

    __slots__ = ("end", "kind", "pid", "start")

    def __init__(self, start: int, end: int, kind: int, pid: int) -> None:
        self.start = start
        self.end = end
        self.kind = kind
        self.pid = pid


class FileSystemStatistics:
    """What statfs(2) tells, in units of `fragment_size` and in inodes."""

    __slots__ = (
        "available",
        "block_size",
        "blocks",
        "files",
        "fragment_size",
        "free",
        "free_files",
        "name_length",
    )

    def __init__(
        self,
        *,
        blocks: int = 0,
        free: int = 0,
        available: int = 0,
        files: int = 0,
        free_files: int = 0,
        block_size: int = 4096,
        name_length: int = 255,
        fragment_size: int = 4096,
    ) -> None:
        self.blocks = blocks
        self.free = free
        self.available = available
        self.files = files
        self.free_files = free_files
        self.block_size = block_size
        self.name_length = name_length
        self.fragment_size = fragment_size
