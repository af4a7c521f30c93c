"""FUSE_INIT: versions, flags, limits, and the order of things."""

from __future__ import annotations

import errno
import struct

import pytest

from pykrun.fs import InodeAllocator, NullFs
from pykrun.fs import interface as fs_interface
from tests.fs.memory import MemoryFs
from tests.fuse import guest as fuse
from tests.fuse.guest import EVERYTHING, Guest, Reply, message

ASYNC_READ, POSIX_LOCKS, ATOMIC_O_TRUNC, EXPORT_SUPPORT, BIG_WRITES, DONT_MASK = 1, 2, 8, 16, 32, 64
SPLICE_WRITE, FLOCK_LOCKS, HAS_IOCTL_DIR, AUTO_INVAL_DATA = 1 << 7, 1 << 10, 1 << 11, 1 << 12
DO_READDIRPLUS, READDIRPLUS_AUTO, ASYNC_DIO, WRITEBACK_CACHE = 1 << 13, 1 << 14, 1 << 15, 1 << 16
PARALLEL_DIROPS, HANDLE_KILLPRIV, POSIX_ACL, ABORT_ERROR = 1 << 18, 1 << 19, 1 << 20, 1 << 21
MAX_PAGES, CACHE_SYMLINKS, EXPLICIT_INVAL_DATA, MAP_ALIGNMENT = 1 << 22, 1 << 23, 1 << 25, 1 << 26
SUBMOUNTS, HANDLE_KILLPRIV_V2, SETXATTR_EXT, SECURITY_CTX = 1 << 27, 1 << 28, 1 << 29, 1 << 32
HAS_INODE_DAX, CREATE_SUPP_GROUP, PASSTHROUGH = 1 << 33, 1 << 34, 1 << 37

SAVERS = (
    ASYNC_READ
    | BIG_WRITES
    | DO_READDIRPLUS
    | READDIRPLUS_AUTO
    | PARALLEL_DIROPS
    | MAX_PAGES
    | CACHE_SYMLINKS
    | SUBMOUNTS
    | HANDLE_KILLPRIV_V2
)


class Agreed:
    def __init__(self, reply: Reply) -> None:
        assert reply.error == 0
        assert len(reply.body) == 64
        (
            self.major,
            self.minor,
            self.max_readahead,
            flags,
            self.max_background,
            self.congestion,
            self.max_write,
            self.time_gran,
            self.max_pages,
            self.map_alignment,
            flags2,
        ) = struct.unpack_from("<IIIIHHIIHHI", reply.body)
        self.flags = flags | flags2 << 32


def agree(fs: NullFs | MemoryFs | None = None, flags: int = EVERYTHING) -> Agreed:
    return Agreed(Guest(fs or NullFs(), init=False).init(flags=flags))


def test_limits() -> None:
    agreed = agree()
    assert (agreed.major, agreed.max_write, agreed.max_pages, agreed.time_gran) == (7, 1 << 20, 256, 1)
    assert agreed.minor >= 38
    assert agreed.max_readahead == 131072
    assert agreed.max_background >= agreed.congestion > 0


def test_flags_that_save_round_trips_are_taken() -> None:
    assert agree().flags & SAVERS == SAVERS
    assert agree().flags & fuse.NO_OPENDIR_SUPPORT


def test_flags_that_would_break_a_promise_are_not() -> None:
    never = (
        fuse.NO_OPEN_SUPPORT
        | EXPORT_SUPPORT
        | SECURITY_CTX
        | HAS_INODE_DAX
        | MAP_ALIGNMENT
        | SETXATTR_EXT
        | SPLICE_WRITE
        | PASSTHROUGH
        | HANDLE_KILLPRIV
    )
    assert agree().flags & never == 0
    assert agree(MemoryFs(InodeAllocator())).flags & never == 0


def test_only_what_was_offered() -> None:
    assert agree(flags=0).flags == 0
    assert agree(flags=0).max_pages == 0
    offered = ASYNC_READ | MAX_PAGES
    assert agree(flags=offered).flags == offered


def test_flags2_need_init_ext() -> None:
    class Groups(NullFs):
        features = fs_interface.SUPPLEMENTARY_GROUPS

    assert agree(Groups()).flags & CREATE_SUPP_GROUP
    assert agree(Groups(), EVERYTHING & ~fuse.INIT_EXT).flags >> 32 == 0


@pytest.mark.parametrize(
    ("feature", "flags"),
    [
        (fs_interface.POSIX_LOCKS, POSIX_LOCKS),
        (fs_interface.FLOCK_LOCKS, FLOCK_LOCKS),
        (fs_interface.WRITEBACK_CACHE, WRITEBACK_CACHE),
        (fs_interface.AUTO_INVALIDATE, AUTO_INVAL_DATA),
        (fs_interface.POSIX_ACL, POSIX_ACL | SETXATTR_EXT),
        (fs_interface.OWN_UMASK, DONT_MASK),
        (fs_interface.SUPPLEMENTARY_GROUPS, CREATE_SUPP_GROUP),
        (fs_interface.STATELESS_DIRECTORIES, fuse.NO_OPENDIR_SUPPORT),
    ],
)
def test_what_a_file_system_opts_into(feature: int, flags: int) -> None:
    class With(NullFs):
        features = feature

    class Without(NullFs):
        features = 0

    assert agree(With()).flags & flags == flags
    assert agree(Without()).flags & flags == 0


@pytest.mark.parametrize(("major", "minor"), [(6, 99), (0, 0), (7, 22), (7, 30)])
def test_guests_that_are_too_old(major: int, minor: int) -> None:
    guest = Guest(NullFs(), init=False)
    assert guest.init(major, minor).error == errno.EPROTO
    assert guest.call(fuse.GETATTR, 1, bytes(16)).error == errno.EIO
    assert guest.init().error == 0


