"""The hostile guest on plain bytes: what the server must survive, by the numbers of the project's security list.

Names (1, 2), resources (10 to 13), FUSE messages (14 to 16; INIT is in test_init.py). Whatever is sent ends in an
errno or in silence, and leaves nothing behind.
"""

from __future__ import annotations

import errno
import logging
import struct
from collections.abc import Iterator

import pytest

from pykrun.fs import InodeAllocator, NullFs
from pykrun.fs.types import Attributes, Entry
from tests.fs.memory import MemoryFs
from tests.fuse import guest as fuse
from tests.fuse.guest import Guest, augmented, io_in, message

OPERATIONS = [code for code in range(1, 54) if code not in (7, 19, 48, 49)]
SILENT = (fuse.FORGET, fuse.BATCH_FORGET, fuse.NOTIFY_REPLY)


class World:
    def __init__(self, *, max_inodes: int = 1000, max_handles: int = 1000) -> None:
        self.inner = MemoryFs(InodeAllocator())
        for name in (b"/one", b"/two", b"/three"):
            self.inner.plant(name, name)
        self.inner.plant(b"/sub/leaf", b"leaf")
        self.guest = Guest(self.inner, max_inodes=max_inodes, max_handles=max_handles)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    assert made.guest.server.faults == 0
    made.guest.server.reset()
    assert (made.inner.lookups, made.inner.handles) == ({}, set())


# 1, 2: names

BAD_NAMES = [
    (b"", errno.EINVAL),
    (b".", errno.EINVAL),
    (b"..", errno.EINVAL),
    (b"/", errno.EINVAL),
    (b"/etc/passwd", errno.EINVAL),
    (b"a/b", errno.EINVAL),
    (b"../x", errno.EINVAL),
    (b"x/", errno.EINVAL),
    (b"n" * 256, errno.ENAMETOOLONG),
    (b"n" * 60000, errno.ENAMETOOLONG),
]


def with_name(name: bytes) -> Iterator[tuple[int, bytes]]:
    yield fuse.LOOKUP, name
    yield fuse.MKNOD, struct.pack("<IIII", 0o100644, 0, 0, 0) + name
    yield fuse.MKDIR, struct.pack("<II", 0o755, 0) + name
    yield fuse.UNLINK, name
    yield fuse.RMDIR, name
    yield fuse.SYMLINK, name + b"\0target"
    yield fuse.LINK, struct.pack("<Q", 1) + name
    yield fuse.CREATE, struct.pack("<IIII", 0o102, 0o100644, 0, 0) + name
    yield fuse.RENAME, struct.pack("<Q", 1) + name + b"\0new"
    yield fuse.RENAME, struct.pack("<Q", 1) + b"one\0" + name
    yield fuse.RENAME2, struct.pack("<QII", 1, 0, 0) + name + b"\0new"
    yield fuse.RENAME2, struct.pack("<QII", 1, 0, 0) + b"one\0" + name


@pytest.mark.parametrize(("name", "error"), BAD_NAMES, ids=lambda value: repr(value)[:12])
def test_names(world: World, name: bytes, error: int) -> None:
    before = dict(world.inner.root.names)
    for opcode, body in with_name(name):
        assert world.guest.call(opcode, 1, body + b"\0").error == error, opcode
    assert world.inner.root.names == before


def test_names_without_or_with_too_many_nuls(world: World) -> None:
    before = dict(world.inner.root.names)
    for opcode, body in with_name(b"good"):
        assert world.guest.call(opcode, 1, body).error == errno.EINVAL, opcode
        assert world.guest.call(opcode, 1, body + b"\0hidden\0").error == errno.EINVAL, opcode
        assert world.guest.call(opcode, 1, body + b"\0\0").error == errno.EINVAL, opcode
    assert world.guest.call(fuse.LOOKUP, 1).error == errno.EINVAL
    assert world.inner.root.names == before


@pytest.mark.parametrize("target", [b"", b"t" * 4096])
def test_targets_of_symbolic_links(world: World, target: bytes) -> None:
    error = errno.ENAMETOOLONG if target else errno.EINVAL
    assert world.guest.call(fuse.SYMLINK, 1, b"link\0" + target + b"\0").error == error
    assert world.guest.call(fuse.SYMLINK, 1, b"link\0" + b"/any/../where" + b"\0").error == 0


