"""A small writable file system in memory: the real tree under AugmentFs, and the partner of every operation.

It keeps its promises strictly: look-ups and open handles are counted, and what the server promises never to send makes
it fail loudly.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from errno import (
    EAGAIN,
    EEXIST,
    EINVAL,
    EISDIR,
    ENODATA,
    ENOENT,
    ENOTDIR,
    ENOTEMPTY,
    ENOTTY,
    ENXIO,
    EPERM,
    ESTALE,
)
from os import O_EXCL, O_TRUNC, SEEK_DATA

from pykrun.buffers import scatter
from pykrun.fs import FileSystem, InodeAllocator
from pykrun.fs.interface import ROOT
from pykrun.fs.types import (
    Attributes,
    Caller,
    Changes,
    DirectoryEntry,
    Entry,
    FileSystemStatistics,
    Lock,
    Opened,
    errno_error,
)


class Node:
    def __init__(self, ino: int, mode: int) -> None:
        self.ino = ino
        self.mode = mode
        self.uid = self.gid = 0
        self.rdev = 0
        self.data = bytearray()
        self.target = b""
        self.names: dict[bytes, Node] = {}
        self.parent = self
        self.links = 1
        self.xattrs: dict[bytes, bytes] = {}
        self.mtime_ns = 0
        self.lock: Lock | None = None


class Handle:
    def __init__(self, node: Node) -> None:
        self.node = node


class MemoryFs(FileSystem):
    """`first_cookie` and `last_cookie` imitate file systems whose listing offsets are large."""

    def __init__(self, allocator: InodeAllocator, *, last_cookie: int | None = None) -> None:
        self._allocator = allocator
        self.root = Node(ROOT, stat.S_IFDIR | 0o755)
        self.nodes = {ROOT: self.root}
        self.lookups: dict[int, int] = {}
        self.handles: set[Handle] = set()
        self.synced = 0
        self.callers: list[tuple[int, int, int, tuple[int, ...]]] = []
        self._last_cookie = last_cookie

    # For tests

    def plant(self, path: bytes, data: bytes | None = None) -> Node:
        """Make a file, or with no data a directory, and its parents."""
        node = self.root
        *parents, name = path.strip(b"/").split(b"/")
        for part in parents:
            node = node.names[part] if part in node.names else self._make(node, part, stat.S_IFDIR | 0o755)
        made = self._make(node, name, stat.S_IFDIR | 0o755 if data is None else stat.S_IFREG | 0o644)
        made.data[:] = data or b""
        return made

    def find(self, path: bytes) -> Node:
        node = self.root
        for part in path.strip(b"/").split(b"/"):
            node = node.names[part]
        return node

    # Helpers

    def _make(self, parent: Node, name: bytes, mode: int) -> Node:
        node = Node(self._allocator.allocate(), mode)
        node.parent = parent
        parent.names[name] = node
        self.nodes[node.ino] = node
        return node

    def _node(self, ino: int) -> Node:
        assert ino == ROOT or self.lookups.get(ino, 0) > 0, "the server sent an inode that the guest does not know"
        return self.nodes[ino]

    def _directory(self, ino: int) -> Node:
        node = self._node(ino)
        if not stat.S_ISDIR(node.mode):
            raise errno_error(ENOTDIR)
        return node

    def _vacant(self, parent: int, name: bytes) -> Node:
        assert 0 < len(name) < 256
        assert name not in (b".", b"..")
        assert not set(name) & {0, 0x2F}
        directory = self._directory(parent)
        if name in directory.names:
            raise errno_error(EEXIST)
        return directory

    def _child(self, parent: int, name: bytes) -> Node:
        node = self._directory(parent).names.get(name)
        if node is None:
            raise errno_error(ENOENT)
        return node

    def _attributes(self, node: Node) -> Attributes:
        size = len(node.target) if stat.S_ISLNK(node.mode) else len(node.data)
        return Attributes(
            ino=node.ino,
            mode=node.mode,
            size=size,
            nlink=node.links,
            uid=node.uid,
            gid=node.gid,
            rdev=node.rdev,
            mtime_ns=node.mtime_ns,
            birth_ns=1_500_000_000,
        )

    def _entry(self, node: Node) -> Entry:
        self.lookups[node.ino] = self.lookups.get(node.ino, 0) + 1
        return Entry(node.ino, self._attributes(node))

    def _open(self, node: Node) -> Opened:
        handle = Handle(node)
        self.handles.add(handle)
        return Opened(handle)

    def _check(self, ino: int, handle: object) -> Node:
        assert isinstance(handle, Handle)
        assert handle in self.handles
        assert handle.node.ino == ino
        return handle.node

    def _created(self, node: Node, caller: Caller) -> None:
        node.uid, node.gid = caller.uid, caller.gid
        self.callers.append((caller.uid, caller.gid, caller.pid, tuple(caller.groups)))

    # Operations

    def lookup(self, parent: int, name: bytes) -> Entry:
        return self._entry(self._child(parent, name))

    def forget(self, ino: int, count: int) -> None:
        assert 0 < count <= self.lookups[ino], "more look-ups taken back than there were"
        self.lookups[ino] -= count
        if not self.lookups[ino]:
            del self.lookups[ino]

    def getattr(self, ino: int, handle: object) -> Attributes:
        if handle is not None:
            return self._attributes(self._check(ino, handle))
        return self._attributes(self._node(ino))

    def statx(self, ino: int, handle: object, flags: int, mask: int) -> Attributes:
        return self.getattr(ino, handle)

    def setattr(self, ino: int, handle: object, changes: Changes, caller: Caller) -> Attributes:
        node = self._node(ino) if handle is None else self._check(ino, handle)
        if changes.mode is not None:
            node.mode = stat.S_IFMT(node.mode) | changes.mode
        if changes.uid is not None:
            node.uid = changes.uid
        if changes.gid is not None:
            node.gid = changes.gid
        if changes.size is not None:
            if changes.size > 1 << 20:
                raise errno_error(EINVAL)
            node.data[:] = node.data[: changes.size].ljust(changes.size, b"\0")
        if changes.mtime_ns is not None:
            node.mtime_ns = changes.mtime_ns
        return self._attributes(node)

    def access(self, ino: int, mask: int, caller: Caller) -> None:
        self._node(ino)

    def readlink(self, ino: int) -> bytes:
        node = self._node(ino)
        if not stat.S_ISLNK(node.mode):
            raise errno_error(EINVAL)
        return node.target

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Entry:
        node = self._make(self._vacant(parent, name), name, stat.S_IFLNK | 0o777)
        node.target = target
        self._created(node, caller)
        return self._entry(node)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, umask: int, caller: Caller) -> Entry:
        node = self._make(self._vacant(parent, name), name, mode & ~umask)
        node.rdev = rdev
        self._created(node, caller)
        return self._entry(node)

    def mkdir(self, parent: int, name: bytes, mode: int, umask: int, caller: Caller) -> Entry:
        node = self._make(self._vacant(parent, name), name, stat.S_IFDIR | mode & ~umask)
        self._created(node, caller)
        return self._entry(node)

    def unlink(self, parent: int, name: bytes) -> None:
        node = self._child(parent, name)
        if stat.S_ISDIR(node.mode):
            raise errno_error(EISDIR)
        node.links -= 1
        del self._directory(parent).names[name]

    def rmdir(self, parent: int, name: bytes) -> None:
        node = self._child(parent, name)
        if not stat.S_ISDIR(node.mode):
            raise errno_error(ENOTDIR)
        if node.names:
            raise errno_error(ENOTEMPTY)
        del self._directory(parent).names[name]

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        assert flags in (0, 1, 2, 4, 5)
        source, target = self._directory(parent), self._directory(new_parent)
        node = self._child(parent, name)
        other = target.names.get(new_name)
        if flags & 1 and other is not None:
            raise errno_error(EEXIST)
        if flags & 2:
            if other is None:
                raise errno_error(ENOENT)
            source.names[name] = other
        else:
            del source.names[name]
        target.names[new_name] = node

    def link(self, ino: int, new_parent: int, new_name: bytes) -> Entry:
        node = self._node(ino)
        if stat.S_ISDIR(node.mode):
            raise errno_error(EPERM)
        self._vacant(new_parent, new_name).names[new_name] = node
        node.links += 1
        return self._entry(node)

    def open(self, ino: int, flags: int, kill_privileges: bool) -> Opened:
        node = self._node(ino)
        if not stat.S_ISREG(node.mode):
            raise errno_error(EISDIR)
        if flags & O_TRUNC:
            node.data.clear()
        return self._open(node)

    def create(
        self, parent: int, name: bytes, flags: int, mode: int, umask: int, caller: Caller
    ) -> tuple[Entry, Opened]:
        node = self._directory(parent).names.get(name)
        if node is None or flags & O_EXCL:
            node = self._make(self._vacant(parent, name), name, stat.S_IFREG | mode & ~umask)
            self._created(node, caller)
        return self._entry(node), self._open(node)

    def tmpfile(self, parent: int, flags: int, mode: int, umask: int, caller: Caller) -> tuple[Entry, Opened]:
        self._directory(parent)
        node = Node(self._allocator.allocate(), stat.S_IFREG | mode & ~umask)
        self.nodes[node.ino] = node
        self._created(node, caller)
        return self._entry(node), self._open(node)

    def read(self, ino: int, handle: object, offset: int, buffers: Sequence[memoryview]) -> int:
        return scatter(bytes(self._check(ino, handle).data[offset:]), buffers)

    def write(
        self, ino: int, handle: object, offset: int, buffers: Sequence[memoryview], flags: int, kill_privileges: bool
    ) -> int:
        node = self._check(ino, handle)
        data = b"".join(buffers)
        if offset + len(data) > 4 << 20:
            raise errno_error(EINVAL)
        node.data[:] = node.data.ljust(offset, b"\0")
        node.data[offset : offset + len(data)] = data
        return len(data)

    def flush(self, ino: int, handle: object, owner: int) -> None:
        self._check(ino, handle)

    def fsync(self, ino: int, handle: object, data_only: bool) -> None:
        self._check(ino, handle)
        self.synced += 1

    def release(self, ino: int, handle: object, flock_owner: int | None) -> None:
        self._check(ino, handle)
        assert isinstance(handle, Handle)
        self.handles.remove(handle)

    def fallocate(self, ino: int, handle: object, offset: int, length: int, mode: int) -> None:
        node = self._check(ino, handle)
        if offset + length > 1 << 20:
            raise errno_error(EINVAL)
        node.data[:] = node.data.ljust(offset + length, b"\0")

    def lseek(self, ino: int, handle: object, offset: int, whence: int) -> int:
        size = len(self._check(ino, handle).data)
        if offset >= size:
            raise errno_error(ENXIO)
        return offset if whence == SEEK_DATA else size

    def copy_file_range(
        self,
        ino: int,
        handle: object,
        offset: int,
        ino_out: int,
        handle_out: object,
        offset_out: int,
        length: int,
        flags: int,
    ) -> int:
        data = self._check(ino, handle).data[offset : offset + length]
        target = self._check(ino_out, handle_out).data
        if offset_out > 1 << 20:
            raise errno_error(EINVAL)
        target[:] = target.ljust(offset_out, b"\0")
        target[offset_out : offset_out + len(data)] = data
        return len(data)

    def opendir(self, ino: int, flags: int) -> Opened:
        return self._open(self._directory(ino))

    def readdir(self, ino: int, handle: object, offset: int) -> Iterator[DirectoryEntry]:
        node = self._check(ino, handle)
        listed = [(b".", node), (b"..", node.parent), *node.names.items()]
        for index, (name, child) in enumerate(listed):
            if index >= offset:
                last = index == len(listed) - 1 and self._last_cookie is not None
                cookie = self._last_cookie if last and self._last_cookie is not None else index + 1
                yield DirectoryEntry(name, child.ino, child.mode >> 12, cookie)

    def fsyncdir(self, ino: int, handle: object, data_only: bool) -> None:
        self._check(ino, handle)

    def releasedir(self, ino: int, handle: object) -> None:
        self.release(ino, handle, None)

    def getxattr(self, ino: int, name: bytes) -> bytes:
        value = self._node(ino).xattrs.get(name)
        if value is None:
            raise errno_error(ENODATA)
        return value

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, kill_sgid: bool) -> None:
        xattrs = self._node(ino).xattrs
        if len(xattrs) < 16:
            xattrs[name] = value

    def listxattr(self, ino: int) -> Sequence[bytes]:
        return list(self._node(ino).xattrs)

    def removexattr(self, ino: int, name: bytes) -> None:
        if self._node(ino).xattrs.pop(name, None) is None:
            raise errno_error(ENODATA)

    def getlk(self, ino: int, handle: object, owner: int, lock: Lock) -> Lock:
        held = self._check(ino, handle).lock
        return held or Lock(0, 0, 2, 0)

    def setlk(self, ino: int, handle: object, owner: int, lock: Lock, flock: bool, wait: bool) -> None:
        node = self._check(ino, handle)
        if lock.kind == 2:
            node.lock = None
        elif node.lock is not None:
            raise errno_error(EAGAIN)
        else:
            node.lock = lock

    def statfs(self, ino: int) -> FileSystemStatistics:
        if ino not in self.nodes:
            raise errno_error(ESTALE)
        return FileSystemStatistics(blocks=100, free=50, available=40, files=30, free_files=20)

    def syncfs(self, ino: int) -> None:
        self._node(ino)
        self.synced += 1

    def ioctl(self, ino: int, handle: object, command: int, argument: int, data: bytes, out_size: int) -> bytes:
        if command != 0x1234:
            raise errno_error(ENOTTY)
        return data[::-1]

    def poll(self, ino: int, handle: object, events: int) -> int:
        self._check(ino, handle)
        return events & 5

    def bmap(self, ino: int, block: int, block_size: int) -> int:
        if block > 1 << 20:
            raise errno_error(EINVAL)
        return block + 1
