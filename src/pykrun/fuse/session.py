"""What a guest may refer to between FUSE_INIT and FUSE_DESTROY: inodes it looked up, files and directories it opened.

The one place where lookup counts and handles are checked, so that no file system has to: a number that the guest was
not given, took back, or was given for another inode never gets past here. All of it is bounded, and all of it is given
back to the file system when the session ends, however it ends.
"""

from __future__ import annotations

from errno import EBADF, ENFILE, ESTALE
from itertools import count
from typing import Any

from pykrun.fs.interface import ROOT, FileSystem
from pykrun.fs.types import Entry, errno_error

Handles = dict[int, tuple[int, Any]]
"""By the number the guest uses: the inode and the file system's own handle."""


class Session:
    """The state of one mounted file system.

    :param max_inodes: how many inodes the guest may know at a time; beyond, look-ups answer ENFILE.
    :param max_handles: how many files, and how many directories, it may have open.
    """

    def __init__(self, filesystem: FileSystem, *, max_inodes: int, max_handles: int) -> None:
        self.filesystem = filesystem
        self.max_inodes = max_inodes
        self.max_handles = max_handles
        self.flags = 0
        """The INIT flags in force."""
        self.stateless_directories = False
        """The guest was told that it need not open directories."""
        self.inodes: dict[int, int] = {ROOT: 1}
        """Look-ups that were not taken back, by inode number; the root has one that never is."""
        self.files: Handles = {}
        self.directories: Handles = {}
        self._numbers = count(1)  # never starts again: an old number must not become valid again by chance

    def require(self, ino: int) -> None:
        """Check that the guest knows an inode.

        :raise OSError: ESTALE.
        """
        if ino not in self.inodes:
            raise errno_error(ESTALE)

    def adopt(self, entry: Entry) -> None:
        """Count one look-up of an entry that is about to be told to the guest.

        :raise OSError: ENFILE when it would know too many; the look-up is given back.
        """
        ino = entry.ino
        known = self.inodes.get(ino, 0)
        if not known and len(self.inodes) > self.max_inodes:
            self.filesystem.forget(ino, 1)
            raise errno_error(ENFILE)
        self.inodes[ino] = known + 1

    def has_room(self, count: int) -> bool:
        """Whether the guest may get to know so many more inodes."""
        return len(self.inodes) + count <= self.max_inodes

    def adopt_all(self, numbers: list[int]) -> None:
        """Count one look-up of each; there is room, as `has_room` said before."""
        inodes = self.inodes
        for ino in numbers:
            inodes[ino] = inodes.get(ino, 0) + 1

    def forget(self, ino: int, times: int) -> None:
        """Take back look-ups, never more than there were; the root stays known."""
        inodes = self.inodes
        known = inodes.get(ino, 0)
        if ino == ROOT:
            times = min(times, known - 1)
        if times < known:
            if times <= 0:
                return
            inodes[ino] = known - times
        elif known:
            times = known
            del inodes[ino]
        else:
            return
        self.filesystem.forget(ino, times)

    def require_room(self, handles: Handles) -> None:
        """Check, before something is opened, that there is room for its handle.

        :raise OSError: ENFILE.
        """
        if len(handles) >= self.max_handles:
            raise errno_error(ENFILE)

    def add(self, handles: Handles, ino: int, handle: Any) -> int:
        """Keep a handle; return the number by which the guest knows it."""
        number = next(self._numbers)
        handles[number] = (ino, handle)
        return number

    def file(self, ino: int, number: int) -> Any:
        """Find the handle of an open file.

        :raise OSError: EBADF when it was not opened, was released, or belongs to another inode.
        """
        owner, handle = self.files.get(number, (0, None))
        if owner != ino or not owner:
            raise errno_error(EBADF)
        return handle

    def directory(self, ino: int, number: int) -> Any:
        """Find the handle of an open directory; None for one that needs none.

        :raise OSError: EBADF as for files.
        """
        if self.stateless_directories and not number:
            return None
        owner, handle = self.directories.get(number, (0, None))
        if owner != ino or not owner:
            raise errno_error(EBADF)
        return handle

    def reset(self) -> None:
        """End the session: release every handle, take back every look-up. An error of one does not stop the rest."""
        filesystem = self.filesystem
        for ino, handle in self.files.values():
            _quietly(filesystem.release, ino, handle, None)
        for ino, handle in self.directories.values():
            _quietly(filesystem.releasedir, ino, handle)
        self.files.clear()
        self.directories.clear()
        self.inodes[ROOT] -= 1
        for ino, times in self.inodes.items():
            if times:
                _quietly(filesystem.forget, ino, times)
        self.inodes.clear()
        self.inodes[ROOT] = 1
        self.flags = 0
        self.stateless_directories = False


def _quietly(operation: Any, *arguments: Any) -> None:
    try:
        operation(*arguments)
    except Exception:  # nobody is left to be told, and the rest must be given back too
        pass