@pytest.mark.parametrize("name", [b"", b"n" * 256])
def test_names_of_extended_attributes(world: World, name: bytes) -> None:
    error = errno.ENAMETOOLONG if name else errno.EINVAL
    for opcode, body in (
        (fuse.GETXATTR, struct.pack("<II", 10, 0) + name + b"\0"),
        (fuse.SETXATTR, struct.pack("<II", 1, 0) + name + b"\0v"),
        (fuse.REMOVEXATTR, name + b"\0"),
    ):
        assert world.guest.call(opcode, 1, body).error == error


def test_above_the_root_is_the_root() -> None:
    guest = Guest(augmented())
    assert [(entry.name, entry.ino) for entry in guest.listing(1)] == [(b".", 1), (b"..", 1)]


# 10: bounds


def test_open_files_are_bounded() -> None:
    world = World(max_handles=5)
    node = world.guest.lookup(1, b"one").nodeid
    handles = [world.guest.open(node) for _ in range(5)]
    for opcode, body in (
        (fuse.OPEN, bytes(8)),
        (fuse.CREATE, struct.pack("<IIII", 2, 0o644, 0, 0) + b"new\0"),
        (fuse.TMPFILE, struct.pack("<IIII", 2, 0o644, 0, 0) + b"/\0"),
    ):
        assert world.guest.call(opcode, node if opcode == fuse.OPEN else 1, body).error == errno.ENFILE
    assert len(world.inner.handles) == 5
    assert b"new" not in world.inner.root.names
    world.guest.release(node, handles[0])
    world.guest.open(node)


def test_open_directories_are_bounded() -> None:
    for world in (World(max_handles=3),):
        handles = [world.guest.opendir(1) for _ in range(3)]
        assert world.guest.call(fuse.OPENDIR, 1, bytes(8)).error == errno.ENFILE
        assert len(world.inner.handles) == 3
        assert world.guest.releasedir(1, handles[0]) == 0
        world.guest.opendir(1)
    guest = Guest(NullFs(), flags=fuse.EVERYTHING & ~fuse.NO_OPENDIR_SUPPORT, max_handles=2)
    assert [guest.call(fuse.OPENDIR, 1, bytes(8)).error for _ in range(3)] == [0, 0, errno.ENFILE]


def test_known_inodes_are_bounded() -> None:
    world = World(max_inodes=2)
    one, two = world.guest.lookup(1, b"one").nodeid, world.guest.lookup(1, b"two").nodeid
    assert world.guest.call(fuse.LOOKUP, 1, b"three\0").error == errno.ENFILE
    assert world.inner.lookups == {one: 1, two: 1}
    assert world.guest.lookup(1, b"one").nodeid == one
    create = struct.pack("<IIII", 2, 0o644, 0, 0) + b"new\0"
    assert world.guest.call(fuse.CREATE, 1, create).error == errno.ENFILE
    assert world.inner.handles == set()
    told = {entry.name: entry.nodeid for entry in world.guest.listing(1, plus=True)}
    assert (told[b"one"], told[b"two"], told[b"three"], told[b"sub"]) == (one, two, 0, 0)
    world.guest.forget(one, 2 + 1)
    world.guest.lookup(1, b"three")


def test_handles_are_not_used_up_by_failures(world: World) -> None:
    for _ in range(50):
        assert world.guest.call(fuse.OPEN, 1, bytes(8)).error == errno.EISDIR
        assert world.guest.call(fuse.OPENDIR, world.guest.lookup(1, b"one").nodeid, bytes(8)).error == errno.ENOTDIR
    assert world.inner.handles == set()


# 11: forget


@pytest.mark.parametrize("count", [2, 100, (1 << 64) - 1])
def test_forgetting_more_than_was_looked_up(world: World, count: int) -> None:
    node = world.guest.lookup(1, b"one").nodeid
    world.guest.forget(node, count)
    assert world.inner.lookups == {}
    world.guest.forget(node, count)
    world.guest.forget(1, count)
    world.guest.forget(12345, count)
    world.guest.forget(node, 0)
    assert world.guest.getattr(1).ino == 1
    assert world.guest.call(fuse.GETATTR, node, bytes(16)).error == errno.ESTALE


