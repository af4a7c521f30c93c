"""The table "Virtual entries, exact", row by row, over nothing and over a real tree, through the server."""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Iterator

import pytest

from tests.fs.virtual_world import PATTERN, TEXT, World
from tests.fuse import guest as fuse
from tests.fuse.guest import Guest, io_in

FOREVER = (1 << 64) - 1
HIGH = 1 << 62


# lookup, getattr


def test_lookup_of_persistent_entries(world: World) -> None:
    found = world.guest.lookup(1, b"text")
    assert found.nodeid > 1
    assert (found.entry_valid, found.attr_valid) == (FOREVER, FOREVER)
    assert world.guest.lookup(1, b"text").nodeid == found.nodeid
    assert world.guest.content(b"/nested/deeper/leaf") == b"leaf"


def test_getattr(world: World) -> None:
    text = world.guest.getattr(world.node(b"/text"))
    assert (text.mode, text.size, text.nlink) == (stat.S_IFREG | 0o644, len(TEXT), 1)
    assert (text.blocks, text.blksize, text.uid, text.gid) == (1, 4096, 0, 0)
    pattern = world.guest.getattr(world.node(b"/pattern"))
    assert (pattern.mode, pattern.size, pattern.blocks) == (stat.S_IFREG | 0o755, 8192, 16)
    dev = world.guest.getattr(world.node(b"/dev"))
    assert (dev.mode, dev.nlink, dev.blksize) == (stat.S_IFDIR | 0o711, 2, 4096)
    body = world.guest.good(fuse.GETATTR, world.node(b"/text"), bytes(16))
    assert struct.unpack_from("<Q", body)[0] == FOREVER


def test_numbers_of_virtual_entries_are_unique_and_high(world: World) -> None:
    entries = [world.guest.walk(path) for path in (b"/text", b"/pattern", b"/dev", b"/nested", b"/nested/deeper")]
    inos = {entry.attr.ino for entry in entries}
    assert len(inos) == len(entries)
    assert min(inos) > HIGH
    assert {entry.nodeid for entry in entries} & {0, 1} == set()


def test_owner_can_be_chosen() -> None:
    fs = fuse.augmented()
    fs.add_file(b"/mine", b"x", uid=7, gid=8)
    fs.add_directory(b"/ours", uid=9, gid=10)
    guest = Guest(fs)
    mine, ours = guest.lookup(1, b"mine").attr, guest.lookup(1, b"ours").attr
    assert (mine.uid, mine.gid, ours.uid, ours.gid) == (7, 8, 9, 10)


def test_missing_names_are_remembered_over_nothing() -> None:
    world = World(real=False)
    for directory in (1, world.node(b"/dev")):
        found = world.guest.lookup(directory, b"missing")
        assert (found.nodeid, found.entry_valid) == (0, FOREVER)


def test_missing_names_of_a_real_tree_are_its_business() -> None:
    world = World(real=True)
    assert world.guest.call(fuse.LOOKUP, 1, b"missing\0").error == errno.ENOENT
    assert world.guest.lookup(world.node(b"/dev"), b"missing").entry_valid == FOREVER


def test_lookup_in_a_file(world: World) -> None:
    assert world.guest.lookup_error(world.node(b"/text"), b"x") == errno.ENOTDIR


# open, read


@pytest.mark.parametrize("flags", [1, 2, 0o1000, 0o1001, 0o2001, 3])
def test_open_for_writing(world: World, flags: int) -> None:
    for caller in ((0, 0, 1), (1000, 1000, 1)):
        reply = world.guest.call(fuse.OPEN, world.node(b"/text"), struct.pack("<II", flags, 0), caller=caller)
        assert reply.error == errno.EACCES


def test_open_for_writing_does_not_use_a_one_shot_up(world: World) -> None:
    node = world.node(b"/once")
    assert world.guest.call(fuse.OPEN, node, struct.pack("<II", 1, 0)).error == errno.EACCES
    assert world.guest.read(node, world.guest.open(node)) == b"secret"


