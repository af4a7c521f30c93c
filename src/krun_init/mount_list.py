"""Mounts in the order of a list, as a container's configuration has them: each may hide the one before."""

from __future__ import annotations

import posix

from krun_init import _linux, files, mounts
from krun_init.errors import InitError, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.log import Log
    from krun_init.places import Places
    from krun_init.start import Mount

_DIRECTORY, _LINK, _KIND = 0o040000, 0o120000, 0o170000
_PRIVATE, _DETACH = 1 << 18, 2  # uapi/linux/mount.h: MS_PRIVATE, MNT_DETACH
_CHUNK = 1 << 16


def make(wanted: list[Mount], places: Places, log: Log) -> None:
    """Make them all.

    A mount of kind `root` shows what the root has at a path that other mounts hide: for that the root is mounted once
    more, without them, while this runs.

    :raise InitError: one that is not optional cannot be made.
    """
    if not wanted:
        return
    taken = mounts.mount_points(places.mount_table)
    under = places.devices + "/.krun-root"
    try:
        posix.mkdir(under, 0o700)
        _linux.mount("/", under, None, mounts.BIND)
        _linux.mount(None, under, None, _PRIVATE)  # else what is mounted on / would appear there, too
    except OSError as error:
        raise InitError(f"cannot mount / on {under}: {reason_of(error)}") from None
    try:
        for one in wanted:
            try:
                _make(one, under, taken)
            except OSError as error:
                text = f"cannot mount {one.kind} on {one.destination}: {reason_of(error)}"
                if not one.optional:
                    raise InitError(text) from None
                log.warn(text)
    finally:
        _linux.umount(under, _DETACH)
        posix.rmdir(under)


def _make(one: Mount, under: str, taken: set[str]) -> None:
    destination = mounts.normalise(one.destination)
    source = under + mounts.normalise(one.source or destination)
    if one.kind == "root":
        _make_place(destination, posix.stat(source).st_mode & _KIND == _DIRECTORY)
        _linux.mount(source, destination, None, mounts.BIND | mounts.REC)
        return
    flags, data = mounts.options(one.options, mounts.RELATIME)
    if destination in taken:
        flags |= mounts.REMOUNT
    else:
        files.make_directories(destination)
    _linux.mount(one.kind, destination, one.kind, flags, data)
    taken.add(destination)
    if one.copy:
        copy(source, destination)


def _make_place(path: str, directory: bool) -> None:
    if directory:
        files.make_directories(path)
        return
    files.make_directories(path.rpartition("/")[0] or "/")
    posix.close(posix.open(path, posix.O_RDONLY | posix.O_CREAT | posix.O_CLOEXEC | posix.O_NONBLOCK, 0o644))


def copy(source: str, destination: str) -> None:
    """Copy what a directory has into another: directories, files and links, with owners and permissions."""
    for name in posix.listdir(source):
        old, new = f"{source}/{name}", f"{destination}/{name}"
        status = posix.lstat(old)
        kind = status.st_mode & _KIND
        if kind == _LINK:
            posix.symlink(posix.readlink(old), new)
        elif kind == _DIRECTORY:
            posix.mkdir(new, 0o700)
            copy(old, new)
        elif kind == 0o100000:
            _copy_file(old, new)
        else:
            continue
        posix.chown(new, status.st_uid, status.st_gid, follow_symlinks=False)
        if kind != _LINK:
            posix.chmod(new, status.st_mode & 0o7777)


def _copy_file(old: str, new: str) -> None:
    reading = posix.open(old, posix.O_RDONLY | posix.O_CLOEXEC)
    writing = posix.open(new, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600)
    try:
        while chunk := posix.read(reading, _CHUNK):
            while chunk:  # a full file system takes a part, and tells with the next one
                chunk = chunk[posix.write(writing, chunk) :]
    finally:
        posix.close(reading)
        posix.close(writing)