def test_the_root_can_be_found_like_others_but_not_forgotten() -> None:
    class Looping(MemoryFs):
        def lookup(self, parent: int, name: bytes) -> Entry:
            return self._entry(self.root)

    inner = Looping(InodeAllocator())
    guest = Guest(inner)
    for _ in range(3):
        assert guest.lookup(1, b"self").nodeid == 1
    guest.forget(1, 2)
    assert inner.lookups == {1: 1}
    guest.forget(1, 5)
    assert inner.lookups == {}
    guest.lookup(1, b"self")
    guest.server.reset()
    assert inner.lookups == {}


def test_batch_forget(world: World) -> None:
    one, two = (world.guest.lookup(1, name).nodeid for name in (b"one", b"two"))
    world.guest.lookup(1, b"two")
    world.guest.batch_forget((one, 5), (two, 1), (1, 9), (999, 9))
    assert world.inner.lookups == {two: 1}


@pytest.mark.parametrize("count", [2, 1000, (1 << 32) - 1])
def test_batch_forget_beyond_its_payload(world: World, count: int) -> None:
    node = world.guest.lookup(1, b"one").nodeid
    world.guest.batch_forget((node, 1), count=count)
    assert world.inner.lookups == {node: 1}
    world.guest.silent(fuse.BATCH_FORGET, 0, struct.pack("<I", count))


def test_forget_is_never_answered(world: World) -> None:
    for opcode in SILENT:
        for size in (8, 39, 40, 44, 48, 200, 5000):
            data = message(opcode, 1, bytes(5000))[:size]
            assert world.guest.send(data) == b""
            assert world.guest.send(struct.pack("<I", size) + data[4:]) == b""
            assert world.guest.send(data, room=0) == b""


def test_short_forget_is_ignored(world: World) -> None:
    node = world.guest.lookup(1, b"one").nodeid
    world.guest.silent(fuse.FORGET, node, bytes(7))
    assert world.inner.lookups == {node: 1}


# 12: handles


def handle_requests(fh: int) -> Iterator[tuple[int, bytes]]:
    yield fuse.READ, io_in(fh, 0, 10)
    yield fuse.WRITE, io_in(fh, 0, 1) + b"x"
    yield fuse.RELEASE, struct.pack("<QIIQ", fh, 0, 0, 0)
    yield fuse.FLUSH, struct.pack("<QIIQ", fh, 0, 0, 0)
    yield fuse.FSYNC, struct.pack("<QII", fh, 0, 0)
    yield fuse.FALLOCATE, struct.pack("<QQQII", fh, 0, 1, 0, 0)
    yield fuse.LSEEK, struct.pack("<QQII", fh, 0, 3, 0)
    yield fuse.POLL, struct.pack("<QQII", fh, 0, 0, 0)
    yield fuse.GETLK, struct.pack("<QQQQIIII", fh, 0, 0, 0, 0, 0, 0, 0)
    yield fuse.SETLK, struct.pack("<QQQQIIII", fh, 0, 0, 0, 0, 0, 0, 0)
    yield fuse.SETLKW, struct.pack("<QQQQIIII", fh, 0, 0, 0, 0, 0, 0, 0)
    yield fuse.COPY_FILE_RANGE, struct.pack("<7Q", fh, 0, 1, fh, 0, 1, 0)
    yield fuse.READDIR, io_in(fh, 0, 4096)
    yield fuse.READDIRPLUS, io_in(fh, 0, 4096)
    yield fuse.RELEASEDIR, struct.pack("<QIIQ", fh, 0, 0, 0)
    yield fuse.FSYNCDIR, struct.pack("<QII", fh, 0, 0)
    yield fuse.SETATTR, struct.pack("<I4xQQQQQQIIII4xII4x", 64, fh, *(0,) * 11)
    yield fuse.STATX, struct.pack("<IIQII", 1, 0, fh, 0, 0)


def test_handles_that_are_not_the_guests(world: World) -> None:
    one, two = (world.guest.lookup(1, name).nodeid for name in (b"one", b"two"))
    fh = world.guest.open(one)
    directory = world.guest.opendir(1)
    for number in (0, fh + 1, directory + 1, 1 << 63, (1 << 64) - 1):
        for opcode, body in handle_requests(number):
            assert world.guest.call(opcode, one, body).error == errno.EBADF, opcode
    for opcode, body in handle_requests(fh):  # another inode's
        assert world.guest.call(opcode, two, body).error == errno.EBADF, opcode
    for opcode, body in handle_requests(directory):  # a directory's where a file's belongs, and the other way round
        if opcode not in (fuse.READDIR, fuse.READDIRPLUS, fuse.RELEASEDIR, fuse.FSYNCDIR):
            assert world.guest.call(opcode, 1, body).error == errno.EBADF, opcode
    assert world.guest.read(one, fh) == b"/one"


