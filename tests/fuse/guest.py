"""The other side of the wire, on plain bytes: a guest kernel that is honest here and hostile where a test wants it.

Structures and numbers are written down again from the kernel's fuse.h, on purpose: a mistake in pykrun.fuse.wire shows.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pykrun.fs import AugmentFs, FileSystem, InodeAllocator, NullFs
from pykrun.fuse import Server

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK = 1, 2, 3, 4, 5, 6
MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE = 8, 9, 10, 11, 12, 13, 14, 15, 16
STATFS, RELEASE, FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR = 17, 18, 20, 21, 22, 23, 24
FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, FSYNCDIR, GETLK, SETLK = 25, 26, 27, 28, 29, 30, 31, 32
SETLKW, ACCESS, CREATE, INTERRUPT, BMAP, DESTROY, IOCTL, POLL = 33, 34, 35, 36, 37, 38, 39, 40
NOTIFY_REPLY, BATCH_FORGET, FALLOCATE, READDIRPLUS, RENAME2, LSEEK = 41, 42, 43, 44, 45, 46
COPY_FILE_RANGE, SETUPMAPPING, REMOVEMAPPING, SYNCFS, TMPFILE, STATX, COPY_FILE_RANGE_64 = 47, 48, 49, 50, 51, 52, 53

NO_OPEN_SUPPORT, NO_OPENDIR_SUPPORT, INIT_EXT = 1 << 17, 1 << 24, 1 << 30
EVERYTHING = (1 << 64) - 1 & ~(1 << 31)


class Reply(NamedTuple):
    error: int
    body: bytes


class Attr(NamedTuple):
    ino: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    atimensec: int
    mtimensec: int
    ctimensec: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int
    flags: int


class EntryOut(NamedTuple):
    nodeid: int
    entry_valid: int
    attr_valid: int
    attr: Attr


class Dirent(NamedTuple):
    name: bytes
    ino: int
    off: int
    kind: int
    nodeid: int


def attr(data: bytes) -> Attr:
    return Attr(*struct.unpack("<6Q10I", data))


def entry_out(data: bytes) -> EntryOut:
    nodeid, _, entry_valid, attr_valid, _, _ = struct.unpack_from("<QQQQII", data)
    return EntryOut(nodeid, entry_valid, attr_valid, attr(data[40:128]))


def message(
    opcode: int,
    nodeid: int,
    body: bytes = b"",
    *,
    unique: int = 2,
    caller: tuple[int, int, int] = (0, 0, 1),
    ext: int = 0,
) -> bytes:
    return struct.pack("<IIQQIIIHH", 40 + len(body), opcode, unique, nodeid, *caller, ext, 0) + body


def cut(data: bytes | bytearray, parts: Sequence[int]) -> list[memoryview]:
    """Divide memory into parts of the given lengths; what is left is one more part."""
    view = memoryview(data)
    found = []
    for length in parts:
        found.append(view[:length])
        view = view[length:]
    return [*found, view] if len(view) else found


class Guest:
    """A guest of one server."""

    def __init__(
        self,
        filesystem: FileSystem,
        *,
        flags: int = EVERYTHING,
        init: bool = True,
        max_inodes: int = 1000,
        max_handles: int = 1000,
    ) -> None:
        self.server = Server(filesystem, max_inodes=max_inodes, max_handles=max_handles)
        self._unique = 0
        if init:
            reply = self.init(flags=flags)
            assert reply.error == 0

    def init(self, major: int = 7, minor: int = 38, flags: int = EVERYTHING) -> Reply:
        body = struct.pack("<IIIII44x", major, minor, 131072, flags & 0xFFFFFFFF, flags >> 32)
        return self.call(INIT, 0, body)

    def send(
        self, data: bytes, room: int = 66000, parts: Sequence[int] = (), reply_parts: Sequence[int] = (16,)
    ) -> bytes:
        """Send bytes as they are, divided into parts; return what came back, b"" for nothing."""
        space = bytearray(room)
        length = self.server.handle(cut(data, parts), cut(space, reply_parts) if room else [])
        assert 0 <= length <= room
        return bytes(space[:length])

    def call(
        self,
        opcode: int,
        nodeid: int,
        body: bytes = b"",
        *,
        room: int = 66000,
        caller: tuple[int, int, int] = (0, 0, 1),
        ext: int = 0,
        parts: Sequence[int] = (40,),
        reply_parts: Sequence[int] = (16,),
    ) -> Reply:
        """Send a well-formed header and any body; check the reply's header."""
        self._unique += 2
        data = message(opcode, nodeid, body, unique=self._unique, caller=caller, ext=ext)
        answer = self.send(data, room, parts, reply_parts)
        length, error, unique = struct.unpack_from("<IiQ", answer)
        assert length == len(answer)
        assert unique == self._unique
        assert error <= 0
        assert not error or length == 16
        return Reply(-error, answer[16:])

    def good(self, opcode: int, nodeid: int, body: bytes = b"", **options: int) -> bytes:
        reply = self.call(opcode, nodeid, body, room=options.get("room", 66000))
        assert reply.error == 0, errno.errorcode[reply.error]
        return reply.body

    def silent(self, opcode: int, nodeid: int, body: bytes) -> None:
        assert self.send(message(opcode, nodeid, body), parts=(40,)) == b""

    # What an honest guest does

    def lookup(self, parent: int, name: bytes) -> EntryOut:
        return entry_out(self.good(LOOKUP, parent, name + b"\0"))

    def lookup_error(self, parent: int, name: bytes) -> int:
        """The errno of a look-up; ENOENT for a negative entry too, which is the same to the guest's programs."""
        reply = self.call(LOOKUP, parent, name + b"\0")
        if not reply.error and not entry_out(reply.body).nodeid:
            return errno.ENOENT
        return reply.error

    def walk(self, path: bytes) -> EntryOut:
        node = 1
        for name in path.strip(b"/").split(b"/"):
            found = self.lookup(node, name)
            assert found.nodeid, name
            node = found.nodeid
        return found

    def forget(self, nodeid: int, count: int = 1) -> None:
        self.silent(FORGET, nodeid, struct.pack("<Q", count))

    def batch_forget(self, *pairs: tuple[int, int], count: int | None = None) -> None:
        body = struct.pack("<II", len(pairs) if count is None else count, 0)
        self.silent(BATCH_FORGET, 0, body + b"".join(struct.pack("<QQ", *pair) for pair in pairs))

    def getattr(self, nodeid: int) -> Attr:
        return attr(self.good(GETATTR, nodeid, bytes(16))[16:])

    def open(self, nodeid: int, flags: int = 0) -> int:
        fh: int = struct.unpack("<QII", self.good(OPEN, nodeid, struct.pack("<II", flags, 0)))[0]
        return fh

    def opendir(self, nodeid: int) -> int:
        """The handle, 0 when the server says that directories need not be opened."""
        reply = self.call(OPENDIR, nodeid, struct.pack("<II", 0, 0))
        if reply.error == errno.ENOSYS:
            return 0
        assert reply.error == 0
        fh: int = struct.unpack("<QII", reply.body)[0]
        return fh

    def release(self, nodeid: int, fh: int) -> int:
        return self.call(RELEASE, nodeid, struct.pack("<QIIQ", fh, 0, 0, 0)).error

    def releasedir(self, nodeid: int, fh: int) -> int:
        return self.call(RELEASEDIR, nodeid, struct.pack("<QIIQ", fh, 0, 0, 0)).error

    def read(self, nodeid: int, fh: int, offset: int = 0, size: int = 65536) -> bytes:
        return self.good(READ, nodeid, io_in(fh, offset, size), room=16 + size)

    def write(self, nodeid: int, fh: int, offset: int, data: bytes) -> Reply:
        return self.call(WRITE, nodeid, io_in(fh, offset, len(data)) + data)

    def content(self, path: bytes) -> bytes:
        node = self.walk(path).nodeid
        fh = self.open(node)
        data = self.read(node, fh)
        assert self.release(node, fh) == 0
        return data

    def listing(self, nodeid: int, *, plus: bool = False, size: int = 4096, stop: int = 100000) -> list[Dirent]:
        """List a directory in as many requests as it takes."""
        fh = self.opendir(nodeid)
        found: list[Dirent] = []
        offset = 0
        while stop:
            stop -= 1
            body = self.good(READDIRPLUS if plus else READDIR, nodeid, io_in(fh, offset, size), room=16 + size)
            entries = list(dirents(body, plus=plus))
            if not entries:
                break
            found += entries
            offset = entries[-1].off
        if fh:
            assert self.releasedir(nodeid, fh) == 0
        return found

    def names(self, nodeid: int, **options: bool) -> list[bytes]:
        return [entry.name for entry in self.listing(nodeid, **options)]

    def ioctl(
        self, nodeid: int, command: int, argument: int = 0, data: bytes = b"", out: int = 0, fh: int = 0
    ) -> Reply:
        return self.call(IOCTL, nodeid, struct.pack("<QIIQII", fh, 0, command, argument, len(data), out) + data)


def io_in(fh: int, offset: int, size: int) -> bytes:
    """fuse_read_in, and fuse_write_in, which looks the same."""
    return struct.pack("<QQIIQII", fh, offset, size, 0, 0, 0, 0)


def dirents(body: bytes, *, plus: bool) -> Iterator[Dirent]:
    position = 0
    while position < len(body):
        nodeid = 0
        if plus:
            nodeid = entry_out(body[position : position + 128]).nodeid
            position += 128
        ino, off, namelen, kind = struct.unpack_from("<QQII", body, position)
        name = body[position + 24 : position + 24 + namelen]
        assert len(name) == namelen
        position += 24 + namelen + -namelen % 8
        yield Dirent(name, ino, off, kind, nodeid)
    assert position == len(body)


def augmented(inner: FileSystem | None = None, allocator: InodeAllocator | None = None) -> AugmentFs:
    """An AugmentFs over `inner`, or over nothing."""
    return AugmentFs(inner or NullFs(), allocator or InodeAllocator())
