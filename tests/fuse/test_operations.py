"""Every operation, decoded and answered: a guest works on a writable tree, over the wire and nowhere else."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator

import pytest

from pykrun.fs import InodeAllocator
from pykrun.fs import interface as fs_interface
from tests.fs.memory import MemoryFs
from tests.fuse import guest as fuse
from tests.fuse.guest import Guest, attr, entry_out, io_in


class World:
    def __init__(self) -> None:
        self.inner = MemoryFs(InodeAllocator())
        self.inner.plant(b"/file", b"content")
        self.guest = Guest(self.inner)
        self.file = self.guest.lookup(1, b"file").nodeid


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    assert made.guest.server.faults == 0
    made.guest.server.reset()
    assert (made.inner.lookups, made.inner.handles) == ({}, set())


CALLER = (11, 12, 13)


def setattr_body(valid: int, **values: int) -> bytes:
    times = ("atime", "mtime", "ctime", "atimensec", "mtimensec", "ctimensec")
    order = ("fh", "size", "lock_owner", *times, "mode", "uid", "gid")
    return struct.pack("<I4xQQQQQQIIII4xII4x", valid, *(values.get(name, 0) for name in order))


def test_setattr(world: World) -> None:
    guest = world.guest

    def change(valid: int, **values: int) -> fuse.Attr:
        return attr(guest.good(fuse.SETATTR, world.file, setattr_body(valid, **values))[16:])

    assert change(1, mode=0o100600).mode == stat.S_IFREG | 0o600
    changed = change(2 | 4, uid=5, gid=6)
    assert (changed.uid, changed.gid, changed.mode) == (5, 6, stat.S_IFREG | 0o600)
    assert change(8, size=3).size == 3
    before_1970 = (1 << 64) - 2
    changed = change(32, mtime=before_1970, mtimensec=5)
    assert (changed.mtime, changed.mtimensec) == (before_1970, 5)
    assert world.inner.find(b"/file").mtime_ns == -2_000_000_000 + 5
    fh = guest.open(world.file, os.O_RDWR)
    assert change(8 | 64, size=1, fh=fh).size == 1


def test_setattr_tells_what_was_asked() -> None:
    seen = []

    class Seeing(MemoryFs):
        def setattr(self, ino, handle, changes, caller):  # type: ignore[no-untyped-def]
            seen.append(changes)
            return super().setattr(ino, handle, changes, caller)

    guest = Guest(Seeing(InodeAllocator()))
    guest.good(fuse.SETATTR, 1, setattr_body(128 | 256 | 16 | 512 | 1024 | 2048, lock_owner=9, atime=1, ctime=2))
    (changes,) = seen
    assert (changes.atime_now, changes.mtime_now, changes.kill_privileges, changes.lock_owner) == (True, True, True, 9)
    assert (changes.atime_ns, changes.mtime_ns, changes.ctime_ns) == (10**9, None, 2 * 10**9)
    assert (changes.mode, changes.uid, changes.gid, changes.size) == (None, None, None, None)


def test_statx(world: World) -> None:
    body = world.guest.good(fuse.STATX, world.file, struct.pack("<IIQII", 0, 0, 0, 0, 0xFFF))
    mask, _, _, _, _, _, mode, ino, size = struct.unpack_from("<IIQIIIHxxQQ", body, 32)
    assert (mask, mode, ino, size) == (0xFFF, stat.S_IFREG | 0o644, world.file, 7)
    assert struct.unpack_from("<qI", body, 32 + 80) == (1, 500_000_000)  # birth, after attributes_mask and atime


def test_links(world: World) -> None:
    guest = world.guest
    link = entry_out(guest.call(fuse.SYMLINK, 1, b"link\0../some/where\0", caller=CALLER).body)
    assert link.attr.mode == stat.S_IFLNK | 0o777
    assert (link.attr.uid, link.attr.gid) == (11, 12)
    assert guest.good(fuse.READLINK, link.nodeid) == b"../some/where"
    assert guest.call(fuse.READLINK, link.nodeid, room=20).error == errno.EINVAL
    assert guest.call(fuse.READLINK, world.file).error == errno.EINVAL
    hard = entry_out(guest.good(fuse.LINK, 1, struct.pack("<Q", world.file) + b"hard\0"))
    assert (hard.nodeid, hard.attr.nlink) == (world.file, 2)
    assert guest.content(b"/hard") == b"content"


def test_making_things(world: World) -> None:
    guest = world.guest
    body = struct.pack("<IIII", stat.S_IFIFO | 0o640, 0, 0o22, 0) + b"fifo\0"
    fifo = entry_out(guest.call(fuse.MKNOD, 1, body, caller=CALLER).body)
    assert fifo.attr.mode == stat.S_IFIFO | 0o640  # the guest has applied its umask already
    device = os.makedev(0x123, 0x45678)
    body = struct.pack("<IIII", stat.S_IFCHR | 0o600, 7, 0, 0) + b"dev\0"
    world.inner.find(b"/file").rdev = device
    assert guest.getattr(world.file).rdev == 0x78 | 0x123 << 8 | 0x456 << 20
    assert guest.call(fuse.MKNOD, 1, body).error == 0
    folder = entry_out(guest.call(fuse.MKDIR, 1, struct.pack("<II", 0o1777, 0) + b"folder\0", caller=CALLER).body)
    assert folder.attr.mode == stat.S_IFDIR | 0o1777
    assert guest.call(fuse.MKDIR, 1, struct.pack("<II", 0o755, 0) + b"folder\0").error == errno.EEXIST
    assert world.inner.callers == [(*CALLER, ()), (0, 0, 1, ()), (*CALLER, ())]


def test_umask_is_the_file_systems_where_it_says_so() -> None:
    class WithUmask(MemoryFs):
        features = fs_interface.OWN_UMASK

    guest = Guest(WithUmask(InodeAllocator()))
    made = entry_out(guest.good(fuse.MKDIR, 1, struct.pack("<II", 0o777, 0o27) + b"d\0"))
    assert made.attr.mode == stat.S_IFDIR | 0o750


def test_supplementary_groups(world: World) -> None:
    groups = struct.pack("<IIIII", 20, 32, 2, 100, 200) + bytes(4)
    other = struct.pack("<IIII", 16, 31, 0, 0)
    for name, extension in ((b"a", groups), (b"b", other + groups), (b"c", other)):
        body = struct.pack("<II", 0o755, 0) + name + b"\0" + extension
        assert world.guest.call(fuse.MKDIR, 1, body, caller=CALLER, ext=len(extension) // 8).error == 0
    assert [groups for _, _, _, groups in world.inner.callers] == [(100, 200), (100, 200), ()]


def test_removing_and_renaming(world: World) -> None:
    guest, root = world.guest, world.inner.root
    world.inner.plant(b"/dir/leaf", b"leaf")
    directory = guest.lookup(1, b"dir").nodeid
    rename = struct.Struct("<Q").pack
    rename2 = struct.Struct("<QII").pack
    assert guest.call(fuse.RENAME, 1, rename(directory) + b"file\0moved\0").error == 0
    assert guest.call(fuse.RENAME2, directory, rename2(1, 1, 0) + b"moved\0dir\0").error == errno.EEXIST
    assert guest.call(fuse.RENAME2, directory, rename2(directory, 2, 0) + b"moved\0leaf\0").error == 0
    assert bytes(root.names[b"dir"].names[b"leaf"].data) == b"content"
    assert guest.call(fuse.RMDIR, 1, b"dir\0").error == errno.ENOTEMPTY
    assert guest.call(fuse.UNLINK, 1, b"dir\0").error == errno.EISDIR
    for name in (b"leaf\0", b"moved\0"):
        assert guest.call(fuse.UNLINK, directory, name).error == 0
    assert guest.call(fuse.RMDIR, 1, b"dir\0").error == 0
    assert root.names == {}


def test_create_and_tmpfile(world: World) -> None:
    guest = world.guest
    body = struct.pack("<IIII", os.O_RDWR | os.O_CREAT | os.O_EXCL, stat.S_IFREG | 0o640, 0, 0)
    made = guest.call(fuse.CREATE, 1, body + b"new\0", caller=CALLER)
    entry = entry_out(made.body[:128])
    fh, flags, _ = struct.unpack("<QII", made.body[128:])
    assert (entry.attr.mode, entry.attr.uid, flags) == (stat.S_IFREG | 0o640, 11, 0)
    assert guest.write(entry.nodeid, fh, 2, b"abc") == (0, struct.pack("<II", 3, 0))
    assert guest.read(entry.nodeid, fh) == b"\0\0abc"
    assert guest.call(fuse.CREATE, 1, body + b"new\0").error == errno.EEXIST
    nameless = guest.call(fuse.TMPFILE, 1, body + b"/\0", caller=CALLER)  # "/" is what Linux sends
    entry = entry_out(nameless.body[:128])
    assert guest.write(entry.nodeid, struct.unpack_from("<Q", nameless.body, 128)[0], 0, b"x").error == 0
    assert world.inner.callers == [(*CALLER, ())] * 2


def test_files(world: World) -> None:
    guest, node = world.guest, world.file
    fh = guest.open(node, os.O_RDWR)
    assert guest.write(node, fh, 7, b"!").error == 0
    assert guest.read(node, fh, 3, 100) == b"tent!"
    assert guest.good(fuse.FLUSH, node, struct.pack("<QIIQ", fh, 0, 0, 5)) == b""
    assert guest.good(fuse.FSYNC, node, struct.pack("<QII", fh, 1, 0)) == b""
    assert guest.good(fuse.FALLOCATE, node, struct.pack("<QQQII", fh, 0, 100, 0, 0)) == b""
    assert guest.getattr(node).size == 100
    assert guest.good(fuse.LSEEK, node, struct.pack("<QQII", fh, 5, 4, 0)) == struct.pack("<Q", 100)
    assert guest.good(fuse.POLL, node, struct.pack("<QQII", fh, 0, 0, 0xFF)) == struct.pack("<II", 5, 0)
    assert guest.good(fuse.BMAP, node, struct.pack("<QII", 41, 4096, 0)) == struct.pack("<Q", 42)
    assert guest.good(fuse.ACCESS, node, struct.pack("<II", 7, 0)) == b""
    assert guest.good(fuse.SYNCFS, 1, bytes(8)) == b""
    assert world.inner.synced == 2
    assert guest.release(node, fh) == 0


def test_open_flags_reach_the_file_system(world: World) -> None:
    guest = world.guest
    guest.open(world.file, os.O_WRONLY | os.O_TRUNC)
    assert guest.getattr(world.file).size == 0


@pytest.mark.parametrize(("opcode", "reply"), [(fuse.COPY_FILE_RANGE, "<II"), (fuse.COPY_FILE_RANGE_64, "<Q")])
def test_copy_file_range(world: World, opcode: int, reply: str) -> None:
    guest = world.guest
    world.inner.plant(b"/other", b"-----")
    other = guest.lookup(1, b"other").nodeid
    source, target = guest.open(world.file), guest.open(other, os.O_RDWR)
    body = struct.pack("<7Q", source, 3, other, target, 1, 1 << 62, 0)
    assert struct.unpack(reply, guest.good(opcode, world.file, body))[0] == 4
    assert world.inner.find(b"/other").data == b"-tent"


def test_directories(world: World) -> None:
    guest = world.guest
    for number in range(100):
        world.inner.plant(b"/dir/%03d" % number, b"")
    directory = guest.lookup(1, b"dir").nodeid
    expected = [b".", b"..", *(b"%03d" % number for number in range(100))]
    for plus, size in ((False, 32), (False, 100), (True, 200), (True, 4096)):
        assert [entry.name for entry in guest.listing(directory, plus=plus, size=size)] == expected
    fh = guest.opendir(directory)
    assert guest.good(fuse.FSYNCDIR, directory, struct.pack("<QII", fh, 0, 0)) == b""
    assert guest.call(fuse.OPENDIR, world.file, bytes(8)).error == errno.ENOTDIR
    one = fuse.dirents(guest.good(fuse.READDIR, directory, io_in(fh, 50, 4096), room=4112), plus=False)
    assert next(one).name == b"048"


def test_an_error_within_a_listing_comes_after_what_was_read() -> None:
    class Failing(MemoryFs):
        def readdir(self, ino, handle, offset):  # type: ignore[no-untyped-def]
            for entry in super().readdir(ino, handle, offset):
                if entry.name == b"bad":
                    raise OSError(errno.EIO, "broken")
                yield entry

    inner = Failing(InodeAllocator())
    inner.plant(b"/good", b"")
    inner.plant(b"/bad", b"")
    guest = Guest(inner)
    fh = guest.opendir(1)
    entries = list(fuse.dirents(guest.good(fuse.READDIR, 1, io_in(fh, 0, 4096)), plus=False))
    assert [entry.name for entry in entries] == [b".", b"..", b"good"]
    assert guest.call(fuse.READDIR, 1, io_in(fh, entries[-1].off, 4096)).error == errno.EIO


def test_extended_attributes(world: World) -> None:
    guest, node = world.guest, world.file
    for name, value in ((b"user.a", b"1"), (b"user.b/c", b""), (b"trusted.d", bytes(60000))):
        body = struct.pack("<II", len(value), 0) + name + b"\0" + value
        assert guest.good(fuse.SETXATTR, node, body) == b""
        sized = struct.pack("<II", 65536, 0)
        assert guest.good(fuse.GETXATTR, node, sized + name + b"\0") == value
        length = guest.good(fuse.GETXATTR, node, bytes(8) + name + b"\0")
        assert length == struct.pack("<II", len(value), 0)
    assert guest.good(fuse.LISTXATTR, node, sized) == b"user.a\0user.b/c\0trusted.d\0"
    assert guest.good(fuse.LISTXATTR, node, bytes(8)) == struct.pack("<II", 26, 0)
    assert guest.good(fuse.REMOVEXATTR, node, b"user.a\0") == b""
    assert guest.call(fuse.REMOVEXATTR, node, b"user.a\0").error == errno.ENODATA
    assert guest.call(fuse.GETXATTR, node, sized + b"user.a\0").error == errno.ENODATA


def test_locks(world: World) -> None:
    guest, node = world.guest, world.file
    fh = guest.open(node)

    def lock(opcode: int, kind: int, start: int = 0, end: int = (1 << 63) - 1) -> fuse.Reply:
        return guest.call(opcode, node, struct.pack("<QQQQIIII", fh, 99, start, end, kind, 13, 0, 0))

    assert lock(fuse.GETLK, 1).body == struct.pack("<QQII", 0, 0, 2, 0)
    assert lock(fuse.SETLK, 1, 10, 20).error == 0
    assert lock(fuse.GETLK, 1).body == struct.pack("<QQII", 10, 20, 1, 13)
    for opcode in (fuse.SETLK, fuse.SETLKW):  # neither ever waits
        assert lock(opcode, 1).error == errno.EAGAIN
    assert lock(fuse.SETLK, 2).error == 0
    assert lock(fuse.SETLKW, 0).error == 0
    assert lock(fuse.SETLK, 3).error == lock(fuse.SETLK, 0, 5, 4).error == errno.EINVAL


def test_statfs(world: World) -> None:
    body = world.guest.good(fuse.STATFS, 1)
    assert struct.unpack("<5Q4I24x", body) == (100, 50, 40, 30, 20, 4096, 255, 4096, 0)


def test_ioctl(world: World) -> None:
    reply = world.guest.ioctl(1, 0x1234, 0, b"abc", 10)
    assert (reply.error, reply.body) == (0, bytes(16) + b"cba")
    assert world.guest.ioctl(1, 0x4321).error == errno.ENOTTY


def test_negative_entries_are_not_counted() -> None:
    class Remembering(MemoryFs):
        def lookup(self, parent, name):  # type: ignore[no-untyped-def]
            from pykrun.fs.types import Attributes, Entry

            return Entry(0, Attributes(ino=0, mode=0), 1.5)

    guest = Guest(Remembering(InodeAllocator()))
    body = guest.good(fuse.LOOKUP, 1, b"missing\0")
    assert struct.unpack_from("<QQQQII", body) == (0, 0, 1, 0, 500_000_000, 0)
    guest.forget(0)


def test_default_answers() -> None:
    """A file system that implements nothing: ENOSYS, and never a fault."""
    from pykrun.fs import FileSystem

    guest = Guest(FileSystem())
    quiet = (*range(41, 43), fuse.FORGET, fuse.INIT, fuse.DESTROY)
    for opcode in range(1, 54):
        if opcode in quiet:
            continue
        for names in (b"", b"x\0", b"x\0y\0"):
            reply = guest.call(opcode, 1, bytes(88)[: _body_size(opcode)] + names)
            assert reply.error in {
                errno.ENOSYS,
                errno.EINVAL,
                errno.EBADF,
                errno.ENOENT,
                errno.EOPNOTSUPP,
                errno.ESTALE,
            }
    assert guest.server.faults == 0


def _body_size(opcode: int) -> int:
    return {fuse.MKNOD: 16, fuse.CREATE: 16, fuse.MKDIR: 8, fuse.RENAME: 8, fuse.RENAME2: 16, fuse.LINK: 8}.get(
        opcode, 0
    )