def test_handles_are_released_once(world: World) -> None:
    node = world.guest.lookup(1, b"one").nodeid
    fh, directory = world.guest.open(node), world.guest.opendir(1)
    assert [world.guest.release(node, fh) for _ in range(2)] == [0, errno.EBADF]
    assert [world.guest.releasedir(1, directory) for _ in range(2)] == [0, errno.EBADF]
    assert world.guest.call(fuse.READ, node, io_in(fh, 0, 1)).error == errno.EBADF
    assert fh not in [world.guest.open(node) for _ in range(20)]


def test_getattr_with_a_foreign_handle(world: World) -> None:
    one, two = (world.guest.lookup(1, name).nodeid for name in (b"one", b"two"))
    fh = world.guest.open(one)
    body = struct.pack("<IIQ", 1, 0, fh)
    assert world.guest.call(fuse.GETATTR, one, body).error == 0
    assert world.guest.call(fuse.GETATTR, two, body).error == errno.EBADF
    world.guest.release(one, fh)
    for number in (fh, 1 << 40, (1 << 64) - 1):  # released, never given
        assert world.guest.call(fuse.GETATTR, one, struct.pack("<IIQ", 1, 0, number)).error == errno.EBADF


@pytest.mark.parametrize("ino", [0, 2, 99, (1 << 64) - 1])
def test_inodes_that_the_guest_does_not_know(world: World, ino: int) -> None:
    for opcode in OPERATIONS:
        if opcode in (*SILENT, fuse.INIT, fuse.DESTROY, fuse.INTERRUPT, fuse.IOCTL):
            continue
        reply = world.guest.call(opcode, ino, bytes(40) + b"name\0name\0")
        assert reply.error in (errno.ESTALE, errno.EBADF, errno.EINVAL), opcode
    for opcode, body in (
        (fuse.LINK, struct.pack("<Q", ino) + b"new\0"),
        (fuse.RENAME, struct.pack("<Q", ino) + b"one\0new\0"),
    ):
        assert world.guest.call(opcode, 1, body).error == errno.ESTALE


# 13, 15: sizes and offsets

HUGE = (1 << 63) - 1
WRAP = (1 << 64) - 1


def test_offsets_that_overflow(world: World) -> None:
    node = world.guest.lookup(1, b"one").nodeid
    fh, directory = world.guest.open(node, 2), world.guest.opendir(1)
    cases = [
        (fuse.READ, node, io_in(fh, HUGE + 1, 10), errno.EINVAL),
        (fuse.READ, node, io_in(fh, WRAP, 10), errno.EINVAL),
        (fuse.WRITE, node, io_in(fh, HUGE, 1) + b"x", errno.EFBIG),
        (fuse.WRITE, node, io_in(fh, WRAP, 1) + b"x", errno.EFBIG),
        (fuse.FALLOCATE, node, struct.pack("<QQQII", fh, HUGE, 1, 0, 0), errno.EFBIG),
        (fuse.FALLOCATE, node, struct.pack("<QQQII", fh, 1, HUGE, 0, 0), errno.EFBIG),
        (fuse.FALLOCATE, node, struct.pack("<QQQII", fh, 0, WRAP, 0, 0), errno.EFBIG),
        (fuse.FALLOCATE, node, struct.pack("<QQQII", fh, 0, 0, 0, 0), errno.EINVAL),
        (fuse.LSEEK, node, struct.pack("<QQII", fh, HUGE + 1, 3, 0), errno.EINVAL),
        (fuse.COPY_FILE_RANGE, node, struct.pack("<7Q", fh, WRAP, node, fh, 0, 1, 0), errno.EFBIG),
        (fuse.COPY_FILE_RANGE, node, struct.pack("<7Q", fh, 0, node, fh, WRAP, 1, 0), errno.EFBIG),
        (fuse.SETATTR, node, struct.pack("<I4xQQQQQQIIII4xII4x", 8, 0, WRAP, *(0,) * 10), errno.EFBIG),
        (fuse.READDIR, 1, io_in(directory, HUGE + 1, 4096), errno.EINVAL),
        (fuse.READDIRPLUS, 1, io_in(directory, WRAP, 4096), errno.EINVAL),
        (fuse.GETLK, node, struct.pack("<QQQQIIII", fh, 0, WRAP, WRAP, 0, 0, 0, 0), errno.EINVAL),
    ]
    for opcode, where, body, error in cases:
        assert world.guest.call(opcode, where, body).error == error, (opcode, error)
    assert world.inner.find(b"/one").data == b"/one"


