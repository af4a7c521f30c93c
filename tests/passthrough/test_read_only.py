"""Read only, enforced by the server: every operation that changes something is EROFS, and nothing changes."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykrun.fs import AugmentFs, InodeAllocator, NullFs
from pykrun.fs.interface import WRITEBACK_CACHE
from pykrun.fs.passthrough import EXPORT_FD, ExportTable, Options
from pykrun.fs.readonly import CHANGING_IOCTLS, ReadOnly
from tests.fs.memory import MemoryFs
from tests.fuse import guest as fuse
from tests.fuse.guest import Guest, io_in
from tests.passthrough.shared import Share
from tests.passthrough.test_hostile import MODE, OWNER, SETATTR, SIZE, TIMES

WRITING = [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND, os.O_RDONLY | os.O_CREAT, 3]


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    folder = tmp_path / "share"
    folder.mkdir()
    exports = ExportTable()
    made = Share(folder, Options(writeback=True, exports=exports), wrap=ReadOnly)
    made.put("file", b"content")
    made.put("dir/inside", b"i")
    os.setxattr(folder / "file", "user.x", b"v")
    os.symlink("file", folder / "link")
    yield made
    made.end()
    assert len(exports) == 0


def state(folder: Path) -> list[object]:
    found: list[object] = []
    for place, names, files in os.walk(folder):
        for name in sorted([*names, *files, "."]):
            status = os.lstat(f"{place}/{name}")
            found.append(
                (place, name, status.st_mode, status.st_uid, status.st_nlink, status.st_size, status.st_ctime_ns)
            )
    return found


def changing(share: Share) -> Iterator[tuple[int, int, bytes]]:
    """(opcode, inode, body) of everything that changes something."""
    file, folder = share.node(b"file"), share.node(b"dir")
    handle = share.guest.open(file)
    for valid in (MODE, OWNER, SIZE, TIMES, MODE | 1 << 6, SIZE | 1 << 6):
        yield fuse.SETATTR, file, SETATTR(valid, 0, handle, *(0,) * 13)
    yield fuse.SYMLINK, 1, b"new\0target\0"
    yield fuse.MKNOD, 1, struct.pack("<IIII", 0o100644, 0, 0, 0) + b"new\0"
    yield fuse.MKDIR, 1, struct.pack("<II", 0o755, 0) + b"new\0"
    yield fuse.UNLINK, 1, b"file\0"
    yield fuse.UNLINK, folder, b"inside\0"
    yield fuse.RMDIR, 1, b"dir\0"
    yield fuse.RENAME, 1, struct.pack("<Q", 1) + b"file\0new\0"
    for flags in (0, 1, 2, 4):
        yield fuse.RENAME2, 1, struct.pack("<QII", 1, flags, 0) + b"file\0link\0"
    yield fuse.LINK, 1, struct.pack("<Q", file) + b"new\0"
    for flags in (os.O_RDWR, os.O_RDONLY, os.O_RDWR | os.O_EXCL):
        yield fuse.CREATE, 1, struct.pack("<IIII", flags | os.O_CREAT, 0o100644, 0, 0) + b"new\0"
        yield fuse.CREATE, 1, struct.pack("<IIII", flags | os.O_CREAT, 0o100644, 0, 0) + b"file\0"
        yield fuse.TMPFILE, 1, struct.pack("<IIII", flags, 0o100644, 0, 0) + b"/\0"
    for flags in WRITING:
        yield fuse.OPEN, file, struct.pack("<II", flags, 0)
    yield fuse.WRITE, file, io_in(handle, 0, 1) + b"x"
    yield fuse.FALLOCATE, file, struct.pack("<QQQII", handle, 0, 100, 0, 0)
    yield fuse.FALLOCATE, file, struct.pack("<QQQII", handle, 0, 100, 3, 0)
    for opcode in (fuse.COPY_FILE_RANGE, fuse.COPY_FILE_RANGE_64):
        yield opcode, file, struct.pack("<7Q", handle, 0, file, handle, 100, 1, 0)
    yield fuse.SETXATTR, file, struct.pack("<II", 1, 0) + b"user.y\0v"
    yield fuse.REMOVEXATTR, file, b"user.x\0"
    yield fuse.ACCESS, file, struct.pack("<II", os.W_OK, 0)
    for command in CHANGING_IOCTLS:
        yield (
            fuse.IOCTL,
            file,
            struct.pack("<QIIQII", handle, 0, command, 0, 8, 8)[:24] + struct.pack("<QII", 0, 8, 8) + bytes(8),
        )


def test_nothing_can_be_changed(share: Share) -> None:
    before = state(share.folder)
    for opcode, node, body in changing(share):
        if opcode == fuse.IOCTL:
            continue
        assert share.call(opcode, node, body).error == errno.EROFS, (opcode, body)
    assert state(share.folder) == before


def test_ioctls(share: Share) -> None:
    node = share.node(b"file")
    handle = share.guest.open(node)
    for command in CHANGING_IOCTLS:
        assert share.guest.ioctl(node, command, 0, bytes(8), 8, handle).error == errno.EROFS
    assert share.guest.ioctl(node, 0x8008_6601, 0, b"", 8, handle).error == errno.ENOTTY  # FS_IOC_GETFLAGS
    assert share.guest.ioctl(node, EXPORT_FD, 0, b"", 16, handle).error == 0


def test_everything_can_be_read(share: Share) -> None:
    file = share.node(b"file")
    assert share.guest.content(b"file") == b"content"
    assert sorted(share.guest.names(1)) == [b".", b"..", b"dir", b"file", b"link"]
    assert share.guest.names(1, plus=True)
    assert share.guest.content(b"dir/inside") == b"i"
    assert share.guest.good(fuse.READLINK, share.node(b"link")) == b"file"
    assert share.guest.good(fuse.GETXATTR, file, struct.pack("<II", 100, 0) + b"user.x\0") == b"v"
    assert share.guest.good(fuse.LISTXATTR, file, struct.pack("<II", 100, 0)) == b"user.x\0"
    assert share.guest.good(fuse.STATFS, 1)
    assert share.guest.good(fuse.SYNCFS, 1, bytes(8)) == b""
    assert share.guest.good(fuse.STATX, file, struct.pack("<IIQII", 0, 0, 0, 0, 0xFFF))
    handle = share.guest.open(file, os.O_RDONLY | os.O_APPEND)
    assert share.guest.good(fuse.LSEEK, file, struct.pack("<QQII", handle, 0, 4, 0)) == struct.pack("<Q", 7)
    assert share.guest.good(fuse.FSYNC, file, struct.pack("<QII", handle, 0, 0)) == b""
    assert share.guest.call(fuse.ACCESS, file, struct.pack("<II", os.R_OK, 0)).error == 0


def test_no_collected_writes(share: Share) -> None:
    assert share.fs.features & WRITEBACK_CACHE
    assert not share.top.features & WRITEBACK_CACHE


@pytest.mark.parametrize("inner", [NullFs, lambda: MemoryFs(InodeAllocator())], ids=["null", "memory"])
def test_over_other_file_systems(inner: type[NullFs]) -> None:
    guest = Guest(ReadOnly(inner()))
    assert guest.call(fuse.MKDIR, 1, struct.pack("<II", 0o755, 0) + b"d\0").error == errno.EROFS
    assert guest.lookup_error(1, b"d") == errno.ENOENT
    guest.server.reset()


def test_virtual_entries_over_it(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/real").write_bytes(b"real")
    allocator = InodeAllocator()
    from pykrun.fs.passthrough import PassthroughFs

    fs = AugmentFs(ReadOnly(PassthroughFs(str(tmp_path), allocator)), allocator)
    fs.add_directory(b"/etc")
    fs.add_file(b"/etc/virtual", b"virtual")
    guest = Guest(fs)
    etc = guest.walk(b"etc").nodeid
    assert guest.content(b"etc/virtual") == b"virtual"
    assert guest.content(b"etc/real") == b"real"
    for name, error in ((b"virtual", errno.EPERM), (b"real", errno.EROFS)):
        assert guest.call(fuse.UNLINK, etc, name + b"\0").error == error
    for name, error in ((b"virtual", errno.EEXIST), (b"new", errno.EROFS)):
        assert guest.call(fuse.MKDIR, etc, struct.pack("<II", 0o755, 0) + name + b"\0").error == error
    assert guest.ioctl(etc, 0x7602, 5).error == 0
    assert fs.exit_code == 5
    guest.server.reset()
    fs.close()
