"""Open files and listings in progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from errno import EINVAL
from struct import Struct

from pykrun.fs.packed import ENTRY_OUT
from pykrun.fs.passthrough.inodes import Inode
from pykrun.fs.types import DirectoryEntry, errno_error
from pykrun.host.files import DirectoryReader


class FileHandle:
    """A regular file that is open for the guest."""

    __slots__ = ("exported", "fd", "inode", "locks")

    def __init__(self, fd: int, inode: Inode) -> None:
        self.fd = fd
        self.inode = inode
        self.exported = 0
        """Its number in the export table, 0 when it is not there."""
        self.locks: dict[int, int] | None = None
        """Open file descriptions that carry fcntl locks, by the lock's owner in the guest."""


_RECORD = Struct("<QQHB")  # struct linux_dirent64: ino, off, reclen, type; the name follows
_unpack_record = _RECORD.unpack_from
_unpack_outline = Struct("<16sHB").unpack_from  # ino and off, which struct fuse_dirent begins with too, as they are
_NAME = _RECORD.size
_LONGEST = 280
"""The record of a name of 255 bytes; the padding hides up to five more. Some file systems have longer names (those of
vfat and NTFS in UTF-8), which no guest could ask for."""
_NAME_MAX = 255
_PADDED = [Struct(f"<16sII{8 * words}s").pack for words in range(33)]
_PACKERS = [_PADDED[-(-length // 8)] for length in range(256)]
"""By the name's length: struct fuse_dirent with the name in it, padded."""


class Listing:
    """A directory that is being read: a descriptor, and what was read ahead.

    Cookies are the host's. They stay good when the directory is opened again, so a listing may go on anywhere.

    :param fd: of the directory, open for reading; `close` closes it.
    :param root: the numbers to tell for "..", where the directory is the top of what is shared.
    """

    __slots__ = ("_data", "_position", "_root", "fd", "offset")

    def __init__(self, fd: int, root: int | None) -> None:
        self.fd = fd
        self.offset = 0
        """Where the next entry is."""
        self._data = b""
        self._position = 0
        self._root = root

    def entries(self, reader: DirectoryReader, offset: int) -> Iterator[DirectoryEntry]:
        """List from `offset`; an entry counts as read when the next one is asked for."""
        self._seek(offset)
        while True:
            if self._position >= len(self._data) and not self._fill(reader):
                return
            data, position = self._data, self._position
            ino, following, length, kind = _unpack_record(data, position)
            if length <= _LONGEST:
                start = position + _NAME
                name = data[start : data.index(0, start)]
                if self._root is not None and name == b"..":
                    ino = self._root
                if len(name) <= _NAME_MAX:
                    yield DirectoryEntry(name, ino, kind, following)
            self._position = position + length
            self.offset = following

    def pack(
        self, reader: DirectoryReader, offset: int, size: int, entry_of: Callable[[bytes], bytes] | None = None
    ) -> bytes:
        """List from `offset` as `entries`, as many `struct fuse_dirent` as find room.

        :param entry_of: makes what goes before each record, by its name.
        :raise OSError: EINVAL when not even one does.
        """
        self._seek(offset)
        packed: list[bytes] = []
        while self._position < len(self._data) or self._fill(reader, bool(packed)):
            data, position, end = self._data, self._position, len(self._data)
            find, last, root = data.find, b"", self._root
            while position < end:
                numbers, length, kind = _unpack_outline(data, position)
                if length > _LONGEST:
                    position += length
                    continue
                start = position + _NAME
                name = data[start : find(0, start)]
                if root is not None and name == b"..":
                    numbers = root.to_bytes(8, "little") + numbers[8:]
                count = len(name)
                if count > _NAME_MAX:
                    position += length
                    continue
                record = _PACKERS[count](numbers, count, kind, name)
                size -= len(record)
                if entry_of is not None:
                    size -= ENTRY_OUT.size
                    if size >= 0:
                        packed.append(entry_of(name))
                if size < 0:
                    break
                packed.append(record)
                position += length
                last = numbers
            self._position = position
            if last:
                self.offset = int.from_bytes(last[8:], "little")
            if size < 0:
                if not packed:
                    raise errno_error(EINVAL)
                break
        return b"".join(packed)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)

    def _seek(self, offset: int) -> None:
        """Go on at `offset`: 0 always starts anew, and sees what was made meanwhile."""
        if offset == 0 or offset != self.offset:
            os.lseek(self.fd, offset, os.SEEK_SET)
            self._data, self._position, self.offset = b"", 0, offset

    def _fill(self, reader: DirectoryReader, patient: bool = False) -> bool:
        """Read ahead; return False at the end.

        :param patient: an error can wait for the next request: what was listed must be told first.
        """
        self._data, self._position = b"", 0
        try:
            self._data = reader.read(self.fd)
        except OSError:
            if not patient:
                raise
        return bool(self._data)