def test_sizes_the_file_system_refuses_reach_it_unharmed(world: World) -> None:
    node = world.guest.lookup(1, b"one").nodeid
    fh = world.guest.open(node, 2)
    body = struct.pack("<QQQII", fh, 0, HUGE, 0, 0)
    assert world.guest.call(fuse.FALLOCATE, node, body).error == errno.EINVAL
    body = struct.pack("<I4xQQQQQQIIII4xII4x", 8, 0, HUGE, *(0,) * 10)
    assert world.guest.call(fuse.SETATTR, node, body).error == errno.EINVAL


def test_replies_larger_than_their_room(world: World) -> None:
    node = world.guest.lookup(1, b"one").nodeid
    fh, directory = world.guest.open(node), world.guest.opendir(1)
    world.inner.find(b"/one").xattrs[b"user.x"] = b"v" * 100
    for opcode, where, body in (
        (fuse.READ, node, io_in(fh, 0, 4097)),
        (fuse.READ, node, io_in(fh, 0, (1 << 32) - 1)),
        (fuse.READDIR, 1, io_in(directory, 0, 4097)),
        (fuse.READDIRPLUS, 1, io_in(directory, 0, 4097)),
        (fuse.GETXATTR, node, struct.pack("<II", 4097, 0) + b"user.x\0"),
        (fuse.LISTXATTR, node, struct.pack("<II", 4097, 0)),
    ):
        assert world.guest.call(opcode, where, body, room=16 + 4096).error == errno.EINVAL, opcode
    assert world.guest.call(fuse.GETXATTR, node, struct.pack("<II", 99, 0) + b"user.x\0").error == errno.ERANGE
    assert world.guest.call(fuse.LISTXATTR, node, struct.pack("<II", 6, 0)).error == errno.ERANGE


@pytest.mark.parametrize("size", [1, 23, 24, 31])
def test_listings_with_room_for_nothing(world: World, size: int) -> None:
    directory = world.guest.opendir(1)
    for opcode in (fuse.READDIR, fuse.READDIRPLUS):
        assert world.guest.call(opcode, 1, io_in(directory, 0, size)).error == errno.EINVAL


@pytest.mark.parametrize("claimed", [0, 9, 11, 5000, 1 << 20, (1 << 20) + 1, (1 << 32) - 1])
def test_write_of_another_size_than_its_payload(world: World, claimed: int) -> None:
    node = world.guest.lookup(1, b"one").nodeid
    fh = world.guest.open(node, 2)
    body = struct.pack("<QQIIQII", fh, 0, claimed, 0, 0, 0, 0)
    assert world.guest.call(fuse.WRITE, node, body + b"x" * 10).error == errno.EINVAL
    if claimed != 5000:
        assert world.guest.call(fuse.WRITE, node, body + b"x" * 5000).error == errno.EINVAL
    assert world.inner.find(b"/one").data == b"/one"


def test_values_of_another_size_than_claimed(world: World) -> None:
    for claimed, error in ((0, errno.EINVAL), (2, errno.EINVAL), (65536, errno.EINVAL), (65537, errno.E2BIG)):
        body = struct.pack("<II", claimed, 0) + b"user.x\0v"
        assert world.guest.call(fuse.SETXATTR, 1, body).error == error
    assert world.inner.root.xattrs == {}


def test_ioctl_sizes(world: World) -> None:
    ioctl = struct.Struct("<QIIQII").pack
    assert world.guest.call(fuse.IOCTL, 1, ioctl(0, 0, 0x1234, 0, 4, 8) + b"abcd").body[16:] == b"dcba"
    assert world.guest.call(fuse.IOCTL, 1, ioctl(0, 0, 0x1234, 0, 4, 2) + b"abcd").body[16:] == b"dc"
    assert world.guest.call(fuse.IOCTL, 1, ioctl(0, 0, 0x1234, 0, 5, 0) + b"abcd").error == errno.EINVAL
    body = ioctl(0, 0, 0x1234, 0, 4, (1 << 32) - 1) + b"abcd"
    assert world.guest.call(fuse.IOCTL, 1, body).error == errno.EINVAL


