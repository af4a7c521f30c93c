"""Virtual entries: files and directories that exist in the server's memory only, and the tree they make."""

from __future__ import annotations

import time
from _thread import allocate_lock  # threading takes a millisecond to import
from collections.abc import Sequence
from errno import EEXIST, EINVAL, ENAMETOOLONG, ENOENT, ENOTDIR, ESTALE
from stat import S_IFDIR, S_IFREG

from pykrun.fs.inodes import InodeAllocator
from pykrun.fs.interface import ROOT
from pykrun.fs.sources import Content, FileSource, MemorySource, Source, as_source
from pykrun.fs.types import FOREVER, KEEP_CACHE, NOFLUSH, Attributes, Entry, Opened, errno_error

VIRTUAL_INO = 0x7F00_0000_0000_0000
"""st_ino of virtual entries start here: no host file system counts that far, so tar sees no false hard links."""

NAME_MAX = 255
BLOCK = 512


class VirtualFile:
    """A read-only file; one-shot files can be looked up once, and their data is dropped after use.

    A one-shot file is claimed by the one look-up that succeeds. Its data is dropped by the last release once it was
    opened, or by the forget of the inode if it never was.
    """

    __slots__ = (
        "_dropped",
        "_known",
        "_lock",
        "_opens",
        "_source",
        "claimed",
        "entry",
        "ino",
        "one_shot",
        "opened",
        "template",
    )

    def __init__(self, ino: int, source: Source, attributes: Attributes, *, one_shot: bool) -> None:
        self.ino = ino
        self.one_shot = one_shot
        self.claimed = False
        self.entry: Entry | None = None
        """What a look-up answers; None until the source has told its size."""
        self.opened = Opened(self, NOFLUSH if one_shot else KEEP_CACHE | NOFLUSH)
        self._source = source
        self.template = attributes
        self._lock = allocate_lock()  # guards what follows, and `claimed`
        self._known = 0  # look-ups that were not forgotten
        self._opens = 0
        self._dropped = False

    def prepare(self) -> Entry:
        """Have the source ready, and the entry.

        :raise OSError: EIO when the source fails.
        """
        entry = self.entry
        if entry is None:
            attributes = self.template
            attributes.size = self._source.open()
            attributes.blocks = -(-attributes.size // BLOCK)
            entry = self.entry = Entry(self.ino, attributes, attributes.timeout)
        return entry

    def claim(self) -> Entry:
        """Take the one look-up of a one-shot file.

        :raise OSError: ENOENT when it was taken before, EIO when the source fails (it is not taken then).
        """
        if not self.claimed:
            try:
                entry = self.prepare()
            except OSError:
                if not self.claimed:
                    raise
                raise errno_error(ENOENT) from None  # another claimed, and used it up meanwhile
            with self._lock:
                if not self.claimed:
                    self.claimed = True
                    self._known = 1
                    return entry
        raise errno_error(ENOENT)

    def attributes(self) -> Attributes:
        """Tell the attributes.

        :raise OSError: ESTALE after the data was dropped.
        """
        if self._dropped:
            raise errno_error(ESTALE)
        return self.prepare().attributes

    def open(self) -> Opened:
        """Open for reading.

        :raise OSError: ESTALE after the data was dropped.
        """
        if self.one_shot:
            with self._lock:
                if self._dropped:
                    raise errno_error(ESTALE)
                self._opens += 1
        else:
            self.prepare()
        return self.opened

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers; 0 past the end."""
        return self._source.read_into(offset, buffers)

    def release(self) -> bool:
        """Close once; return True when nothing refers to a one-shot file any more."""
        if not self.one_shot:
            return False
        with self._lock:
            self._opens -= 1
            if self._opens <= 0:
                self._drop()
            return self._dropped and self._known <= 0

    def forget(self, count: int) -> bool:
        """Take back look-ups; return True when nothing refers to a one-shot file any more."""
        if not self.one_shot:
            return False
        with self._lock:
            self._known -= count
            if self._known <= 0 and self._opens <= 0:
                self._drop()
            return self._dropped and self._known <= 0

    def close(self) -> None:
        """Drop the data, whatever the guest still knows."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        self._dropped = True
        self._source.drop()


class VirtualDirectory:
    """A directory of virtual entries, alone or lying over a directory of the inner file system."""

    __slots__ = ("attributes", "children", "entry", "inner", "ino", "listed", "parent")

    def __init__(self, ino: int, parent: VirtualDirectory | None, attributes: Attributes) -> None:
        self.ino = ino
        """The inode number by which the guest knows it when nothing inner lies below; 0 for the root, which has."""
        self.inner = 0
        """The inode number of the inner directory below, as last looked up; 0 for none."""
        self.parent = parent
        self.attributes = attributes
        self.entry = Entry(ino, attributes, attributes.timeout)
        self.children: dict[bytes, VirtualFile | VirtualDirectory] = {}
        self.listed: list[tuple[bytes, VirtualFile | VirtualDirectory]] = []
        """The entries that listings show: all but the one-shot files, in the order in which they were added."""


class VirtualTree:
    """All virtual entries of one file system, by path and by inode number.

    Entries are added, never removed; adding is safe while the guest is served.
    """

    def __init__(self, allocator: InodeAllocator) -> None:
        self._allocator = allocator
        self._time_ns = time.time_ns()
        self._lock = allocate_lock()
        self.root = VirtualDirectory(0, None, Attributes(ino=0, mode=S_IFDIR))
        self.root.inner = ROOT
        self.nodes: dict[int, VirtualFile | VirtualDirectory] = {}
        """By inode number; a one-shot file only from its claim to its end."""
        self.directories: dict[int, VirtualDirectory] = {ROOT: self.root}
        """Every directory that has virtual entries, by the number the guest uses: its own, or that of the inner
        directory below it."""
        self._files: list[VirtualFile] = []

    def add_file(self, path: bytes, content: Content, *, mode: int, one_shot: bool, uid: int, gid: int) -> None:
        """Add a file; see `AugmentFs.add_file`."""
        with self._lock:
            parent, name = self._vacancy(path)
            ino = self._allocator.allocate()
            attributes = self._attributes(ino, S_IFREG | mode & 0o7777, 1, uid, gid, 0.0 if one_shot else FOREVER)
            source = as_source(content)
            file = VirtualFile(ino, source, attributes, one_shot=one_shot)
            if isinstance(source, MemorySource | FileSource):
                file.prepare()  # its size is known, and listings can tell it; other sources are asked late
            self._files.append(file)
            if not one_shot:
                self.nodes[file.ino] = file
                parent.listed.append((name, file))
            parent.children[name] = file

    def add_directory(self, path: bytes, *, mode: int, uid: int, gid: int) -> None:
        """Add a directory; see `AugmentFs.add_directory`."""
        with self._lock:
            parent, name = self._vacancy(path)
            self._new_directory(parent, name, mode, uid, gid)

    def make_parents(self, path: bytes, *, mode: int) -> None:
        """Add the directories that are missing above `path`; see `AugmentFs.make_parents`."""
        with self._lock:
            directory = self.root
            for name in split(path)[:-1]:
                child = directory.children.get(name)
                if child is None:
                    child = self._new_directory(directory, name, mode, 0, 0)
                directory = _require_directory(child)

    def close(self) -> None:
        """Drop the data of all files."""
        for file in self._files:
            file.close()

    def _new_directory(self, parent: VirtualDirectory, name: bytes, mode: int, uid: int, gid: int) -> VirtualDirectory:
        ino = self._allocator.allocate()
        attributes = self._attributes(ino, S_IFDIR | mode & 0o7777, 2, uid, gid, FOREVER)
        directory = VirtualDirectory(ino, parent, attributes)
        self.nodes[ino] = directory
        self.directories[ino] = directory
        parent.listed.append((name, directory))
        parent.children[name] = directory
        return directory

    def _attributes(self, ino: int, mode: int, nlink: int, uid: int, gid: int, timeout: float) -> Attributes:
        now = self._time_ns
        return Attributes(
            ino=VIRTUAL_INO + ino,
            mode=mode,
            nlink=nlink,
            uid=uid,
            gid=gid,
            atime_ns=now,
            mtime_ns=now,
            ctime_ns=now,
            timeout=timeout,
        )

    def _vacancy(self, path: bytes) -> tuple[VirtualDirectory, bytes]:
        *parents, name = split(path)
        directory = self.root
        for parent in parents:
            child = directory.children.get(parent)
            if child is None:
                raise OSError(ENOENT, f"no virtual directory {parent!r} for", path)
            directory = _require_directory(child)
        if name in directory.children:
            raise OSError(EEXIST, "there is a virtual entry of that name", path)
        return directory, name


def split(path: bytes) -> list[bytes]:
    """Take a path apart into its names; one leading slash is fine.

    :raise OSError: EINVAL for an empty path or component, ".", "..", or a NUL; ENAMETOOLONG.
    """
    names = path.removeprefix(b"/").split(b"/")
    for name in names:
        if not name or name in (b".", b"..") or b"\0" in name:
            raise OSError(EINVAL, "a virtual entry's path has an empty or special component", path)
        if len(name) > NAME_MAX:
            raise OSError(ENAMETOOLONG, "a component of a virtual entry's path is too long", path)
    return names


def _require_directory(node: VirtualFile | VirtualDirectory) -> VirtualDirectory:
    if isinstance(node, VirtualFile):
        raise errno_error(ENOTDIR)
    return node
