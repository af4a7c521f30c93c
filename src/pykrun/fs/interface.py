"""What a file system is: one method per FUSE operation, every default ENOSYS.

A file system never sees the wire. It gets integers and bytes that the server has checked, answers with the small
objects of `pykrun.fs.types`, and refuses by raising `OSError` with an errno, which the guest gets to see. Wrappers
(`AugmentFs`) implement the same interface around another one.

What the server promises to every file system:

- Names are 1 to 255 bytes without NUL and "/", and never "." or "..".
- Inode numbers are the root's (1) or came from an `Entry` that this file system returned and that has not been
  forgotten since; `forget` never counts beyond the look-ups.
- Handles are the objects that `open`, `create`, `tmpfile` or `opendir` returned for that very inode, and each is
  released exactly once, also when the guest disappears. Their number is bounded.
- Offsets and sizes are not negative and do not overflow 2^63-1.
- One thread calls, with one exception: `fsync`, `fallocate` and `copy_file_range` may come from a second one beside
  anything else (a mount on the host does so). They use the handle, which stays open meanwhile.

Permissions are the guest kernel's work (virtio-fs always mounts with default_permissions, and so do we on the host):
a file system refuses what nobody may do. `Caller` comes only with operations that make something that its caller
will own, or that ask about rights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from errno import ENOENT, ENOSYS
from typing import Any, Never

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

ROOT = 1
"""The inode number of every file system's root."""

STATELESS_DIRECTORIES = 1 << 0
"""`readdir` needs no handle: the guest may leave out `opendir` and `releasedir` altogether."""
POSIX_LOCKS = 1 << 1
"""`getlk` and `setlk` see fcntl locks; without it they are local to the guest."""
FLOCK_LOCKS = 1 << 2
"""`setlk` sees flock locks; without it they are local to the guest."""
WRITEBACK_CACHE = 1 << 3
"""The guest may collect writes, and is the authority on size and times."""
AUTO_INVALIDATE = 1 << 4
"""Files change behind the guest's back: it drops cached pages when size or modification time differ."""
POSIX_ACL = 1 << 5
"""`system.posix_acl_*` attributes are kept; goes with `OWN_UMASK`."""
SUPPLEMENTARY_GROUPS = 1 << 6
"""`Caller.groups` is wanted with operations that create something."""
OWN_UMASK = 1 << 7
"""The file system applies the caller's umask itself, or leaves it where a directory has a default ACL."""


def missing() -> Never:
    """Say that this operation does not exist here.

    :raise OSError: ENOSYS.
    """
    raise errno_error(ENOSYS)