@pytest.mark.parametrize("minor", [31, 36, 38, 45, 99])
def test_minor_versions(minor: int) -> None:
    assert Agreed(Guest(NullFs(), init=False).init(minor=minor)).major == 7


def test_newer_major_is_told_ours_and_asks_again() -> None:
    guest = Guest(NullFs(), init=False)
    agreed = Agreed(guest.init(8, 0))
    assert (agreed.major, agreed.flags) == (7, 0)
    assert guest.call(fuse.GETATTR, 1, bytes(16)).error == errno.EIO
    assert guest.init().error == 0
    assert guest.getattr(1).ino == 1


def test_body_of_older_kernels_is_short() -> None:
    guest = Guest(NullFs(), init=False)
    offered = (EVERYTHING & ~fuse.INIT_EXT) & 0xFFFFFFFF
    assert Agreed(guest.call(fuse.INIT, 0, struct.pack("<IIII", 7, 31, 4096, offered))).flags & SAVERS == SAVERS


@pytest.mark.parametrize("size", [0, 8, 15, 16, 19])
def test_short_bodies(size: int) -> None:
    guest = Guest(NullFs(), init=False)
    body = struct.pack("<IIIII44x", 7, 38, 0, fuse.INIT_EXT, 0)[:size]
    assert guest.call(fuse.INIT, 0, body).error == errno.EINVAL
    assert not guest.server.initialized


def test_requests_before_init() -> None:
    guest = Guest(NullFs(), init=False)
    for opcode in range(1, 70):
        if opcode == fuse.INIT:
            continue
        if opcode in (fuse.FORGET, fuse.BATCH_FORGET, fuse.NOTIFY_REPLY):
            guest.silent(opcode, 1, bytes(16))
        else:
            assert guest.call(opcode, 1, bytes(64)).error == errno.EIO, opcode


def test_second_init_changes_nothing() -> None:
    guest = Guest(MemoryFs(InodeAllocator()))
    fh = guest.opendir(1)
    assert guest.init(flags=0).error == errno.EIO
    assert guest.releasedir(1, fh) == 0


def test_destroy_ends_everything_and_init_may_come_again() -> None:
    inner = MemoryFs(InodeAllocator())
    inner.plant(b"/file", b"data")
    guest = Guest(inner)
    node = guest.lookup(1, b"file").nodeid
    fh = guest.open(node)
    guest.opendir(1)
    assert guest.good(fuse.DESTROY, 0) == b""
    assert (inner.lookups, inner.handles) == ({}, set())
    assert guest.call(fuse.GETATTR, 1, bytes(16)).error == errno.EIO
    assert guest.init().error == 0
    assert guest.call(fuse.READ, node, fuse.io_in(fh, 0, 4)).error == errno.EBADF
    assert guest.call(fuse.GETATTR, node, bytes(16)).error == errno.ESTALE
    assert guest.content(b"/file") == b"data"


def test_reset_is_as_good_as_destroy() -> None:
    inner = MemoryFs(InodeAllocator())
    inner.plant(b"/file", b"data")
    guest = Guest(inner)
    guest.open(guest.lookup(1, b"file").nodeid)
    guest.opendir(1)
    guest.server.reset()
    assert (inner.lookups, inner.handles) == ({}, set())
    assert not guest.server.initialized
    guest.server.reset()
    assert guest.init().error == 0


def test_reset_goes_on_when_the_file_system_fails() -> None:
    class Failing(MemoryFs):
        def release(self, ino: int, handle: object, flock_owner: int | None) -> None:
            super().release(ino, handle, flock_owner)
            raise RuntimeError("a bug")

    inner = Failing(InodeAllocator())
    inner.plant(b"/file", b"data")
    guest = Guest(inner)
    node = guest.lookup(1, b"file").nodeid
    for _ in range(3):
        guest.open(node)
    guest.server.reset()
    assert (inner.lookups, inner.handles) == ({}, set())


def test_opendir_where_the_guest_must_open() -> None:
    guest = Guest(NullFs(), flags=EVERYTHING & ~fuse.NO_OPENDIR_SUPPORT)
    fh = guest.opendir(1)
    assert fh > 0
    assert guest.names(1) == [b".", b".."]
    assert guest.call(fuse.GETATTR, 1, struct.pack("<IIQ", 1, 0, fh)).error == 0
    assert guest.call(fuse.GETATTR, 1, struct.pack("<IIQ", 1, 0, 0)).error == errno.EBADF
    assert guest.releasedir(1, fh) == 0
    assert guest.releasedir(1, fh) == errno.EBADF


def test_opendir_where_it_need_not() -> None:
    guest = Guest(NullFs())
    assert guest.call(fuse.OPENDIR, 1, bytes(8)).error == errno.ENOSYS
    assert guest.names(1) == [b".", b".."]
    assert guest.call(fuse.GETATTR, 1, struct.pack("<IIQ", 1, 0, 0)).error == 0  # fstat of a directory without handle
    assert guest.call(fuse.GETATTR, 1, struct.pack("<IIQ", 1, 0, 7)).error == errno.EBADF


def test_interrupts_are_not_wanted() -> None:
    guest = Guest(NullFs())
    assert guest.call(fuse.INTERRUPT, 0, bytes(8)).error == errno.ENOSYS


def test_statistics_count_by_name() -> None:
    guest = Guest(NullFs())
    guest.getattr(1)
    guest.getattr(1)
    guest.forget(1)
    guest.send(message(63, 1))
    guest.send(message(5000, 1))
    assert guest.server.statistics() == {"INIT": 1, "GETATTR": 2, "FORGET": 1, "UNKNOWN": 2}
