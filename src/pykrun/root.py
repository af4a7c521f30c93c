"""The root file system of a VM as one object: what it is made of, before any server exists."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from pykrun.buffers import wipe
from pykrun.errors import UsageError
from pykrun.record import record
from pykrun.start_data import PATH as START_PATH

INIT_PATH = b"/init.krun"
MAX_LINKS = 40
"""Symbolic links on one path, as Linux has it."""
STANDARD_DIRECTORIES = (b"/dev", b"/proc", b"/sys")

Content = bytes | bytearray | memoryview | int | Callable[[], bytes]
"""What a virtual file holds: bytes, an open descriptor of a regular file, or a callable that is asked once."""


@record(frozen=True, slots=True)
class VirtualFile:
    """A file that exists on the host's side only.

    :param one_shot: it can be looked up once and is never listed.
    :param wipe: the content is a buffer of our own, to be zeroed when it was used up, or is to be read into one.
    """

    path: bytes
    content: Content
    mode: int
    one_shot: bool
    wipe: bool = False


def guest_path(path: str | bytes, where: str = "the guest") -> bytes:
    """Check and normalise a path in the guest.

    :param where: what it is a path in, for the message.
    :raise UsageError: it is not absolute, or has empty, `.` or `..` components, NUL, or names over 255 bytes.
    """
    raw = os.fsencode(path)
    shown = os.fsdecode(raw)
    parts = raw.rstrip(b"/").split(b"/")
    if not raw.startswith(b"/"):
        raise UsageError(f"{shown!r} is not an absolute path in {where}", "start it with /")
    if len(parts) < 2 or any(part in (b"", b".", b"..") for part in parts[1:]):
        raise UsageError(f"{shown!r} cannot be a path in {where}", "no empty, . or .. components")
    if b"\0" in raw or any(len(part) > 255 for part in parts):
        raise UsageError(f"{shown!r} cannot be a path in {where}", "no NUL, at most 255 bytes a name")
    return b"/".join(parts)


class Root:
    """Collects virtual files and directories; the supervisor turns it into a served file system.

    Parents of what is added are made as needed, and so are `/dev`, `/proc` and `/sys`.

    :param bare: it is no VM's root: `/dev`, `/proc` and `/sys` are not needed.
    :param below: a directory of the host that is shown too. Symbolic links in it are followed, within it, on the way to
        what is added.

    :ivar reader: user and group whose one-shot files are: the workload's, for which they are; None for those of all
        entries.

    Where another process is going to serve the entries (`bare` or `below`), secrets stay in their files until it reads
    them.
    """

    def __init__(self, *, bare: bool = False, below: str | None = None) -> None:
        self._bare = bare
        self._below = below
        self.reader: tuple[int, int] | None = None
        self.files: dict[bytes, VirtualFile] = {}
        self.directories: dict[bytes, int] = {}
        self._owned: set[int] = set()
        self._mount_points: set[bytes] = set()

    def path(self, path: str | bytes) -> bytes:
        """Check and normalise the path of an entry: see `guest_path`."""
        return guest_path(path, "what is shared" if self._bare else "the guest")

    def file(self, path: str | bytes, content: Content, *, mode: int = 0o644, one_shot: bool = False) -> None:
        """Add a virtual file.

        :raise UsageError: the path cannot be, or is taken.
        """
        self._add(VirtualFile(self._place(path), content, mode & 0o7777, one_shot))

    def directory(self, path: str | bytes, *, mode: int = 0o755) -> None:
        """Add a virtual directory, or change the mode of one.

        :raise UsageError: the path cannot be, or is a file.
        """
        name = self._place(path)
        if name == INIT_PATH:
            raise UsageError(f"{os.fsdecode(name)} is pykrun's init, and cannot be a directory")
        _check_free(name)
        if name in self.files:
            raise UsageError(f"{os.fsdecode(name)} is a file and a directory at once")
        self.directories[name] = mode & 0o7777

    def mount_point(self, path: str | bytes) -> None:
        """Add a virtual directory over which a file system is mounted.

        :raise UsageError: as `directory`, or another one is mounted there.
        """
        name = self._place(path)
        if name in self._mount_points:
            raise UsageError(f"the volume {os.fsdecode(name)} is given twice")
        self._mount_points.add(name)
        self.directory(path)

    def host_file(self, path: str | bytes, source: str, *, mode: int | None = None) -> None:
        """Add a virtual file with the bytes of a file of the host, read when the guest asks.

        :param mode: permission bits, None for those of the host's file.
        :raise UsageError: the source cannot be read, has no end, or is a directory.
        """
        fd, status = _open_source(source)
        bits = stat.S_IMODE(status.st_mode) if mode is None else mode
        if stat.S_ISREG(status.st_mode):
            self._owned.add(fd)
            self.file(path, fd, mode=bits)
        else:  # a pipe or device has no size: read it now
            from pykrun.host.unsized import read_to_end, room

            try:
                content = read_to_end(fd, room())
            except OSError as error:
                raise UsageError(f"cannot read {source!r}: {error.strerror}") from None
            finally:
                os.close(fd)
            self.file(path, content, mode=bits)

    def secret(self, path: str | bytes, source: str, *, mode: int = 0o400) -> None:
        """Add a one-shot file with the bytes of a file of the host; they are read now and zeroed once they were used.

        :raise UsageError: the source cannot be read, has no end, or is a directory.
        """
        from pykrun.secret import read_secret  # mmap is a library of its own, and most roots have no secret

        fd, _ = _open_source(source)
        if self._bare or self._below is not None:
            self._owned.add(fd)
            self._add(VirtualFile(self._place(path), fd, mode & 0o7777, one_shot=True, wipe=True))
            return
        try:
            content = read_secret(fd)
        except OSError as error:
            raise UsageError(f"cannot read {source!r}: {error.strerror}") from None
        finally:
            os.close(fd)
        self._add(VirtualFile(self._place(path), content, mode & 0o7777, one_shot=True, wipe=True))

    def _place(self, path: str | bytes) -> bytes:
        """The path at which an entry lies, without symbolic links of the directory below."""
        name = self.path(path)
        return name if self._below is None else resolve_parent(os.fsencode(self._below), name)

    def _add(self, file: VirtualFile) -> None:
        _check_free(file.path)
        shown = os.fsdecode(file.path)
        if file.path in self.files:
            raise UsageError(f"{shown} is given twice")
        if file.path in self.directories:
            raise UsageError(f"{shown} is a file and a directory at once")
        self.files[file.path] = file

    def missing_directories(self) -> dict[bytes, int]:
        """The directories to make, parents first: those asked for, parents of files, the mount points of the kernel.

        :raise UsageError: a file lies where a directory is needed.
        """
        wanted = dict.fromkeys(() if self._bare else STANDARD_DIRECTORIES, 0o755)
        for path in [*self.files, *self.directories]:
            for parent in _parents(path):
                wanted.setdefault(parent, 0o755)
        wanted.update(self.directories)
        for path in wanted:
            if path in self.files:
                raise UsageError(f"{os.fsdecode(path)} is a file, but must be a directory for what lies below it")
        return dict(sorted(wanted.items(), key=lambda item: item[0].count(b"/")))

    def hand_over(self, fd: int) -> bool:
        """Give up a descriptor: whoever gets True closes it. False: it is not ours, but that of who called `file`."""
        owned = fd in self._owned
        self._owned.discard(fd)
        return owned

    def close(self) -> None:
        """Close the descriptors that were opened here and not handed over, wipe the secrets."""
        for fd in self._owned:
            os.close(fd)
        self._owned.clear()
        for file in self.files.values():
            if file.wipe and isinstance(file.content, memoryview):
                wipe(file.content)


def resolve_parent(folder: bytes, path: bytes) -> bytes:
    """Follow the symbolic links on the way to a path, as a process would whose root is the folder; not its last name.

    What is not there is taken for a directory. Where it goes round in circles, the rest is left as it is.
    """
    *waiting, last = path.split(b"/")[1:]
    waiting.reverse()
    found: list[bytes] = []
    links = 0
    while waiting:
        name = waiting.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            del found[-1:]
            continue
        found.append(name)
        if links < MAX_LINKS:
            try:
                target = os.readlink(b"/".join((folder, *found)))
            except OSError:  # no link, or not there
                continue
            links += 1
            del found[0 if target.startswith(b"/") else -1 :]
            waiting += reversed(target.split(b"/"))
    return b"/" + b"/".join((*found, last))


def _check_free(path: bytes) -> None:
    """Refuse what pykrun itself puts into every root.

    :raise UsageError: it is the start data's path, or below it or init.
    """
    if path == START_PATH:
        raise UsageError(f"{os.fsdecode(path)} is where pykrun tells the guest what to run; it cannot be given")
    for parent in _parents(path):
        if parent in (START_PATH, INIT_PATH):
            raise UsageError(f"{os.fsdecode(path)} cannot be: {os.fsdecode(parent)} is a file of pykrun's own")


def _parents(path: bytes) -> list[bytes]:
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(2, len(parts))]


def _open_source(source: str) -> tuple[int, os.stat_result]:
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot read {source!r}: {error.strerror}") from None
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        os.close(fd)
        raise UsageError(f"{source!r} is a directory", "share a directory with --root or --volume")
    if stat.S_ISCHR(status.st_mode):
        from pykrun.host.unsized import is_endless

        if is_endless(status):
            os.close(fd)
            raise UsageError(f"{source!r} has no end", "name a file, or what brings as much as is to be there")
    return fd, status
