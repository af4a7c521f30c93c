"""A file system that holds nothing but its root directory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from errno import ENODATA, EPERM, ESTALE
from stat import S_IFDIR
from typing import Any, Never

from pykrun.fs.interface import ROOT, STATELESS_DIRECTORIES, FileSystem
from pykrun.fs.types import (
    FOREVER,
    MISSING_FOREVER,
    Attributes,
    DirectoryEntry,
    Entry,
    FileSystemStatistics,
    errno_error,
)


class NullFs(FileSystem):
    """An empty root directory (0755, two links, block size 4096) that stays empty."""

    features = STATELESS_DIRECTORIES

    def __init__(self) -> None:
        now = time.time_ns()
        self._attributes = Attributes(
            ino=ROOT,
            mode=S_IFDIR | 0o755,
            nlink=2,
            atime_ns=now,
            mtime_ns=now,
            ctime_ns=now,
            timeout=FOREVER,
        )

    def lookup(self, parent: int, name: bytes) -> Entry:
        """Answer that the name is missing, now and later."""
        self._require_root(parent)
        return MISSING_FOREVER

    def getattr(self, ino: int, handle: Any) -> Attributes:
        """Tell the root's attributes."""
        self._require_root(ino)
        return self._attributes

    def readdir(self, ino: int, handle: Any, offset: int) -> Iterator[DirectoryEntry]:
        """List "." and ".."."""
        self._require_root(ino)
        for index, name in enumerate((b".", b"..")):
            if index >= offset:
                yield DirectoryEntry(name, ROOT, S_IFDIR >> 12, index + 1)

    def statfs(self, ino: int) -> FileSystemStatistics:
        """Tell that there is no room."""
        return FileSystemStatistics(files=1)

    def syncfs(self, ino: int) -> None:
        """Nothing is to be written."""

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """Refuse: there are none.

        :raise OSError: ENODATA.
        """
        self._require_root(ino)
        raise errno_error(ENODATA)

    def listxattr(self, ino: int) -> tuple[bytes, ...]:
        """List nothing."""
        self._require_root(ino)
        return ()

    def _refuse(self, *arguments: object, **named: object) -> Never:
        """Nothing can be made, removed or renamed here: EPERM, as ENOSYS would speak for wrappers' files too."""
        raise errno_error(EPERM)

    create = tmpfile = mknod = mkdir = symlink = link = unlink = rmdir = rename = setattr = _refuse

    def _require_root(self, ino: int) -> None:
        if ino != ROOT:
            raise errno_error(ESTALE)
