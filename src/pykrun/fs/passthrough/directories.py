"""Listings.

Where the guest may keep listings, it need not open directories either: a request names the directory and a cookie of
the host's file system, which is good for ever. What is being read is kept as a *cursor*, for the next request almost
always goes on where the last one ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from os import O_DIRECTORY, O_RDONLY
from typing import Any

from pykrun.fs.packed import ENTRY_OUT
from pykrun.fs.passthrough.core import Core
from pykrun.fs.passthrough.handles import Listing
from pykrun.fs.passthrough.inodes import Inode
from pykrun.fs.types import DirectoryEntry, Entry, Opened

CURSORS = 32
"""Listings in progress that are remembered; one more makes the oldest start anew at its cookie."""

_DOTS = (b".", b"..")
_NO_ENTRY = bytes(ENTRY_OUT.size)
"""A name without attributes, which counts no look-up."""


class DirectoryOperations(Core):
    """See `pykrun.fs.interface`."""

    def opendir(self, ino: int, flags: int) -> Opened:
        """Open a directory, for guests that must."""
        self._require_room()
        listing = self._listing(self._inodes.directory(ino))
        self._open_files += 1
        return Opened(listing)

    def releasedir(self, ino: int, handle: Any) -> None:
        """Close."""
        if handle is not None:
            self._open_files -= 1
            handle.close()

    def readdir(self, ino: int, handle: Any, offset: int) -> Iterator[DirectoryEntry]:
        """List names, types and numbers as the host has them."""
        listing = handle or self._cursor(ino, offset)
        yield from listing.entries(self._reader, offset)
        if handle is None:
            self._end_cursor(ino)

    def list_packed(self, ino: int, handle: Any, offset: int, size: int) -> bytes | None:
        """List as `readdir`, a fifth of the work."""
        listing: Listing = handle or self._cursor(ino, offset)
        packed = listing.pack(self._reader, offset, size)
        if not packed and handle is None:
            self._end_cursor(ino)
        return packed

    def list_packed_plus(self, ino: int, handle: Any, offset: int, size: int) -> tuple[bytes, list[int]] | None:
        """List as `readdirplus`, three quarters of the work."""
        inodes = self._inodes
        directory = inodes.directory(ino)
        at, found, packed_entry = self._statx.at, inodes.found, self._packed_entry
        told: list[int] = []

        def entry_of(name: bytes) -> bytes:
            if name in _DOTS:
                return _NO_ENTRY
            try:
                fd = directory.fd
                fields = at(fd if fd >= 0 else inodes.reach(directory), name)
            except OSError:
                return _NO_ENTRY  # not to be had: the name alone is true
            if fields is None:
                return _NO_ENTRY
            inode = found(directory, name, fields)
            told.append(inode.ino)
            return packed_entry(inode, fields, directory)

        listing: Listing = handle or self._cursor(ino, offset)
        packed = listing.pack(self._reader, offset, size, entry_of)
        if not packed and handle is None:
            self._end_cursor(ino)
        return packed, told

    def readdirplus(self, ino: int, handle: Any, offset: int) -> Iterator[tuple[DirectoryEntry, Entry | None]]:
        """List with what a look-up of each name would tell."""
        inodes = self._inodes
        directory = inodes.directory(ino)
        at, found, entry_of = self._statx.at, inodes.found, self._entry
        for listed in self.readdir(ino, handle, offset):
            name = listed.name
            if name in _DOTS:
                yield listed, None
                continue
            try:
                fd = directory.fd
                fields = at(fd if fd >= 0 else inodes.reach(directory), name)
            except OSError:
                fields = None  # gone since, or not to be had: the name alone is true
            yield listed, None if fields is None else entry_of(found(directory, name, fields), fields, directory)

    def fsyncdir(self, ino: int, handle: Any, data_only: bool) -> None:
        """Bring the directory to stable storage."""
        fd = self._open_directory(self._inodes.directory(ino))
        try:
            (os.fdatasync if data_only else os.fsync)(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close every descriptor."""
        for cursor in self._cursors.values():
            cursor.close()
        self._cursors.clear()
        super().close()

    def forget(self, ino: int, count: int) -> None:
        """Take back look-ups."""
        if ino in self._cursors and self._inodes.get(ino).lookups <= count:
            self._end_cursor(ino)
        self._inodes.forget(ino, count)

    def _listing(self, directory: Inode) -> Listing:
        is_root = directory is self._inodes.root
        return Listing(self._open_directory(directory), self._root_number if is_root else None)

    def _open_directory(self, directory: Inode) -> int:
        return os.open(b".", O_RDONLY | O_DIRECTORY, dir_fd=self._inodes.reach(directory))

    def _cursor(self, ino: int, offset: int) -> Listing:
        """Find the listing that goes on at `offset`, or begin one there."""
        cursors = self._cursors
        cursor = cursors.get(ino)
        if cursor is None:
            cursor = self._listing(self._inodes.directory(ino))
            if len(cursors) >= CURSORS:
                self._end_cursor(next(iter(cursors)))
            cursors[ino] = cursor
        return cursor

    def _end_cursor(self, ino: int) -> None:
        cursor = self._cursors.pop(ino, None)
        if cursor is not None:
            cursor.close()