class FileSystem:
    """The interface; see the module's text for what holds for all of it.

    Operations that return an `Entry` count one look-up of its inode, which the server gives back through `forget`.
    """

    features: int = 0
    """The constants of this module, joined by `|`."""

    # Inodes

    def lookup(self, parent: int, name: bytes) -> Entry:
        """Find a name in a directory.

        :return: the entry; one whose `ino` is 0 says that the name is missing and will be for `timeout` seconds.
        :raise OSError: ENOENT, ENOTDIR, ESTALE.
        """
        raise errno_error(ENOENT)

    def forget(self, ino: int, count: int) -> None:
        """Take back `count` look-ups; at 0 the guest no longer knows the inode."""

    def getattr(self, ino: int, handle: Any) -> Attributes:
        """Tell the attributes; `handle` is an open handle of the inode or None."""
        missing()

    def statx(self, ino: int, handle: Any, flags: int, mask: int) -> Attributes:
        """Tell the attributes with the birth time; `flags` and `mask` as in statx(2)."""
        missing()

    def setattr(self, ino: int, handle: Any, changes: Changes, caller: Caller) -> Attributes:
        """Change attributes and tell the new ones."""
        missing()

    def access(self, ino: int, mask: int, caller: Caller) -> None:
        """Raise EACCES unless the caller has the rights in `mask` (R_OK, W_OK, X_OK)."""
        missing()

    def readlink(self, ino: int) -> bytes:
        """Tell where a symbolic link points."""
        missing()

    # Names

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Entry:
        """Make a symbolic link; the target is any text of 1 to 4095 bytes."""
        missing()

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, umask: int, caller: Caller) -> Entry:
        """Make a file that is no directory."""
        missing()

    def mkdir(self, parent: int, name: bytes, mode: int, umask: int, caller: Caller) -> Entry:
        """Make a directory."""
        missing()

    def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name that is no directory."""
        missing()

    def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        missing()

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        """Rename; `flags` are those of renameat2(2), already checked to be a legal combination."""
        missing()

    def link(self, ino: int, new_parent: int, new_name: bytes) -> Entry:
        """Give an inode one more name."""
        missing()

    # Files

    def open(self, ino: int, flags: int, kill_privileges: bool) -> Opened:
        """Open a file; `flags` are open(2)'s. With `kill_privileges`, O_TRUNC clears setuid and setgid bits."""
        missing()

    def create(
        self, parent: int, name: bytes, flags: int, mode: int, umask: int, caller: Caller
    ) -> tuple[Entry, Opened]:
        """Make a regular file, or with no O_EXCL in `flags` find it, and open it."""
        missing()

    def tmpfile(self, parent: int, flags: int, mode: int, umask: int, caller: Caller) -> tuple[Entry, Opened]:
        """Make a file without a name and open it (O_TMPFILE)."""
        missing()

    def read(self, ino: int, handle: Any, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill `buffers`, which may be guest memory, from the file; return the number of bytes, 0 at its end."""
        missing()

    def write(
        self, ino: int, handle: Any, offset: int, buffers: Sequence[memoryview], flags: int, kill_privileges: bool
    ) -> int:
        """Write the buffers, which may be guest memory: their content may change at any time. Return the count.

        `flags` are the open file's; `kill_privileges` asks to clear setuid, setgid and security.capability.
        """
        missing()

    def flush(self, ino: int, handle: Any, owner: int) -> None:
        """One descriptor of the open file was closed; drop the POSIX locks of `owner`."""
        missing()

    def fsync(self, ino: int, handle: Any, data_only: bool) -> None:
        """Bring the file to stable storage."""
        missing()

    def release(self, ino: int, handle: Any, flock_owner: int | None) -> None:
        """The open file has no user any more; called once per handle. Drop the flock of `flock_owner`."""

    def fallocate(self, ino: int, handle: Any, offset: int, length: int, mode: int) -> None:
        """Allocate or punch; `mode` as in fallocate(2)."""
        missing()

    def lseek(self, ino: int, handle: Any, offset: int, whence: int) -> int:
        """Find data or a hole (SEEK_DATA, SEEK_HOLE)."""
        missing()

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
        """Copy between two open files of this file system; return how many bytes were."""
        missing()

    # Directories

    def opendir(self, ino: int, flags: int) -> Opened:
        """Open a directory; not called for `STATELESS_DIRECTORIES`."""
        missing()

    def readdir(self, ino: int, handle: Any, offset: int) -> Iterator[DirectoryEntry]:
        """List from `offset`: 0 or the `offset` of an entry listed before. "." and ".." come first.

        The iterator is taken from only as long as entries fit, then closed.
        """
        missing()

    def readdirplus(self, ino: int, handle: Any, offset: int) -> Iterator[tuple[DirectoryEntry, Entry | None]]:
        """List with attributes: each `Entry` that is yielded counts one look-up; None leaves it to the guest."""
        for entry in self.readdir(ino, handle, offset):
            found = None
            if entry.name not in (b".", b".."):
                try:
                    found = self.lookup(ino, entry.name)
                except OSError:
                    pass  # gone since, or not to be looked up: the name alone is true
                if found is not None and not found.ino:
                    found = None
            yield entry, found

    def list_packed(self, ino: int, handle: Any, offset: int, size: int) -> bytes | None:
        """List as `readdir`, packed already: as many `struct fuse_dirent` (`pykrun.fs.packed`) as `size` bytes hold.

        A short cut for long listings. None, as here, has the server ask `readdir`.

        :raise OSError: EINVAL when there are entries, and the first does not find room.
        """
        return None

    def list_packed_plus(self, ino: int, handle: Any, offset: int, size: int) -> tuple[bytes, list[int]] | None:
        """List as `readdirplus`, packed already: as many `struct fuse_direntplus` as `size` bytes hold.

        :return: the records, and the inode of each `Entry` in them, which counts one look-up. None, as here, has the
            server ask `readdirplus`.
        :raise OSError: EINVAL when there are entries, and the first does not find room.
        """
        return None

    def fsyncdir(self, ino: int, handle: Any, data_only: bool) -> None:
        """Bring the directory to stable storage."""
        missing()

    def releasedir(self, ino: int, handle: Any) -> None:
        """The open directory has no user any more; called once per handle."""

    # Extended attributes

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """Tell one value.

        :raise OSError: ENODATA.
        """
        missing()

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, kill_sgid: bool) -> None:
        """Set one value; `flags` XATTR_CREATE, XATTR_REPLACE.

        With `kill_sgid` the value is an ACL, set by somebody who may not keep the file's set-group-ID bit.
        """
        missing()

    def listxattr(self, ino: int) -> Sequence[bytes]:
        """Tell the names."""
        missing()

    def removexattr(self, ino: int, name: bytes) -> None:
        """Remove one value."""
        missing()

    # Locks

    def getlk(self, ino: int, handle: Any, owner: int, lock: Lock) -> Lock:
        """Tell a lock that is in the way of `lock`, or one of type F_UNLCK."""
        missing()

    def setlk(self, ino: int, handle: Any, owner: int, lock: Lock, flock: bool, wait: bool) -> None:
        """Set or drop a lock. Must not block, also with `wait`: EAGAIN then.

        :raise OSError: EAGAIN when it is taken.
        """
        missing()

    # The whole

    def statfs(self, ino: int) -> FileSystemStatistics:
        """Tell sizes and limits."""
        missing()

    def syncfs(self, ino: int) -> None:
        """Bring everything to stable storage, as far as this file system's policy goes."""
        missing()

    def ioctl(self, ino: int, handle: Any, command: int, argument: int, data: bytes, out_size: int) -> bytes:
        """Carry out an ioctl; `handle` may be None. Returns at most `out_size` bytes for the caller."""
        missing()

    def poll(self, ino: int, handle: Any, events: int) -> int:
        """Tell which of the events are there now."""
        missing()

    def bmap(self, ino: int, block: int, block_size: int) -> int:
        """Tell where a block lies on the device."""
        missing()

    def close(self) -> None:
        """Give back what the file system holds on the host; nothing is called afterwards."""