# 14: headers


@pytest.mark.parametrize("size", range(40))
def test_requests_shorter_than_a_header(world: World, size: int) -> None:
    answer = world.guest.send(message(fuse.GETATTR, 1, bytes(16), unique=7)[:size])
    length, error, unique = struct.unpack("<IiQ", answer)
    assert (length, error) == (16, -errno.EINVAL)
    assert unique == (7 if size > 8 else 0)


@pytest.mark.parametrize("claimed", [0, 1, 39, 40, 55, 57, 4096, (1 << 32) - 1])
def test_wrong_length(world: World, claimed: int) -> None:
    data = struct.pack("<I", claimed) + message(fuse.GETATTR, 1, bytes(16))[4:]
    assert struct.unpack("<IiQ", world.guest.send(data)) == (16, -errno.EINVAL, 2)


def test_over_the_limit(world: World) -> None:
    for opcode in (fuse.LOOKUP, fuse.WRITE, fuse.SETXATTR, 63, 5000):
        data = message(opcode, 1, bytes((1 << 20) + 41))
        assert struct.unpack("<IiQ", world.guest.send(data)) == (16, -errno.E2BIG, 2)
        assert struct.unpack("<IiQ", world.guest.send(b"\0\0\0\1" + data[4:])) == (16, -errno.EINVAL, 2)
    assert world.guest.send(message(fuse.BATCH_FORGET, 1, bytes((1 << 20) + 41))) == b""


@pytest.mark.parametrize("opcode", [0, 7, 19, 48, 49, 54, 63, 64, 4096, 1 << 20, (1 << 32) - 1])
def test_unknown_operations(world: World, opcode: int) -> None:
    assert world.guest.call(opcode, 1, bytes(64)).error == errno.ENOSYS
    assert world.guest.call(opcode, 1, bytes(8000)).error == errno.ENOSYS


def test_short_bodies(world: World) -> None:
    one = world.guest.lookup(1, b"one").nodeid
    sizes = {fuse.GETATTR: 16, fuse.OPEN: 8, fuse.READ: 40, fuse.RELEASE: 24, fuse.WRITE: 40, fuse.SETATTR: 88}
    sizes |= {fuse.FLUSH: 24, fuse.FSYNC: 16, fuse.IOCTL: 32, fuse.LSEEK: 24, fuse.FALLOCATE: 32, fuse.ACCESS: 8}
    sizes |= {fuse.GETLK: 48, fuse.READDIR: 40, fuse.OPENDIR: 8, fuse.POLL: 24, fuse.BMAP: 16, fuse.STATX: 24}
    sizes |= {fuse.COPY_FILE_RANGE: 56, fuse.RELEASEDIR: 24, fuse.FSYNCDIR: 16, fuse.SYNCFS: 8, fuse.LISTXATTR: 8}
    for opcode, size in sizes.items():
        for short in range(size):
            assert world.guest.call(opcode, one, bytes(short)).error == errno.EINVAL, (opcode, short)


@pytest.mark.parametrize("ext", [1, 2, 100, 65535])
def test_extensions_longer_than_the_request(world: World, ext: int) -> None:
    body = struct.pack("<II", 0o755, 0) + b"d\0"
    if ext * 8 > len(body):
        assert world.guest.call(fuse.MKDIR, 1, body, ext=ext).error == errno.EINVAL
    assert world.guest.call(fuse.STATFS, 1, ext=ext).error == errno.EINVAL
    assert b"d" not in world.inner.root.names


