"""The view of a guest's kernel: FUSE requests on plain bytes. It walks paths, follows links and counts look-ups."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import Any, NamedTuple

from tests.fuse import guest as fuse
from tests.fuse.guest import Guest, io_in
from tests.posix.view import NOW, Stat

_SETATTR = struct.Struct("<IIQQQQQQIIIIIIII").pack
MODE, UID, GID, SIZE, ATIME, MTIME, FH, ATIME_NOW, MTIME_NOW = (1 << bit for bit in range(9))
DIRENT_KINDS = {stat.S_IFDIR: 4, stat.S_IFREG: 8, stat.S_IFLNK: 10}


NO_HANDLE = -1
"""Of a directory, which need not be opened."""


class Open(NamedTuple):
    node: int
    handle: int


class WireView:
    """:param top: the folder's inode, which the guest knows."""

    kernel = False

    def __init__(self, guest: Guest, top: int, uid: int, gid: int) -> None:
        self.guest = guest
        self.top = top
        self.uid, self.gid = uid, gid
        self._umask = 0
        self.known: dict[int, int] = {}

    def umask(self, mask: int) -> None:
        self._umask = mask

    # Requests

    def call(self, opcode: int, node: int, body: bytes = b"", room: int = 66000) -> bytes:
        reply = self.guest.call(opcode, node, body, room=room, caller=(self.uid, self.gid, 1))
        if reply.error:
            raise OSError(reply.error, os.strerror(reply.error), fuse_name(opcode))
        return reply.body

    def entry(self, body: bytes) -> fuse.EntryOut:
        entry = fuse.entry_out(body[:128])
        if entry.nodeid:
            self.known[entry.nodeid] = self.known.get(entry.nodeid, 0) + 1
        return entry

    def lookup(self, node: int, name: bytes) -> fuse.EntryOut:
        entry = self.entry(self.call(fuse.LOOKUP, node, name + b"\0"))
        if not entry.nodeid:
            raise OSError(errno.ENOENT, "no such name")
        return entry

    def forget_all(self) -> None:
        for node, count in self.known.items():
            self.guest.forget(node, count)
        self.known.clear()

    # Paths

    def walk(self, path: bytes, follow: bool = True, depth: int = 0) -> tuple[int, int]:
        """The inode and its mode."""
        node, mode = self.top, stat.S_IFDIR
        parts = [part for part in path.split(b"/") if part]
        for index, part in enumerate(parts):
            if not stat.S_ISDIR(mode):
                raise OSError(errno.ENOTDIR, "not a directory")
            above = node
            found = self.lookup(node, part)
            node, mode = found.nodeid, found.attr.mode
            if stat.S_ISLNK(mode) and (follow or index < len(parts) - 1):
                if depth > 40:
                    raise OSError(errno.ELOOP, "too many links")
                assert above is not None
                target = self.call(fuse.READLINK, node)
                before = b"/".join(parts[:index])
                node, mode = self.walk(before + b"/" + target, True, depth + 1)
        return node, mode

    def parent(self, path: bytes) -> tuple[int, bytes]:
        above, _, name = path.rpartition(b"/")
        node, mode = self.walk(above)
        if not stat.S_ISDIR(mode):
            raise OSError(errno.ENOTDIR, "not a directory")
        return node, name

    def stat(self, path: bytes) -> Stat:
        return self._getattr(self.walk(path)[0])

    def lstat(self, path: bytes) -> Stat:
        return self._getattr(self.walk(path, follow=False)[0])

    def fstat(self, file: Any) -> Stat:
        return self._getattr(file.node)

    def _getattr(self, node: int) -> Stat:
        attr = fuse.attr(self.call(fuse.GETATTR, node, bytes(16))[16:])
        rdev = os.makedev(attr.rdev >> 8 & 0xFFF, attr.rdev & 0xFF | attr.rdev >> 12 & 0xFFF00)
        times = (
            (value - (1 << 64) if value >> 63 else value) * 10**9 + ns
            for value, ns in (
                (attr.atime, attr.atimensec),
                (attr.mtime, attr.mtimensec),
                (attr.ctime, attr.ctimensec),
            )
        )
        head = (attr.mode, attr.ino, attr.nlink, attr.uid, attr.gid, attr.size, attr.blocks, rdev)
        return Stat(*head, *times)

    # Files

    def open(self, path: bytes, flags: int, mode: int = 0o644, depth: int = 0) -> Any:
        if flags & os.O_CREAT:
            try:
                node, name = self.parent(path)
                body = struct.pack("<IIII", flags, stat.S_IFREG | mode, self._umask, 0) + name + b"\0"
                made = self.call(fuse.CREATE, node, body)
                return Open(self.entry(made).nodeid, struct.unpack_from("<Q", made, 128)[0])
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
            node, found = self.walk(path, follow=False)
            if stat.S_ISLNK(found) and not flags & os.O_NOFOLLOW and depth < 40:
                target = path.rpartition(b"/")[0] + b"/" + self.call(fuse.READLINK, node)
                return self.open(target, flags, mode, depth + 1)
        node, mode = self.walk(path, follow=not flags & os.O_NOFOLLOW)
        if stat.S_ISDIR(mode) and flags & (os.O_ACCMODE | os.O_CREAT | os.O_TRUNC):
            raise OSError(errno.EISDIR, "a directory")
        if stat.S_ISDIR(mode):
            return Open(node, NO_HANDLE)
        body = self.call(fuse.OPEN, node, struct.pack("<II", flags & ~(os.O_CREAT | os.O_EXCL), 0))
        return Open(node, struct.unpack_from("<Q", body)[0])

    def tmpfile(self, path: bytes, flags: int, mode: int = 0o600) -> Any:
        body = struct.pack("<IIII", flags, stat.S_IFREG | mode, self._umask, 0) + b"/\0"
        made = self.call(fuse.TMPFILE, self.walk(path)[0], body)
        return Open(self.entry(made).nodeid, struct.unpack_from("<Q", made, 128)[0])

    def close(self, file: Any) -> None:
        if file.handle != NO_HANDLE:
            self.call(fuse.RELEASE, file.node, struct.pack("<QIIQ", file.handle, 0, 0, 0))

    def pread(self, file: Any, size: int, offset: int) -> bytes:
        if file.handle == NO_HANDLE:
            raise OSError(errno.EISDIR, "a directory")
        return self.call(fuse.READ, file.node, io_in(file.handle, offset, size), room=size + 16)

    def pwrite(self, file: Any, data: bytes, offset: int) -> int:
        body = self.call(fuse.WRITE, file.node, io_in(file.handle, offset, len(data)) + data)
        written: int = struct.unpack("<I4x", body)[0]
        return written

    def _setattr(self, node: int, valid: int, file: Any = None, **values: int) -> None:
        names = ("fh", "size", "owner", "atime", "mtime", "ctime", "atime_ns", "mtime_ns", "ctime_ns", "mode")
        fields = [values.get(name, 0) for name in (*names, "unused4", "uid", "gid", "unused5")]
        if file is not None:
            valid |= FH
            fields[0] = file.handle
        self.call(fuse.SETATTR, node, _SETATTR(valid, 0, *fields))

    def ftruncate(self, file: Any, size: int) -> None:
        self._setattr(file.node, SIZE, file, size=size)

    def fchmod(self, file: Any, mode: int) -> None:
        self._setattr(file.node, MODE, file, mode=mode)

    def fallocate(self, file: Any, mode: int, offset: int, length: int) -> None:
        self.call(fuse.FALLOCATE, file.node, struct.pack("<QQQII", file.handle, offset, length, mode, 0))

    def lseek(self, file: Any, offset: int, whence: int) -> int:
        body = self.call(fuse.LSEEK, file.node, struct.pack("<QQII", file.handle, offset, whence, 0))
        found: int = struct.unpack("<Q", body)[0]
        return found

    def copy_file_range(self, source: Any, offset: int, target: Any, offset_out: int, length: int) -> int:
        body = struct.pack("<7Q", source.handle, offset, target.node, target.handle, offset_out, length, 0)
        copied: int = struct.unpack("<I4x", self.call(fuse.COPY_FILE_RANGE, source.node, body))[0]
        return copied

    def fsync(self, file: Any) -> None:
        self.call(fuse.FSYNC, file.node, struct.pack("<QII", file.handle, 0, 0))

    def link_file(self, file: Any, path: bytes) -> None:
        node, name = self.parent(path)
        self.entry(self.call(fuse.LINK, node, struct.pack("<Q", file.node) + name + b"\0"))

    # Names

    def truncate(self, path: bytes, size: int) -> None:
        node, mode = self.walk(path)
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, "a directory")
        self._setattr(node, SIZE, size=size)

    def mkdir(self, path: bytes, mode: int = 0o755) -> None:
        node, name = self.parent(path)
        self.entry(self.call(fuse.MKDIR, node, struct.pack("<II", mode, self._umask) + name + b"\0"))

    def rmdir(self, path: bytes) -> None:
        node, name = self.parent(path)
        self.call(fuse.RMDIR, node, name + b"\0")

    def unlink(self, path: bytes) -> None:
        node, name = self.parent(path)
        self.call(fuse.UNLINK, node, name + b"\0")

    def rename(self, path: bytes, new_path: bytes, flags: int = 0) -> None:
        (node, name), (new_node, new_name) = self.parent(path), self.parent(new_path)
        for folder, one in ((node, name), (new_node, new_name)):  # as a kernel does before
            try:
                self.lookup(folder, one)
            except OSError:
                pass
        self.call(fuse.RENAME2, node, struct.pack("<QII", new_node, flags, 0) + name + b"\0" + new_name + b"\0")

    def link(self, path: bytes, new_path: bytes) -> None:
        node, _ = self.walk(path, follow=False)
        self.link_file(Open(node, 0), new_path)

    def symlink(self, target: bytes, path: bytes) -> None:
        node, name = self.parent(path)
        self.entry(self.call(fuse.SYMLINK, node, name + b"\0" + target + b"\0"))

    def readlink(self, path: bytes) -> bytes:
        return self.call(fuse.READLINK, self.walk(path, follow=False)[0])

    def mknod(self, path: bytes, mode: int, device: int = 0) -> None:
        node, name = self.parent(path)
        major, minor = os.major(device), os.minor(device)
        packed = minor & 0xFF | major << 8 | (minor & 0xFFF00) << 12
        body = struct.pack("<IIII", mode, packed, self._umask, 0) + name + b"\0"
        self.entry(self.call(fuse.MKNOD, node, body))

    def chmod(self, path: bytes, mode: int) -> None:
        self._setattr(self.walk(path)[0], MODE, mode=mode)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        valid = (UID if uid >= 0 else 0) | (GID if gid >= 0 else 0)
        self._setattr(self.walk(path, follow=False)[0], valid, uid=max(uid, 0), gid=max(gid, 0))

    def utime(self, path: bytes, atime: int | str | None, mtime: int | str | None) -> None:
        valid, values = 0, {}
        for name, value, flag, now in (("atime", atime, ATIME, ATIME_NOW), ("mtime", mtime, MTIME, MTIME_NOW)):
            if value == NOW:
                valid |= flag | now
            elif isinstance(value, int):
                valid |= flag
                seconds, values[name + "_ns"] = divmod(value, 10**9)
                values[name] = seconds & ((1 << 64) - 1)
        self._setattr(self.walk(path, follow=False)[0], valid, **values)

    def names(self, path: bytes) -> list[bytes]:
        node, mode = self.walk(path)
        if not stat.S_ISDIR(mode):
            raise OSError(errno.ENOTDIR, "not a directory")
        plain = sorted(self.guest.names(node))
        entries = self.guest.listing(node, plus=True)
        for entry in entries:
            if entry.nodeid:
                self.known[entry.nodeid] = self.known.get(entry.nodeid, 0) + 1
        assert sorted(entry.name for entry in entries) == plain
        assert plain[:2] == [b".", b".."] or b"." in plain
        return [name for name in plain if name not in (b".", b"..")]

    def kinds(self, path: bytes) -> dict[bytes, int]:
        listed = self.guest.listing(self.walk(path)[0])
        kinds = {number: kind for kind, number in DIRENT_KINDS.items()}
        return {entry.name: kinds.get(entry.kind, 0) for entry in listed if entry.name not in (b".", b"..")}

    # The rest

    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int = 0) -> None:
        body = struct.pack("<II", len(value), flags) + name + b"\0" + value
        self.call(fuse.SETXATTR, self.walk(path, follow=False)[0], body)

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        body = struct.pack("<II", 65536, 0) + name + b"\0"
        return self.call(fuse.GETXATTR, self.walk(path, follow=False)[0], body)

    def listxattr(self, path: bytes) -> list[bytes]:
        body = self.call(fuse.LISTXATTR, self.walk(path, follow=False)[0], struct.pack("<II", 65536, 0))
        return body.split(b"\0")[:-1]

    def removexattr(self, path: bytes, name: bytes) -> None:
        self.call(fuse.REMOVEXATTR, self.walk(path, follow=False)[0], name + b"\0")

    def statfs(self, path: bytes) -> tuple[int, int]:
        fields = struct.unpack("<5Q4I24x", self.call(fuse.STATFS, self.walk(path)[0]))
        return fields[5], fields[6]


def fuse_name(opcode: int) -> str:
    return f"FUSE operation {opcode}"