def test_open_flags_save_round_trips(world: World) -> None:
    keep_cache, noflush = 2, 32
    _, flags, _ = struct.unpack("<QII", world.guest.good(fuse.OPEN, world.node(b"/text"), bytes(8)))
    assert flags == keep_cache | noflush
    _, flags, _ = struct.unpack("<QII", world.guest.good(fuse.OPEN, world.node(b"/once"), bytes(8)))
    assert flags == noflush


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 256), (4000, 512), (8182, 10), (8182, 4096), (8192, 512), (1 << 40, 512), (0, 8192), (0, 0), (0, 65536)],
)
def test_read_any_range(world: World, offset: int, size: int) -> None:
    node = world.node(b"/pattern")
    fh = world.guest.open(node)
    assert world.guest.read(node, fh, offset, size) == PATTERN[offset : offset + size]
    assert world.guest.read(node, fh, 0, 256) == PATTERN[:256]
    world.guest.release(node, fh)


def test_directories_are_no_files(world: World) -> None:
    dev = world.node(b"/dev")
    assert world.guest.call(fuse.OPEN, dev, bytes(8)).error == errno.EISDIR
    with pytest.raises(OSError) as caught:
        world.fs.read(dev, None, 0, [])
    assert caught.value.errno == errno.EISDIR


# refusals


def change_requests(node: int, fh: int) -> Iterator[tuple[int, int, bytes]]:
    yield fuse.WRITE, node, io_in(fh, 0, 1) + b"x"
    yield fuse.SETATTR, node, struct.pack("<I4xQQQQQQIIII4xII4x", 1, *(0,) * 12)
    yield fuse.SETXATTR, node, struct.pack("<II", 1, 0) + b"user.x\0v"
    yield fuse.REMOVEXATTR, node, b"user.x\0"
    yield fuse.FALLOCATE, node, struct.pack("<QQQII", fh, 0, 10, 0, 0)
    yield fuse.LINK, 1, struct.pack("<Q", node) + b"new\0"


def test_changes_are_not_permitted(world: World) -> None:
    node = world.node(b"/text")
    fh = world.guest.open(node)
    for opcode, where, body in change_requests(node, fh):
        assert world.guest.call(opcode, where, body).error == errno.EPERM, opcode
    for opcode, where, body in change_requests(world.node(b"/dev"), fh):
        if opcode not in (fuse.WRITE, fuse.FALLOCATE):
            assert world.guest.call(opcode, where, body).error == errno.EPERM, opcode
    world.guest.release(node, fh)


@pytest.mark.parametrize(
    ("path", "mask", "uid", "error"),
    [
        (b"/text", 2, 0, errno.EACCES),
        (b"/text", 6, 1000, errno.EACCES),
        (b"/text", 4, 1000, 0),
        (b"/text", 1, 0, errno.EACCES),
        (b"/pattern", 5, 1000, 0),
        (b"/dev", 2, 0, errno.EACCES),
        (b"/dev", 4, 1000, errno.EACCES),
        (b"/dev", 4, 0, 0),
        (b"/once", 4, 1000, errno.EACCES),
        (b"/once", 4, 0, 0),
        (b"/text", 0, 0, 0),
    ],
)
def test_access(world: World, path: bytes, mask: int, uid: int, error: int) -> None:
    body = struct.pack("<II", mask, 0)
    assert world.guest.call(fuse.ACCESS, world.node(path), body, caller=(uid, uid, 1)).error == error


def test_readlink(world: World) -> None:
    for path in (b"/text", b"/dev"):
        assert world.guest.call(fuse.READLINK, world.node(path)).error == errno.EINVAL


def test_extended_attributes(world: World) -> None:
    for path in (b"/text", b"/dev"):
        node = world.node(path)
        body = struct.pack("<II", 100, 0)
        assert world.guest.call(fuse.GETXATTR, node, body + b"security.capability\0").error == errno.ENODATA
        assert world.guest.good(fuse.LISTXATTR, node, body) == b""
        assert world.guest.good(fuse.LISTXATTR, node, bytes(8)) == bytes(8)


def test_lseek(world: World) -> None:
    node = world.node(b"/pattern")
    fh = world.guest.open(node)

    def seek(offset: int, whence: int) -> fuse.Reply:
        return world.guest.call(fuse.LSEEK, node, struct.pack("<QQII", fh, offset, whence, 0))

    data, hole = 3, 4
    assert seek(100, data) == (0, struct.pack("<Q", 100))
    assert seek(100, hole) == (0, struct.pack("<Q", 8192))
    assert seek(8192, data).error == seek(9000, hole).error == errno.ENXIO
    assert seek(0, 0).error == errno.EINVAL
    world.guest.release(node, fh)