@pytest.mark.parametrize(
    "extension",
    [
        struct.pack("<II", 0, 32),
        struct.pack("<II", 7, 32),
        struct.pack("<II", 100, 32),
        struct.pack("<II", 8, 32),
        struct.pack("<IIII", 16, 32, 2, 5),
        struct.pack("<IIII", 16, 32, 0xFFFFFFFF, 5),
        struct.pack("<IIII", 8, 1, 0xFFFFFFFF, 5),
    ],
)
def test_broken_extensions(world: World, extension: bytes) -> None:
    body = struct.pack("<II", 0o755, 0) + b"d\0" + extension
    assert world.guest.call(fuse.MKDIR, 1, body, ext=len(extension) // 8).error == errno.EINVAL
    assert b"d" not in world.inner.root.names


def test_nothing_is_done_without_room_for_its_answer(world: World) -> None:
    before = dict(world.inner.root.names)
    for opcode, body, reply in (
        (fuse.MKDIR, struct.pack("<II", 0o755, 0) + b"new\0", 128),
        (fuse.CREATE, struct.pack("<IIII", 2, 0o644, 0, 0) + b"new\0", 144),
        (fuse.UNLINK, b"one\0", 0),
    ):
        for room in {0, 15, 16, 15 + reply} - {16 + reply}:
            answer = world.guest.send(message(opcode, 1, body), room)
            assert answer == (b"" if room < 16 else struct.pack("<IiQ", 16, -errno.EINVAL, 2))
    assert world.inner.root.names == before
    directory = world.guest.opendir(1)
    assert world.guest.send(message(fuse.RELEASEDIR, 1, struct.pack("<QIIQ", directory, 0, 0, 0)), 15) == b""
    assert world.guest.releasedir(1, directory) == 0


@pytest.mark.parametrize("flags", [3, 6, 7, 8, 0xFFFFFFFF])
def test_rename_flags(world: World, flags: int) -> None:
    body = struct.pack("<QII", 1, flags, 0) + b"one\0new\0"
    assert world.guest.call(fuse.RENAME2, 1, body).error == errno.EINVAL


def test_times_that_cannot_be(world: World) -> None:
    body = struct.pack("<I4xQQQQQQIIII4xII4x", 16, 0, 0, 0, 5, 0, 0, 10**9, *(0,) * 5)
    assert world.guest.call(fuse.SETATTR, 1, body).error == errno.EINVAL


@pytest.mark.parametrize("mode", [0, 0o644, 0o040755, 0o120777, 0o130644, 0o1100644, 0xFFFFFFFF])
def test_kinds_of_nodes_that_cannot_be_made(world: World, mode: int) -> None:
    body = struct.pack("<IIII", mode, 0, 0, 0) + b"new\0"
    assert world.guest.call(fuse.MKNOD, 1, body).error == errno.EINVAL
    assert b"new" not in world.inner.root.names


def test_access_masks(world: World) -> None:
    assert world.guest.call(fuse.ACCESS, 1, struct.pack("<II", 8, 0)).error == errno.EINVAL


# Bugs


class Buggy(NullFs):
    def statfs(self, ino: int) -> object:  # type: ignore[override]
        raise ZeroDivisionError("a bug")

    def getattr(self, ino: int, handle: object) -> Attributes:
        return Attributes(ino=-1, mode=0)

    def listxattr(self, ino: int) -> tuple[bytes, ...]:
        raise OSError("an OSError without a number")

    def readlink(self, ino: int) -> bytes:
        raise OSError(100000, "a number that is no errno")

    def syncfs(self, ino: int) -> None:
        raise OSError(errno.ENOMEM, "an honest one")


def test_bugs_are_io_errors_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    guest = Guest(Buggy())
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            assert guest.call(fuse.STATFS, 1).error == errno.EIO
        assert guest.call(fuse.GETATTR, 1, bytes(16)).error == errno.EIO
        assert guest.call(fuse.LISTXATTR, 1, bytes(8)).error == errno.EIO
        assert guest.call(fuse.READLINK, 1).error == errno.EIO
        assert guest.call(fuse.SYNCFS, 1, bytes(8)).error == errno.ENOMEM
    assert guest.server.faults == 4
    assert [record.getMessage() for record in caplog.records] == [
        "fault in FUSE STATFS, answered EIO",
        "fault in FUSE GETATTR, answered EIO",
    ]


def test_opening_is_never_switched_off() -> None:
    """ENOSYS as the answer to OPEN would end the EACCES of later ones."""

    class NoOpen(MemoryFs):
        def open(self, ino: int, flags: int, kill_privileges: bool) -> object:  # type: ignore[override]
            raise OSError(errno.ENOSYS, "not here")

        def opendir(self, ino: int, flags: int) -> object:  # type: ignore[override]
            raise OSError(errno.ENOSYS, "not here")

    inner = NoOpen(InodeAllocator())
    inner.plant(b"/one", b"")
    guest = Guest(inner)
    assert guest.call(fuse.OPEN, guest.lookup(1, b"one").nodeid, bytes(8)).error == errno.EOPNOTSUPP
    assert guest.call(fuse.OPENDIR, 1, bytes(8)).error == errno.EOPNOTSUPP
