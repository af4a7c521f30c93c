"""Virtual entries over any file system.

What is not virtual goes to the inner file system unchanged, inode numbers and handles included, so nothing is counted
or translated twice. A virtual directory that lies over an inner one is known to the guest by the inner one's inode
number: it is the inner directory, with names added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from errno import (
    EACCES,
    EEXIST,
    EINVAL,
    EISDIR,
    ENODATA,
    ENOENT,
    ENOLCK,
    ENOTDIR,
    ENXIO,
    EPERM,
    EXDEV,
)
from os import O_ACCMODE, O_RDONLY, O_TRUNC, SEEK_DATA, SEEK_HOLE, W_OK
from stat import S_IFDIR, S_ISDIR
from typing import Any

from pykrun.fs.inodes import InodeAllocator
from pykrun.fs.interface import ROOT, FileSystem, missing
from pykrun.fs.rights import denied
from pykrun.fs.sources import Content
from pykrun.fs.types import (
    CACHE_DIR,
    KEEP_CACHE,
    MISSING_FOREVER,
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
from pykrun.fs.virtual import VirtualDirectory, VirtualFile, VirtualTree

EXIT_CODE_IOCTL = 0x7602
"""The ioctl by which the guest's init reports the workload's exit code: its argument, on any inode (as libkrun)."""

VIRTUAL_OFFSET = (1 << 63) - (1 << 32)
"""Listings show inner entries first, under the inner offsets; virtual entries follow, under offsets from here on."""


class AugmentFs(FileSystem):
    """A file system with virtual entries added.

    :param inner: what lies below.
    :param allocator: the one that `inner` takes its numbers from.
    :param on_exit_code: called with each exit code (0 to 255) that the guest reports; the last one is the one that
        counts, and is also `exit_code`.
    """

    def __init__(
        self, inner: FileSystem, allocator: InodeAllocator, *, on_exit_code: Callable[[int], None] | None = None
    ) -> None:
        self.features = inner.features
        self.exit_code: int | None = None
        self._inner = inner
        self._on_exit_code = on_exit_code
        self._tree = VirtualTree(allocator)
        self._nodes = self._tree.nodes
        self._directories = self._tree.directories

    # Composition

    def add_file(
        self, path: bytes, content: Content, *, mode: int = 0o644, one_shot: bool = False, uid: int = 0, gid: int = 0
    ) -> None:
        """Add a read-only file.

        :param path: from the root; one leading slash is fine. Its parent must be virtual too (`make_parents`).
        :param content: bytes or another buffer (kept, not copied: it must not change), a callable that makes them
            when the guest first asks, or a source such as `FileSource`.
        :param mode: permission bits; type bits are ignored.
        :param one_shot: exactly one look-up ever succeeds, the file is never listed, and its data is dropped after
            its use. Also `cp`, `test -f` and the interpreter of a `#!` line use it up.
        :raise OSError: EINVAL an empty or special component, ENAMETOOLONG, EEXIST a path given twice, ENOENT a
            parent is missing, ENOTDIR a parent is a file.
        """
        self._tree.add_file(path, content, mode=mode, one_shot=one_shot, uid=uid, gid=gid)

    def add_directory(self, path: bytes, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> None:
        """Add a directory; where the inner file system has one too, that one is shown, with the names added.

        :raise OSError: as `add_file`.
        """
        self._tree.add_directory(path, mode=mode, uid=uid, gid=gid)

    def make_parents(self, path: bytes, *, mode: int = 0o755) -> None:
        """Add the directories that are missing above `path`.

        :raise OSError: EINVAL, ENAMETOOLONG, ENOTDIR as `add_file`.
        """
        self._tree.make_parents(path, mode=mode)

    def close(self) -> None:
        """Drop all data, and close the inner file system."""
        self._tree.close()
        self._inner.close()

    # Look-ups

    def lookup(self, parent: int, name: bytes) -> Entry:
        """Find a virtual entry, or ask the inner file system: a virtual name hides an inner one."""
        directory = self._directories.get(parent)
        if directory is None:
            if parent in self._nodes:
                raise errno_error(ENOTDIR)
            return self._inner.lookup(parent, name)
        node = directory.children.get(name)
        if node is None:
            return MISSING_FOREVER if parent == directory.ino else self._inner.lookup(parent, name)
        if isinstance(node, VirtualDirectory):
            return self._lookup_directory(parent, name, node)
        if node.one_shot:
            entry = node.claim()
            self._nodes[node.ino] = node
            return entry
        return node.entry or node.prepare()

    def _lookup_directory(self, parent: int, name: bytes, node: VirtualDirectory) -> Entry:
        """Find out whether an inner directory lies below; if so, the guest knows the virtual one by its number."""
        if node.parent is not None and parent == node.parent.ino:
            return node.entry
        try:
            entry = self._inner.lookup(parent, name)
        except OSError as error:
            if error.errno != ENOENT:
                raise
            return node.entry
        if not entry.ino:
            return node.entry
        if not S_ISDIR(entry.attributes.mode):
            self._inner.forget(entry.ino, 1)  # hidden, so the guest will never give this look-up back
            return node.entry
        if node.inner != entry.ino:
            if self._directories.get(node.inner) is node:
                del self._directories[node.inner]
            node.inner = entry.ino
        self._directories[entry.ino] = node
        return entry

    def forget(self, ino: int, count: int) -> None:
        """Count a one-shot file's look-ups; other virtual entries stay for good."""
        node = self._nodes.get(ino)
        if node is None:
            self._inner.forget(ino, count)
        elif isinstance(node, VirtualFile) and node.forget(count):
            self._nodes.pop(ino, None)

    # Attributes

    def getattr(self, ino: int, handle: Any) -> Attributes:
        """Tell the attributes."""
        node = self._nodes.get(ino)
        if node is None:
            return self._inner.getattr(ino, handle)
        return node.attributes if isinstance(node, VirtualDirectory) else node.attributes()

    def statx(self, ino: int, handle: Any, flags: int, mask: int) -> Attributes:
        """Tell the attributes."""
        if ino in self._nodes:
            return self.getattr(ino, None)
        return self._inner.statx(ino, handle, flags, mask)

    def setattr(self, ino: int, handle: Any, changes: Changes, caller: Caller) -> Attributes:
        """Refuse on a virtual entry: EPERM."""
        self._refuse_change(ino)
        return self._inner.setattr(ino, handle, changes, caller)

    def access(self, ino: int, mask: int, caller: Caller) -> None:
        """Check the mode of a virtual entry; nobody may write."""
        if ino not in self._nodes:
            return self._inner.access(ino, mask, caller)
        attributes = self.getattr(ino, None)
        if mask & W_OK or denied(attributes, mask, caller):
            raise errno_error(EACCES)
        return None

    def readlink(self, ino: int) -> bytes:
        """Refuse on a virtual entry, none is a link: EINVAL."""
        if ino in self._nodes:
            raise errno_error(EINVAL)
        return self._inner.readlink(ino)

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """Virtual entries have none: ENODATA."""
        if ino in self._nodes:
            raise errno_error(ENODATA)
        return self._inner.getxattr(ino, name)

    def listxattr(self, ino: int) -> Sequence[bytes]:
        """Virtual entries have none."""
        return () if ino in self._nodes else self._inner.listxattr(ino)

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, kill_sgid: bool) -> None:
        """Refuse on a virtual entry: EPERM."""
        self._refuse_change(ino)
        self._inner.setxattr(ino, name, value, flags, kill_sgid)

    def removexattr(self, ino: int, name: bytes) -> None:
        """Refuse on a virtual entry: EPERM."""
        self._refuse_change(ino)
        self._inner.removexattr(ino, name)

    # Names

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Entry:
        """Make a link in an inner directory."""
        self._refuse_new(parent, name)
        return self._inner.symlink(parent, name, target, caller)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, umask: int, caller: Caller) -> Entry:
        """Make a file in an inner directory."""
        self._refuse_new(parent, name)
        return self._inner.mknod(parent, name, mode, rdev, umask, caller)

    def mkdir(self, parent: int, name: bytes, mode: int, umask: int, caller: Caller) -> Entry:
        """Make a directory in an inner directory."""
        self._refuse_new(parent, name)
        return self._inner.mkdir(parent, name, mode, umask, caller)

    def create(
        self, parent: int, name: bytes, flags: int, mode: int, umask: int, caller: Caller
    ) -> tuple[Entry, Opened]:
        """Make and open a file in an inner directory."""
        self._refuse_new(parent, name)
        return self._inner.create(parent, name, flags, mode, umask, caller)

    def tmpfile(self, parent: int, flags: int, mode: int, umask: int, caller: Caller) -> tuple[Entry, Opened]:
        """Make a nameless file in an inner directory."""
        self._refuse_change(parent)
        return self._inner.tmpfile(parent, flags, mode, umask, caller)

    def link(self, ino: int, new_parent: int, new_name: bytes) -> Entry:
        """Give an inner file a name in an inner directory; a virtual entry gets none: EPERM."""
        self._refuse_change(ino)
        self._refuse_new(new_parent, new_name)
        return self._inner.link(ino, new_parent, new_name)

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove an inner name."""
        self._refuse_removal(parent, name)
        self._inner.unlink(parent, name)

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an inner directory."""
        self._refuse_removal(parent, name)
        self._inner.rmdir(parent, name)

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        """Rename within the inner file system; never onto a virtual name nor away from one: EPERM."""
        self._refuse_removal(parent, name)
        directory = self._directories.get(new_parent)
        if new_parent in self._nodes or (directory is not None and new_name in directory.children):
            raise errno_error(EPERM)
        self._inner.rename(parent, name, new_parent, new_name, flags)

    def _refuse_change(self, ino: int) -> None:
        if ino in self._nodes:
            raise errno_error(EPERM)

    def _refuse_new(self, parent: int, name: bytes) -> None:
        """EEXIST for a virtual name, EPERM for a spent one-shot name and in a purely virtual directory."""
        directory = self._directories.get(parent)
        if directory is None:
            if parent in self._nodes:
                raise errno_error(ENOTDIR)
            return
        node = directory.children.get(name)
        if node is not None:
            raise errno_error(EPERM if isinstance(node, VirtualFile) and node.claimed else EEXIST)
        if parent == directory.ino:
            raise errno_error(EPERM)

    def _refuse_removal(self, parent: int, name: bytes) -> None:
        """EPERM for a virtual name; in a purely virtual directory there is no other: ENOENT."""
        directory = self._directories.get(parent)
        if directory is None:
            if parent in self._nodes:
                raise errno_error(ENOTDIR)
            return
        if name in directory.children:
            raise errno_error(EPERM)
        if parent == directory.ino:
            raise errno_error(ENOENT)

    # Files

    def open(self, ino: int, flags: int, kill_privileges: bool) -> Opened:
        """Open a virtual file for reading only; anything else is EACCES, a directory EISDIR."""
        node = self._nodes.get(ino)
        if node is None:
            return self._inner.open(ino, flags, kill_privileges)
        if isinstance(node, VirtualDirectory):
            raise errno_error(EISDIR)
        if flags & O_ACCMODE != O_RDONLY or flags & O_TRUNC:
            raise errno_error(EACCES)
        return node.open()

    def read(self, ino: int, handle: Any, offset: int, buffers: Sequence[memoryview]) -> int:
        """Read a virtual file's bytes."""
        node = self._nodes.get(ino)
        if node is None:
            return self._inner.read(ino, handle, offset, buffers)
        if isinstance(node, VirtualDirectory):
            raise errno_error(EISDIR)
        return node.read_into(offset, buffers)

    def write(
        self, ino: int, handle: Any, offset: int, buffers: Sequence[memoryview], flags: int, kill_privileges: bool
    ) -> int:
        """Refuse on a virtual entry: EPERM."""
        self._refuse_change(ino)
        return self._inner.write(ino, handle, offset, buffers, flags, kill_privileges)

    def flush(self, ino: int, handle: Any, owner: int) -> None:
        """Nothing of a virtual file is to be written."""
        if ino not in self._nodes:
            self._inner.flush(ino, handle, owner)

    def fsync(self, ino: int, handle: Any, data_only: bool) -> None:
        """Nothing of a virtual file is to be written."""
        if ino not in self._nodes:
            self._inner.fsync(ino, handle, data_only)

    def release(self, ino: int, handle: Any, flock_owner: int | None) -> None:
        """Close; the last one ends a one-shot file."""
        node = self._nodes.get(ino)
        if node is None:
            self._inner.release(ino, handle, flock_owner)
        elif isinstance(node, VirtualFile) and node.release():
            self._nodes.pop(ino, None)

    def fallocate(self, ino: int, handle: Any, offset: int, length: int, mode: int) -> None:
        """Refuse on a virtual entry: EPERM."""
        self._refuse_change(ino)
        self._inner.fallocate(ino, handle, offset, length, mode)

    def lseek(self, ino: int, handle: Any, offset: int, whence: int) -> int:
        """A virtual file is all data, with its hole at the end."""
        node = self._nodes.get(ino)
        if node is None:
            return self._inner.lseek(ino, handle, offset, whence)
        if isinstance(node, VirtualDirectory) or whence not in (SEEK_DATA, SEEK_HOLE):
            raise errno_error(EINVAL)
        size = node.attributes().size
        if offset >= size:
            raise errno_error(ENXIO)
        return offset if whence == SEEK_DATA else size

    def copy_file_range(
        self,
        ino: int,
        handle: Any,
        offset: int,
        ino_out: int,
        handle_out: Any,
        offset_out: int,
        length: int,
        flags: int,
    ) -> int:
        """Refuse when a virtual file takes part (EXDEV): the guest copies by reading and writing then."""
        if ino in self._nodes or ino_out in self._nodes:
            raise errno_error(EXDEV)
        return self._inner.copy_file_range(ino, handle, offset, ino_out, handle_out, offset_out, length, flags)

    def getlk(self, ino: int, handle: Any, owner: int, lock: Lock) -> Lock:
        """Virtual files know no locks but the guest's own: ENOLCK."""
        if ino in self._nodes:
            raise errno_error(ENOLCK)
        return self._inner.getlk(ino, handle, owner, lock)

    def setlk(self, ino: int, handle: Any, owner: int, lock: Lock, flock: bool, wait: bool) -> None:
        """Virtual files know no locks but the guest's own: ENOLCK."""
        if ino in self._nodes:
            raise errno_error(ENOLCK)
        self._inner.setlk(ino, handle, owner, lock, flock, wait)

    # Directories

    def opendir(self, ino: int, flags: int) -> Opened:
        """Open; a purely virtual directory needs no handle, and its listing may be kept."""
        node = self._nodes.get(ino)
        if node is None:
            return self._inner.opendir(ino, flags)
        if isinstance(node, VirtualFile):
            raise errno_error(ENOTDIR)
        return Opened(None, KEEP_CACHE | CACHE_DIR)

    def readdir(self, ino: int, handle: Any, offset: int) -> Iterator[DirectoryEntry]:
        """List inner entries that no virtual name hides, then the virtual ones that are not one-shot."""
        directory = self._listable(ino)
        if directory is None:
            yield from self._inner.readdir(ino, handle, offset)
            return
        if offset < VIRTUAL_OFFSET:
            if ino == directory.ino:
                yield from self._dots(directory, offset)
            else:
                for entry in self._inner.readdir(ino, handle, offset):
                    if entry.name not in directory.children:
                        yield _below_virtual(entry)
        for listed, found in self._virtual_entries(ino, directory, offset):
            if found is not None and found.ino not in self._nodes:
                self._inner.forget(found.ino, 1)
            yield listed

    def readdirplus(self, ino: int, handle: Any, offset: int) -> Iterator[tuple[DirectoryEntry, Entry | None]]:
        """List as `readdir`, with the entries."""
        directory = self._listable(ino)
        if directory is None:
            yield from self._inner.readdirplus(ino, handle, offset)
            return
        if offset < VIRTUAL_OFFSET:
            if ino == directory.ino:
                for entry in self._dots(directory, offset):
                    yield entry, None
            else:
                for entry, found in self._inner.readdirplus(ino, handle, offset):
                    if entry.name not in directory.children:
                        yield _below_virtual(entry), found
                    elif found is not None:
                        self._inner.forget(found.ino, 1)
        yield from self._virtual_entries(ino, directory, offset)

    def list_packed(self, ino: int, handle: Any, offset: int, size: int) -> bytes | None:
        """Leave it to the inner file system where nothing is added."""
        if ino in self._directories or ino in self._nodes:
            return None
        return self._inner.list_packed(ino, handle, offset, size)

    def list_packed_plus(self, ino: int, handle: Any, offset: int, size: int) -> tuple[bytes, list[int]] | None:
        """Leave it to the inner file system where nothing is added."""
        if ino in self._directories or ino in self._nodes:
            return None
        return self._inner.list_packed_plus(ino, handle, offset, size)

    def _listable(self, ino: int) -> VirtualDirectory | None:
        directory = self._directories.get(ino)
        if directory is None and ino in self._nodes:
            raise errno_error(ENOTDIR)
        return directory

    def _dots(self, directory: VirtualDirectory, offset: int) -> Iterator[DirectoryEntry]:
        if offset < 1:
            yield DirectoryEntry(b".", directory.attributes.ino, S_IFDIR >> 12, 1)
        if offset < 2:
            parent = directory.parent
            assert parent is not None, "the root lies over the inner root"
            above = self._inner.getattr(parent.inner, None) if parent.inner else parent.attributes
            yield DirectoryEntry(b"..", above.ino, S_IFDIR >> 12, VIRTUAL_OFFSET)

    def _virtual_entries(
        self, ino: int, directory: VirtualDirectory, offset: int
    ) -> Iterator[tuple[DirectoryEntry, Entry | None]]:
        """List the virtual entries from `offset`; a lazy file that was not looked up yet comes without its entry."""
        first = max(0, offset - VIRTUAL_OFFSET)
        for index in range(first, len(directory.listed)):
            name, node = directory.listed[index]
            if isinstance(node, VirtualDirectory):
                found: Entry | None = self._lookup_directory(ino, name, node)
                attributes = found.attributes if found is not None else node.attributes
            else:
                found, attributes = node.entry, node.template
            yield DirectoryEntry(name, attributes.ino, attributes.mode >> 12, VIRTUAL_OFFSET + index + 1), found

    def fsyncdir(self, ino: int, handle: Any, data_only: bool) -> None:
        """Nothing of a virtual directory is to be written."""
        if ino not in self._nodes:
            self._inner.fsyncdir(ino, handle, data_only)

    def releasedir(self, ino: int, handle: Any) -> None:
        """Close."""
        if ino not in self._nodes:
            self._inner.releasedir(ino, handle)

    # The whole

    def statfs(self, ino: int) -> FileSystemStatistics:
        """Tell the inner file system's sizes."""
        return self._inner.statfs(ROOT if ino in self._nodes else ino)

    def syncfs(self, ino: int) -> None:
        """Leave it to the inner file system."""
        self._inner.syncfs(ROOT if ino in self._nodes else ino)

    def ioctl(self, ino: int, handle: Any, command: int, argument: int, data: bytes, out_size: int) -> bytes:
        """Take the exit code, on any inode; ask the inner file system about everything else."""
        if command == EXIT_CODE_IOCTL:
            self.exit_code = argument & 0xFF
            if self._on_exit_code is not None:
                self._on_exit_code(self.exit_code)
            return b""
        if ino in self._nodes:
            missing()
        return self._inner.ioctl(ino, handle, command, argument, data, out_size)

    def poll(self, ino: int, handle: Any, events: int) -> int:
        """Virtual files are always ready, which ENOSYS says best."""
        if ino in self._nodes:
            missing()
        return self._inner.poll(ino, handle, events)

    def bmap(self, ino: int, block: int, block_size: int) -> int:
        """Virtual files lie on no device."""
        if ino in self._nodes:
            missing()
        return self._inner.bmap(ino, block, block_size)


def _below_virtual(entry: DirectoryEntry) -> DirectoryEntry:
    """An inner offset in our range is the inner end (ext4 says 2^63-1 there): the listing goes on with ours."""
    if entry.offset >= VIRTUAL_OFFSET:
        return DirectoryEntry(entry.name, entry.ino, entry.kind, VIRTUAL_OFFSET)
    return entry
