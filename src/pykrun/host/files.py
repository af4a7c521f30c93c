"""System calls on files that the standard library lacks, or offers with paths only.

Whoever serves a directory to others names files by a directory's descriptor and one name, or by an O_PATH descriptor:
never by a path that somebody could change between two looks.
"""

from __future__ import annotations

import ctypes
import os
from errno import ENOSYS, EPERM
from struct import Struct
from typing import Never

from pykrun.host.linux import system_call
from pykrun.host.numbers import number

AT_EMPTY_PATH = 0x1000
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2

RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    """`struct open_how`."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


_PATH_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_HOW = _OpenHow(_PATH_FLAGS, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
_HOW_ADDRESS = ctypes.byref(_HOW)
_OPENAT2, _UTIMENSAT, _FCHOWNAT = (ctypes.c_long(number(name) or -1) for name in ("openat2", "utimensat", "fchownat"))


def open_path(directory: int, name: bytes) -> int:
    """Refer to what a name in a directory means (O_PATH), a symbolic link itself included, without opening it.

    The kernel is asked to refuse whatever leads out of the directory (openat2, Linux 5.6), should a name that was not
    checked ever come here; before, and where a filter forbids the call, a plain openat without following links.

    :raise OSError: ENOENT, EXDEV for a way out, EMFILE.
    """
    descriptor = int(_syscall(_OPENAT2, directory, name, _HOW_ADDRESS, 24))
    if descriptor >= 0:
        return descriptor
    if ctypes.get_errno() not in (ENOSYS, EPERM):
        _fail()
    return os.open(name, _PATH_FLAGS, dir_fd=directory)


def _fail() -> Never:
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code))


def rename(directory: int, name: bytes, new_directory: int, new_name: bytes, flags: int) -> None:
    """renameat2(2)."""
    if flags:
        system_call("renameat2", directory, name, new_directory, new_name, flags)
    else:
        os.rename(name, new_name, src_dir_fd=directory, dst_dir_fd=new_directory)


def change_owner(descriptor: int, uid: int, gid: int) -> None:
    """Give a file, also one known by O_PATH only, to others; -1 leaves an id alone."""
    if _syscall(_FCHOWNAT, descriptor, b"", uid, gid, AT_EMPTY_PATH):
        _fail()


_TIMES = Struct("<qqqq")


def change_times(directory: int, name: bytes | None, atime_ns: int | None, mtime_ns: int | None) -> None:
    """utimensat(2), following a link; without a name the times of the open file `directory` itself.

    :param atime_ns: since 1970, `NOW` for the present, None to leave it alone.
    :param mtime_ns: the same.
    """
    record = _TIMES.pack(*_time(atime_ns), *_time(mtime_ns))
    if _syscall(_UTIMENSAT, directory, name, record, 0):
        _fail()


NOW = -(1 << 200)
"""In `change_times`: the present; no time that a file can have."""


def _time(ns: int | None) -> tuple[int, int]:
    if ns is None:
        return 0, UTIME_OMIT
    if ns == NOW:
        return 0, UTIME_NOW
    return divmod(ns, 1_000_000_000)


def allocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2), with its modes."""
    system_call("fallocate", descriptor, mode, offset, length)


def sync_file_system(descriptor: int) -> None:
    """syncfs(2)."""
    system_call("syncfs", descriptor)


class DirectoryReader:
    """getdents64(2) into a buffer of its own: names with their numbers, types and cookies, as the kernel has them."""

    SIZE = 32768

    def __init__(self) -> None:
        nr = number("getdents64")
        assert nr is not None
        self._nr = ctypes.c_long(nr)
        self._buffer = ctypes.create_string_buffer(self.SIZE)
        self._address = ctypes.c_void_p(ctypes.addressof(self._buffer))

    def read(self, descriptor: int) -> bytes:
        """Return the next records (`struct linux_dirent64`), b"" at the end."""
        count = int(_syscall(self._nr, descriptor, self._address, self.SIZE))
        if count < 0:
            _fail()
        return ctypes.string_at(self._address, count)


_OVERLAYFS = 0x794C7630  # linux/magic.h


def is_overlay(descriptor: int) -> bool:
    """Whether a file is on an overlay file system."""
    answer = ctypes.create_string_buffer(256)  # struct statfs, whose first word is the type
    failed = _syscall(ctypes.c_long(number("fstatfs") or -1), descriptor, answer)
    return not failed and int.from_bytes(answer.raw[:8], "little") == _OVERLAYFS
