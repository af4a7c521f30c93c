"""Names: everything that makes, removes or moves one."""

from __future__ import annotations

import os
from errno import EEXIST, EMFILE, ENFILE, ESTALE
from os import O_CREAT, O_EXCL, O_NOFOLLOW, O_TMPFILE

from pykrun.fs.packed import unfold_device
from pykrun.fs.passthrough.core import Making
from pykrun.fs.passthrough.files import FileOperations
from pykrun.fs.passthrough.handles import FileHandle
from pykrun.fs.passthrough.inodes import Inode
from pykrun.fs.types import Caller, Entry, Opened, errno_error
from pykrun.host import files

_NOREPLACE = 1 << 0
_EXCHANGE = 1 << 1


class NameOperations(FileOperations):
    """See `pykrun.fs.interface`."""

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Entry:
        """Make a symbolic link."""
        directory = self._changing(parent)
        fd = self._inodes.reach(directory)
        with Making(self._identity, caller, 0):
            os.symlink(target, name, dir_fd=fd)
        return self._made(directory, name)[1]

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, umask: int, caller: Caller) -> Entry:
        """Make a file that is no directory; it is not opened."""
        directory = self._changing(parent)
        fd = self._inodes.reach(directory)
        with Making(self._identity, caller, umask):
            os.mknod(name, mode, unfold_device(rdev), dir_fd=fd)
        return self._made(directory, name)[1]

    def mkdir(self, parent: int, name: bytes, mode: int, umask: int, caller: Caller) -> Entry:
        """Make a directory."""
        directory = self._changing(parent)
        fd = self._inodes.reach(directory)
        with Making(self._identity, caller, umask):
            os.mkdir(name, mode, dir_fd=fd)
        return self._made(directory, name)[1]

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name; what the guest still has of the file stays within its reach."""
        directory = self._changing(parent)
        self._inodes.removing(directory, name)
        os.unlink(name, dir_fd=self._inodes.reach(directory))

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        directory = self._changing(parent)
        self._inodes.removing(directory, name)
        os.rmdir(name, dir_fd=self._inodes.reach(directory))

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        """Rename, with renameat2's flags."""
        inodes = self._inodes
        directory, new_directory = self._changing(parent), inodes.directory(new_parent)
        if not flags & (_EXCHANGE | _NOREPLACE):
            inodes.removing(new_directory, new_name)
        fd = inodes.reach(directory)
        new_fd = inodes.reach(new_directory, directory)
        files.rename(fd, name, new_fd, new_name, flags)
        inodes.moved(directory, name, new_directory, new_name, bool(flags & _EXCHANGE))

    def link(self, ino: int, new_parent: int, new_name: bytes) -> Entry:
        """Give a file one more name, by way of our own descriptor of it: its old name may mean another by now."""
        inodes = self._inodes
        inode, directory = inodes.get(ino), self._changing(new_parent)
        fd = inodes.reach(inode)
        new_fd = inodes.reach(directory, inode)
        own = self._own
        os.link(own.name(fd), new_name, src_dir_fd=own.root, dst_dir_fd=new_fd, follow_symlinks=True)
        fields = self._statx.of(fd)
        return self._entry(inodes.found(directory, new_name, fields), fields, directory)

    def _changing(self, parent: int) -> Inode:
        """Find a directory that is to be changed."""
        self._changed = True
        return self._inodes.directory(parent)

    # What is opened with it

    def create(
        self, parent: int, name: bytes, flags: int, mode: int, umask: int, caller: Caller
    ) -> tuple[Entry, Opened]:
        """Make a regular file and open it. It is always a new one: what is there may be anything.

        Linux sends this only for a name that it believes to be missing. When there is a file nevertheless, somebody
        else was faster; ESTALE makes the guest's kernel look the name up and, if the caller may, open it.

        :raise OSError: EEXIST with O_EXCL, ESTALE without.
        """
        directory = self._changing(parent)
        host_flags = self._open_flags(flags) | O_CREAT | O_EXCL | O_NOFOLLOW
        try:
            fd = self._open_new(directory, name, host_flags, mode, umask, caller)
        except OSError as error:
            if error.errno == EEXIST and not flags & O_EXCL:
                raise errno_error(ESTALE) from None
            raise
        try:
            inode, entry = self._made(directory, name, fd)
        except OSError:
            os.close(fd)
            raise
        return entry, self._opened(FileHandle(fd, inode), inode)

    def tmpfile(self, parent: int, flags: int, mode: int, umask: int, caller: Caller) -> tuple[Entry, Opened]:
        """Make a file without a name and open it."""
        directory = self._changing(parent)
        host_flags = self._open_flags(flags) | O_TMPFILE | flags & O_EXCL
        fd = self._open_new(directory, b".", host_flags, mode, umask, caller)
        fields = self._statx.of(fd)
        inode = self._inodes.made(fields)
        return self._entry(inode, fields, directory), self._opened(FileHandle(fd, inode), inode)

    def _open_new(self, directory: Inode, name: bytes, flags: int, mode: int, umask: int, caller: Caller) -> int:
        self._require_room()
        making = Making(self._identity, caller, umask)
        try:
            fd = self._inodes.reach(directory)
            with making:
                return os.open(name, flags, mode, dir_fd=fd)
        except OSError as error:
            if error.errno not in (EMFILE, ENFILE) or not self._inodes.give_up(self._inodes.limit, directory):
                raise
        fd = self._inodes.reach(directory)
        with making:
            return os.open(name, flags, mode, dir_fd=fd)
