"""FUSE_INIT: what both sides agree on."""

from __future__ import annotations

from errno import EINVAL, EPROTO
from struct import unpack_from

from pykrun.fs import interface
from pykrun.fs.types import errno_error
from pykrun.fuse import wire

ALWAYS = (
    wire.ASYNC_READ
    | wire.ATOMIC_O_TRUNC
    | wire.BIG_WRITES
    | wire.HAS_IOCTL_DIR
    | wire.DO_READDIRPLUS
    | wire.READDIRPLUS_AUTO
    | wire.ASYNC_DIO
    | wire.PARALLEL_DIROPS
    | wire.ABORT_ERROR
    | wire.MAX_PAGES_FLAG
    | wire.CACHE_SYMLINKS
    | wire.SUBMOUNTS
    | wire.HANDLE_KILLPRIV_V2
    | wire.INIT_EXT
)
"""Taken whenever the guest offers them. NO_OPEN_SUPPORT never is: it would drop the EACCES of opening for writing and
the RELEASE that ends a one-shot file. EXPORT_SUPPORT neither: nobody may look up "." and "..". """

WANTED = (
    (interface.STATELESS_DIRECTORIES, wire.NO_OPENDIR_SUPPORT),
    (interface.POSIX_LOCKS, wire.POSIX_LOCKS),
    (interface.FLOCK_LOCKS, wire.FLOCK_LOCKS),
    (interface.WRITEBACK_CACHE, wire.WRITEBACK_CACHE),
    (interface.AUTO_INVALIDATE, wire.AUTO_INVAL_DATA),
    (interface.POSIX_ACL, wire.POSIX_ACL | wire.SETXATTR_EXT),
    (interface.OWN_UMASK, wire.DONT_MASK),
    (interface.SUPPLEMENTARY_GROUPS, wire.CREATE_SUPP_GROUP),
)
"""Taken when the file system asks for the feature on the left."""

MAX_BACKGROUND = 64
CONGESTION_THRESHOLD = 48


class Agreement:
    """The outcome: flags in force (0 with `again`) and the body of the reply."""

    __slots__ = ("again", "flags", "reply")

    def __init__(self, flags: int, reply: bytes, *, again: bool) -> None:
        self.flags = flags
        self.reply = reply
        self.again = again
        """The guest speaks a newer major version and is to ask again with ours."""


def negotiate(body: bytes, features: int) -> Agreement:
    """Read fuse_init_in, choose, and make fuse_init_out.

    :raise OSError: EINVAL for a short body, EPROTO for a guest older than Linux 5.4.
    """
    if len(body) < 16:
        raise errno_error(EINVAL)
    major, minor, max_readahead, offered = unpack_from("<IIII", body)
    if major > wire.MAJOR:
        return Agreement(0, wire.INIT_OUT.pack(wire.MAJOR, wire.MINOR, *(0,) * 10), again=True)
    if major < wire.MAJOR or minor < wire.OLDEST_MINOR:
        raise errno_error(EPROTO)
    if offered & wire.INIT_EXT:
        if len(body) < 20:
            raise errno_error(EINVAL)
        offered |= unpack_from("<I", body, 16)[0] << 32
    wanted = ALWAYS
    for feature, flags in WANTED:
        if features & feature:
            wanted |= flags
    agreed = offered & wanted
    reply = wire.INIT_OUT.pack(
        wire.MAJOR,
        wire.MINOR,
        max_readahead,
        agreed & 0xFFFF_FFFF,
        MAX_BACKGROUND,
        CONGESTION_THRESHOLD,
        wire.MAX_WRITE,
        1,  # time stamps are exact to a nanosecond
        wire.MAX_PAGES if agreed & wire.MAX_PAGES_FLAG else 0,
        0,
        agreed >> 32,
        0,
    )
    return Agreement(agreed, reply, again=False)