def test_copy_file_range_is_across_devices() -> None:
    world = World(real=True)
    assert world.inner is not None
    world.inner.plant(b"/real", b"real")
    guest = world.guest
    virtual, real = world.node(b"/text"), world.node(b"/real")
    handles = {virtual: guest.open(virtual), real: guest.open(real)}
    for opcode in (fuse.COPY_FILE_RANGE, fuse.COPY_FILE_RANGE_64):
        for source, target in ((virtual, real), (real, virtual), (virtual, virtual)):
            body = struct.pack("<7Q", handles[source], 0, target, handles[target], 0, 10, 0)
            assert guest.call(opcode, source, body).error == errno.EXDEV
    guest.server.reset()


CREATE_BODY = struct.pack("<IIII", 0o101, 0o100644, 0, 0)


def creations(directory: int, name: bytes, source: int) -> Iterator[tuple[int, int, bytes]]:
    yield fuse.CREATE, directory, CREATE_BODY + name + b"\0"
    yield fuse.MKNOD, directory, struct.pack("<IIII", stat.S_IFREG | 0o644, 0, 0, 0) + name + b"\0"
    yield fuse.MKDIR, directory, struct.pack("<II", 0o755, 0) + name + b"\0"
    yield fuse.SYMLINK, directory, name + b"\0target\0"
    yield fuse.LINK, directory, struct.pack("<Q", source) + name + b"\0"


def removals(directory: int, name: bytes) -> Iterator[tuple[int, int, bytes]]:
    yield fuse.UNLINK, directory, name + b"\0"
    yield fuse.RMDIR, directory, name + b"\0"
    yield fuse.RENAME, directory, struct.pack("<Q", 1) + name + b"\0elsewhere\0"
    yield fuse.RENAME, 1, struct.pack("<Q", directory) + b"real\0" + name + b"\0"
    for flags in (0, 1, 2):
        yield fuse.RENAME2, directory, struct.pack("<QII", 1, flags, 0) + name + b"\0real\0"
        yield fuse.RENAME2, 1, struct.pack("<QII", directory, flags, 0) + b"real\0" + name + b"\0"


@pytest.mark.parametrize("hidden", [False, True], ids=["", "with an inner file below"])
def test_names_of_virtual_entries_are_taken(hidden: bool) -> None:
    world = World(real=True)
    assert world.inner is not None
    real = world.inner.plant(b"/real", b"real")
    if hidden:
        for name in (b"text", b"dev", b"once"):
            world.inner.plant(b"/" + name, b"hidden")
    before = set(world.inner.nodes)
    source = world.node(b"/real")
    for name in (b"text", b"dev", b"once"):
        for opcode, where, body in creations(1, name, source):
            assert world.guest.call(opcode, where, body).error == errno.EEXIST, (opcode, name)
        for opcode, where, body in removals(1, name):
            assert world.guest.call(opcode, where, body).error == errno.EPERM, (opcode, name)
    assert world.guest.content(b"/once") == b"secret"
    for opcode, where, body in [*creations(1, b"once", source), *removals(1, b"once")]:
        assert world.guest.call(opcode, where, body).error == errno.EPERM, opcode
    assert set(world.inner.nodes) == before
    assert world.inner.root.names[b"real"] is real
    assert (b"once" in world.inner.root.names) == hidden


def test_a_purely_virtual_directory_refuses_creation(world: World) -> None:
    dev, text = world.node(b"/dev"), world.node(b"/text")
    for opcode, where, body in creations(dev, b"new", text):
        assert world.guest.call(opcode, where, body).error == errno.EPERM, opcode
    assert world.guest.call(fuse.TMPFILE, dev, CREATE_BODY + b"/\0").error == errno.EPERM
    assert world.guest.call(fuse.UNLINK, dev, b"new\0").error == errno.ENOENT


def test_nothing_can_be_made_over_nothing() -> None:
    guest = World(real=False).guest
    for opcode, where, body in creations(1, b"new", 1):
        assert guest.call(opcode, where, body).error == errno.EPERM, opcode


# exit code, and the whole


def test_exit_code(world: World) -> None:
    guest = world.guest
    for node in (1, world.node(b"/text"), world.node(b"/dev"), 999):
        reply = guest.ioctl(node, 0x7602, 0x12A)
        assert (reply.error, reply.body) == (0, bytes(16))
    assert guest.ioctl(1, 0x7602, 7).error == 0
    assert world.codes == [42, 42, 42, 42, 7]
    assert world.fs.exit_code == 7


