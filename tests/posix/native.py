"""The view of programs: system calls below a folder."""

from __future__ import annotations

import os
import stat
from typing import Any

from pykrun.host import files
from tests.posix.view import NOW, Stat


class NativeView:
    kernel = True

    def __init__(self, folder: bytes) -> None:
        self.folder = folder
        self.uid, self.gid = os.geteuid(), os.getegid()
        self.files: set[int] = set()

    def at(self, path: bytes) -> bytes:
        return self.folder + b"/" + path if path else self.folder

    def umask(self, mask: int) -> None:
        os.umask(mask)

    def stat(self, path: bytes) -> Stat:
        return _stat(os.stat(self.at(path)))

    def lstat(self, path: bytes) -> Stat:
        return _stat(os.lstat(self.at(path)))

    def fstat(self, file: Any) -> Stat:
        return _stat(os.fstat(file))

    def open(self, path: bytes, flags: int, mode: int = 0o644) -> Any:
        return self._kept(os.open(self.at(path), flags, mode))

    def tmpfile(self, path: bytes, flags: int, mode: int = 0o600) -> Any:
        return self._kept(os.open(self.at(path), flags | os.O_TMPFILE, mode))

    def _kept(self, descriptor: int) -> int:
        self.files.add(descriptor)
        return descriptor

    def close(self, file: Any) -> None:
        self.files.remove(file)
        os.close(file)

    def pread(self, file: Any, size: int, offset: int) -> bytes:
        return os.pread(file, size, offset)

    def pwrite(self, file: Any, data: bytes, offset: int) -> int:
        return os.pwrite(file, data, offset)

    def ftruncate(self, file: Any, size: int) -> None:
        os.ftruncate(file, size)

    def fchmod(self, file: Any, mode: int) -> None:
        os.fchmod(file, mode)

    def fallocate(self, file: Any, mode: int, offset: int, length: int) -> None:
        files.allocate(file, mode, offset, length)

    def lseek(self, file: Any, offset: int, whence: int) -> int:
        return os.lseek(file, offset, whence)

    def copy_file_range(self, source: Any, offset: int, target: Any, offset_out: int, length: int) -> int:
        return os.copy_file_range(source, target, length, offset, offset_out)

    def fsync(self, file: Any) -> None:
        os.fsync(file)

    def link_file(self, file: Any, path: bytes) -> None:
        root = os.open("/proc", os.O_PATH)
        try:
            os.link(b"self/fd/%d" % file, self.at(path), src_dir_fd=root, follow_symlinks=True)
        finally:
            os.close(root)

    def truncate(self, path: bytes, size: int) -> None:
        os.truncate(self.at(path), size)

    def mkdir(self, path: bytes, mode: int = 0o755) -> None:
        os.mkdir(self.at(path), mode)

    def rmdir(self, path: bytes) -> None:
        os.rmdir(self.at(path))

    def unlink(self, path: bytes) -> None:
        os.unlink(self.at(path))

    def rename(self, path: bytes, new_path: bytes, flags: int = 0) -> None:
        files.rename(-100, self.at(path), -100, self.at(new_path), flags)

    def link(self, path: bytes, new_path: bytes) -> None:
        os.link(self.at(path), self.at(new_path), follow_symlinks=False)

    def symlink(self, target: bytes, path: bytes) -> None:
        os.symlink(target, self.at(path))

    def readlink(self, path: bytes) -> bytes:
        return os.readlink(self.at(path))

    def mknod(self, path: bytes, mode: int, device: int = 0) -> None:
        os.mknod(self.at(path), mode, device)

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(self.at(path), mode)

    def chown(self, path: bytes, uid: int, gid: int) -> None:
        os.lchown(self.at(path), uid, gid)

    def utime(self, path: bytes, atime: int | str | None, mtime: int | str | None) -> None:
        name = self.at(path)
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW)
        try:
            files.change_times(-100, b"/proc/self/fd/%d" % descriptor, _time(atime), _time(mtime))
        finally:
            os.close(descriptor)

    def names(self, path: bytes) -> list[bytes]:
        return sorted(os.listdir(self.at(path)))

    def kinds(self, path: bytes) -> dict[bytes, int]:
        with os.scandir(self.at(path)) as entries:
            return {entry.name: _kind(entry) for entry in entries}

    def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int = 0) -> None:
        os.setxattr(self.at(path), name, value, flags, follow_symlinks=False)

    def getxattr(self, path: bytes, name: bytes) -> bytes:
        return os.getxattr(self.at(path), name, follow_symlinks=False)

    def listxattr(self, path: bytes) -> list[bytes]:
        return [os.fsencode(name) for name in os.listxattr(self.at(path), follow_symlinks=False)]

    def removexattr(self, path: bytes, name: bytes) -> None:
        os.removexattr(self.at(path), name, follow_symlinks=False)

    def statfs(self, path: bytes) -> tuple[int, int]:
        found = os.statvfs(self.at(path))
        return found.f_bsize, found.f_namemax


def _stat(found: os.stat_result) -> Stat:
    return Stat(
        found.st_mode,
        found.st_ino,
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        found.st_size,
        found.st_blocks,
        found.st_rdev,
        found.st_atime_ns,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


def _time(value: int | str | None) -> int | None:
    if value is None or isinstance(value, int):
        return value
    assert value == NOW
    return files.NOW


def _kind(entry: os.DirEntry[bytes]) -> int:
    """The type as the listing has it: `is_dir` and its like do not ask the file system when it is known."""
    if entry.is_symlink():
        return stat.S_IFLNK
    if entry.is_dir(follow_symlinks=False):
        return stat.S_IFDIR
    return stat.S_IFREG if entry.is_file(follow_symlinks=False) else 0
