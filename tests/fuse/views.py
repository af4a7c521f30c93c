"""The two views of the table of cases: plain bytes, and a path where a real kernel has the file system mounted."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from tests.fs.cases import Stat
from tests.fuse import guest as fuse
from tests.fuse.guest import Guest, io_in


class BytesView:
    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    def _find(self, path: bytes) -> fuse.EntryOut:
        """Walk as a kernel does: what is known by name is asked about again, and forgotten at the end."""
        node, entry = 1, None
        for name in path.strip(b"/").split(b"/"):
            if not name:
                continue
            error = self.guest.call(fuse.LOOKUP, node, name + b"\0")
            if error.error or not fuse.entry_out(error.body).nodeid:
                raise OSError(error.error or 2, "lookup")
            entry = fuse.entry_out(error.body)
            node = entry.nodeid
        return entry or fuse.EntryOut(1, 0, 0, self.guest.getattr(1))

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        above, _, name = path.rpartition(b"/")
        return self._find(above).nodeid, name

    def stat(self, path: bytes) -> Stat:
        node = self._find(path).nodeid
        found = self.guest.getattr(node)
        if node > 1:
            self.guest.forget(node)
        return Stat(found.mode, found.size, found.nlink, found.ino)

    def read(self, path: bytes, offset: int, size: int) -> bytes:
        return self.reads(path, [(offset, size)])[0]

    def reads(self, path: bytes, ranges: list[tuple[int, int]]) -> list[bytes]:
        node = self._find(path).nodeid
        fh = self.guest.open(node)
        found = []
        for offset, size in ranges:
            data = b""
            while size:
                chunk = self.guest.read(node, fh, offset + len(data), min(size, 1 << 20))
                if not chunk:
                    break
                data += chunk
                size -= len(chunk)
            found.append(data)
        assert self.guest.release(node, fh) == 0
        self.guest.forget(node)
        return found

    def names(self, path: bytes) -> list[bytes]:
        node = self._find(path).nodeid
        plain, plus = (sorted(self.guest.names(node, plus=plus)) for plus in (False, True))
        assert plain == plus
        assert plain[:2] == [b".", b".."]
        return plain[2:]

    def dots(self, path: bytes) -> list[int]:
        return [entry.ino for entry in self.guest.listing(self._find(path).nodeid)[:2]]

    def open_error(self, path: bytes, flags: int) -> int:
        try:
            node = self._find(path).nodeid
        except OSError as error:
            return error.errno or 0
        return self.guest.call(fuse.OPEN, node, struct.pack("<II", flags, 0)).error

    def lookup_error(self, path: bytes) -> int:
        try:
            self._find(path)
        except OSError as error:
            return error.errno or 0
        return 0

    def change_errors(self, path: bytes) -> dict[str, int]:
        node = self._find(path).nodeid
        parent, name = self._parent(path)
        call = self.guest.call
        rename = struct.pack("<Q", 1)
        setattr_ = struct.Struct("<I4xQQQQQQIIII4xII4x").pack
        changes = {
            "unlink": call(fuse.UNLINK, parent, name + b"\0"),
            "rename": call(fuse.RENAME, parent, rename + name + b"\0other\0"),
            "link": call(fuse.LINK, 1, struct.pack("<Q", node) + b"other\0"),
            "chmod": call(fuse.SETATTR, node, setattr_(1, *(0,) * 9, 0o777, 0, 0)),
            "chown": call(fuse.SETATTR, node, setattr_(2, *(0,) * 12)),
            "utime": call(fuse.SETATTR, node, setattr_(32, *(0,) * 12)),
            "setxattr": call(fuse.SETXATTR, node, struct.pack("<II", 1, 0) + b"user.x\0v"),
            "removexattr": call(fuse.REMOVEXATTR, node, b"user.x\0"),
        }
        return {name: reply.error for name, reply in changes.items()}

    def create_error(self, path: bytes) -> int:
        parent, name = self._parent(path)
        body = struct.pack("<IIII", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o100644, 0, 0) + name + b"\0"
        return self.guest.call(fuse.CREATE, parent, body).error

    def mkdir_error(self, path: bytes) -> int:
        parent, name = self._parent(path)
        return self.guest.call(fuse.MKDIR, parent, struct.pack("<II", 0o755, 0) + name + b"\0").error

    def getxattr_error(self, path: bytes) -> int:
        body = struct.pack("<II", 100, 0) + b"user.x\0"
        return self.guest.call(fuse.GETXATTR, self._find(path).nodeid, body).error

    def listxattr(self, path: bytes) -> list[bytes]:
        names = self.guest.good(fuse.LISTXATTR, self._find(path).nodeid, struct.pack("<II", 4096, 0))
        return names.split(b"\0")[:-1]

    def exit_code(self, path: bytes, code: int) -> None:
        assert self.guest.ioctl(self._find(path).nodeid, 0x7602, code).error == 0

    def sync(self, path: bytes) -> None:
        node = self._find(path).nodeid
        assert self.guest.good(fuse.SYNCFS, node, bytes(8)) == b""
        assert self.guest.call(fuse.READ, node, io_in(0, 0, 0)).error


def outcome(operation: Callable[..., object], *arguments: object, **named: object) -> int:
    try:
        operation(*arguments, **named)
    except OSError as error:
        return error.errno or 0
    return 0


class MountView:
    def __init__(self, folder: Path) -> None:
        self._folder = os.fsencode(folder)

    def _at(self, path: bytes) -> bytes:
        return self._folder + path

    def stat(self, path: bytes) -> Stat:
        found = os.stat(self._at(path))
        return Stat(found.st_mode, found.st_size, found.st_nlink, found.st_ino)

    def read(self, path: bytes, offset: int, size: int) -> bytes:
        return self.reads(path, [(offset, size)])[0]

    def reads(self, path: bytes, ranges: list[tuple[int, int]]) -> list[bytes]:
        descriptor = os.open(self._at(path), os.O_RDONLY)
        try:
            return [os.pread(descriptor, size, offset) for offset, size in ranges]
        finally:
            os.close(descriptor)

    def names(self, path: bytes) -> list[bytes]:
        return sorted(os.listdir(self._at(path)))

    def dots(self, path: bytes) -> list[int]:
        return [os.stat(self._at(path) + b"/.").st_ino, os.stat(self._at(path) + b"/..").st_ino]

    def open_error(self, path: bytes, flags: int) -> int:
        return outcome(lambda: os.close(os.open(self._at(path), flags)))

    def lookup_error(self, path: bytes) -> int:
        return outcome(os.stat, self._at(path))

    def change_errors(self, path: bytes) -> dict[str, int]:
        at, other = self._at(path), self._at(b"/other")
        directory = stat.S_ISDIR(os.stat(at).st_mode)
        errors = {
            "remove": outcome(os.rmdir if directory else os.unlink, at),
            "rename": outcome(os.rename, at, other),
            "chmod": outcome(os.chmod, at, 0o777),
            "chown": outcome(os.chown, at, 5, 5),
            "utime": outcome(os.utime, at, (1, 1)),
            "setxattr": outcome(os.setxattr, at, b"user.x", b"v"),
            "removexattr": outcome(os.removexattr, at, b"user.x"),
        }
        if not directory:
            errors["link"] = outcome(os.link, at, other)
            errors["truncate"] = outcome(os.truncate, at, 0)
        return errors

    def create_error(self, path: bytes) -> int:
        return outcome(lambda: os.close(os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_EXCL)))

    def mkdir_error(self, path: bytes) -> int:
        return outcome(os.mkdir, self._at(path))

    def getxattr_error(self, path: bytes) -> int:
        return outcome(os.getxattr, self._at(path), b"user.x")

    def listxattr(self, path: bytes) -> list[bytes]:
        return [os.fsencode(name) for name in os.listxattr(self._at(path))]

    def exit_code(self, path: bytes, code: int) -> None:
        descriptor = os.open(self._at(path), os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, 0x7602, code)
        finally:
            os.close(descriptor)

    def sync(self, path: bytes) -> None:
        descriptor = os.open(self._at(path), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
