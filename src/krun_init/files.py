"""Whole small files with few system calls; the blob has no `open`."""

from __future__ import annotations

import posix

O_CLOEXEC = posix.O_CLOEXEC
_S_IFMT, _S_IFREG = 0o170000, 0o100000


def read(path: str, chunk: int = 65536) -> bytes:
    """All bytes of the file, which is opened once and never looked at otherwise (it may be one-shot).

    :raise OSError: as open(2) and read(2).
    """
    fd = posix.open(path, posix.O_RDONLY | O_CLOEXEC)
    try:
        data = posix.read(fd, chunk)
        parts = [data]
        while data:
            data = posix.read(fd, chunk)
            parts.append(data)
        return b"".join(parts)
    finally:
        posix.close(fd)


def read_regular(path: str, most: int) -> bytes:
    """All bytes of a regular file of a guest that may mean harm: nothing else is waited for, or read without end.

    :raise OSError: as open(2) and read(2); it is no regular file, or has more bytes than `most`.
    """
    fd = posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_NOCTTY | O_CLOEXEC)
    try:
        if posix.fstat(fd).st_mode & _S_IFMT != _S_IFREG:
            raise OSError(f"{path} is no regular file")
        data = part = posix.read(fd, most)
        while part:
            part = posix.read(fd, most)
            data += part
            if len(data) > most:
                raise OSError(f"{path} has more than {most} bytes")
        return data
    finally:
        posix.close(fd)


def read_attribute(path: str) -> bytes:
    """A sysfs attribute, which comes whole in one read."""
    fd = posix.open(path, posix.O_RDONLY | O_CLOEXEC)
    try:
        return posix.read(fd, 4096)
    finally:
        posix.close(fd)


def make_directories(path: str) -> None:
    """Make the directory and what is missing above it; there already is fine.

    :raise OSError: as mkdir(2).
    """
    try:
        posix.mkdir(path, 0o755)
    except FileExistsError:
        return
    except FileNotFoundError:
        parent = path.rstrip("/").rpartition("/")[0]
        if not parent:
            raise
        make_directories(parent)
        posix.mkdir(path, 0o755)  # procfs says ENOENT again