def test_unknown_ioctl_goes_inward(world: World) -> None:
    expected = errno.ENOTTY if world.inner is not None else errno.ENOSYS
    assert world.guest.ioctl(1, 0x7603).error == expected
    assert world.guest.ioctl(world.node(b"/text"), 0x7603).error == errno.ENOSYS
    assert world.codes == []


def test_syncfs_is_answered_at_once(world: World) -> None:
    for node in (1, world.node(b"/text")):
        assert world.guest.good(fuse.SYNCFS, node, bytes(8)) == b""


def test_statfs(world: World) -> None:
    for node in (1, world.node(b"/text")):
        fields = struct.unpack("<5Q4I24x", world.guest.good(fuse.STATFS, node))
        expected = (100, 50, 40, 30, 20) if world.inner is not None else (0, 0, 0, 1, 0)
        assert fields == (*expected, 4096, 255, 4096, 0)


def test_files_can_be_synced_and_flushed(world: World) -> None:
    node = world.node(b"/text")
    fh = world.guest.open(node)
    assert world.guest.good(fuse.FSYNC, node, struct.pack("<QII", fh, 0, 0)) == b""
    assert world.guest.good(fuse.FLUSH, node, struct.pack("<QIIQ", fh, 0, 0, 0)) == b""
    world.guest.release(node, fh)


def test_statx(world: World) -> None:
    body = world.guest.good(fuse.STATX, world.node(b"/pattern"), struct.pack("<IIQII", 0, 0, 0, 0, 0xFFF))
    assert len(body) == 288
    mask, blksize, _, nlink, uid, gid, mode, ino, size, blocks = struct.unpack_from("<IIQIIIHxxQQQ", body, 32)
    assert (mask, blksize, nlink, uid, gid, mode, size, blocks) == (0x7FF, 4096, 1, 0, 0, 0o100755, 8192, 16)
    assert ino > HIGH


# paths


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (b"", errno.EINVAL),
        (b"/", errno.EINVAL),
        (b"//text2", errno.EINVAL),
        (b"/dev//x", errno.EINVAL),
        (b"/dev/x/", errno.EINVAL),
        (b"/dev/./x", errno.EINVAL),
        (b"/dev/../x", errno.EINVAL),
        (b"/a\0b", errno.EINVAL),
        (b"/" + b"n" * 256, errno.ENAMETOOLONG),
        (b"/text", errno.EEXIST),
        (b"text", errno.EEXIST),
        (b"/dev", errno.EEXIST),
        (b"/once", errno.EEXIST),
        (b"/missing/x", errno.ENOENT),
        (b"/text/x", errno.ENOTDIR),
        (b"/once/x", errno.ENOTDIR),
    ],
)
def test_paths_that_cannot_be_added(world: World, path: bytes, error: int) -> None:
    with pytest.raises(OSError) as file:
        world.fs.add_file(path, b"")
    with pytest.raises(OSError) as directory:
        world.fs.add_directory(path)
    assert (file.value.errno, directory.value.errno) == (error, error)


def test_longest_name_and_any_bytes(world: World) -> None:
    for name in (b"n" * 255, b"\xff\xfe new\nline", b"...", b" "):
        world.fs.add_file(b"/" + name, name)
        assert world.guest.content(b"/" + name) == name


def test_make_parents(world: World) -> None:
    world.fs.make_parents(b"/x/y/z")
    world.fs.make_parents(b"/x/y/z")
    world.fs.add_file(b"/x/y/z", b"z")
    assert world.guest.content(b"/x/y/z") == b"z"
    with pytest.raises(OSError) as caught:
        world.fs.make_parents(b"/text/y/z")
    assert caught.value.errno == errno.ENOTDIR


def test_locks_are_not_kept(world: World) -> None:
    node = world.node(b"/text")
    fh = world.guest.open(node)
    body = struct.pack("<QQQQIIII", fh, 1, 0, 10, 0, 1, 0, 0)
    for opcode in (fuse.GETLK, fuse.SETLK, fuse.SETLKW):
        assert world.guest.call(opcode, node, body).error == errno.ENOLCK
    world.guest.release(node, fh)
