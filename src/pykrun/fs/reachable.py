"""Any file system, in which its server's user can always reach what is made: for a server that is not root.

The guest's root passes every check of modes, but on the host they hold for the server. Overlayfs makes itself a
directory of mode 0 to work in, programs write files of mode 0400: here the owner's rights are always there.
"""

from __future__ import annotations

import stat
from typing import Any

from pykrun.fs.interface import FileSystem
from pykrun.fs.types import Attributes, Caller, Changes, Entry, Opened

_FILE, _DIRECTORY = 0o600, 0o700
_OWN = ("setattr", "mknod", "mkdir", "create", "tmpfile")


class Reachable(FileSystem):
    """`inner`, with the owner's rights to read and write in whatever mode is asked for, and to enter directories."""

    def __init__(self, inner: FileSystem) -> None:
        self.features = inner.features
        self._inner = inner
        for name in vars(FileSystem):
            if not name.startswith("_") and name not in (*_OWN, "features"):
                setattr(self, name, getattr(inner, name))

    def setattr(self, ino: int, handle: Any, changes: Changes, caller: Caller) -> Attributes:
        """Change attributes, a mode as far as it leaves the owner's rights."""
        if changes.mode is not None:
            kind = self._inner.getattr(ino, handle).mode
            changes.mode |= _DIRECTORY if stat.S_ISDIR(kind) else _FILE
        return self._inner.setattr(ino, handle, changes, caller)

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, umask: int, caller: Caller) -> Entry:
        """Make a file that is no directory."""
        more = _FILE if stat.S_ISREG(mode) else 0
        return self._inner.mknod(parent, name, mode | more, rdev, umask & ~more, caller)

    def mkdir(self, parent: int, name: bytes, mode: int, umask: int, caller: Caller) -> Entry:
        """Make a directory."""
        return self._inner.mkdir(parent, name, mode | _DIRECTORY, umask & ~_DIRECTORY, caller)

    def create(
        self, parent: int, name: bytes, flags: int, mode: int, umask: int, caller: Caller
    ) -> tuple[Entry, Opened]:
        """Make a regular file and open it."""
        return self._inner.create(parent, name, flags, mode | _FILE, umask & ~_FILE, caller)

    def tmpfile(self, parent: int, flags: int, mode: int, umask: int, caller: Caller) -> tuple[Entry, Opened]:
        """Make a file without a name and open it."""
        return self._inner.tmpfile(parent, flags, mode | _FILE, umask & ~_FILE, caller)
