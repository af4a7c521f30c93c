"""What the host must know of a VMDK image: whether it is one that can be used, its size, its first bytes.

Source: VMware's "Virtual Disk Format 5.0". Of its kinds those are taken that are one file, with the descriptor in it:
monolithicSparse, and streamOptimized to be read. The image may be a stranger's: every read is bounded, and what is too
hard to read (compressed grains) is left alone. Writing is QEMU's business.
"""

from __future__ import annotations

import os
from struct import Struct

from pykrun.disk.reading import Unreadable, read_padded
from pykrun.errors import UsageError

MAGIC = b"KDMV"
SECTOR = 512

_HEADER = Struct("<4sIIQQQQIQQQB4sH")
"""Magic, version, flags, capacity, grain, descriptor's place and size, entries of a grain table, place of the redundant
grain directory, of the grain directory, of the first grain, not closed, line ends, compression; places and sizes in
sectors."""
_COMPRESSED, _MARKERS = 1 << 16, 1 << 17
_LINE_ENDS = b"\n \r\n"
"""They are in the header to tell that nothing has translated them on the way."""
_AT_END = (1 << 64) - 1
_FOOTER = 3 * SECTOR  # its marker, the header once more, the end of the stream
_LONGEST_DESCRIPTOR = 128  # sectors; 20 are usual
_LARGEST = 1 << 53  # sectors
_WORD = Struct("<I")
_ACCESS = ("RW", "RDONLY", "NOACCESS")


class Vmdk:
    """An image that stands for itself: no other file is needed to read it.

    :param path: for messages.
    :raise UsageError: it is no such image.
    """

    def __init__(self, descriptor: int, path: str, *, read_only: bool) -> None:
        self._fd = descriptor
        self._path = path
        head = os.pread(descriptor, _HEADER.size, 0)
        if head[: len(MAGIC)] != MAGIC:
            self._refuse_beginning(os.pread(descriptor, SECTOR, 0))
        directory = self._take(head)
        self._check_descriptor()
        if directory == _AT_END:
            size = self.size
            end = os.lseek(descriptor, 0, os.SEEK_END)
            foot = os.pread(descriptor, _HEADER.size, max(0, end - _FOOTER) + SECTOR)
            if foot[: len(MAGIC)] != MAGIC or self._take(foot) == _AT_END or self.size != size:
                raise UsageError(f"disk {path!r} is a vmdk image without its end", "copy it once more")
        if self.is_compressed and not read_only:
            raise UsageError(
                f"disk {path!r} is a streamOptimized vmdk image, which can only be read",
                f"add :ro, or make one that can be written by `qemu-img convert -O qcow2 {path} NEW`",
            )

    def _take(self, head: bytes) -> int:
        """Understand a header; return where the grain directory is."""
        fields = _HEADER.unpack(head.ljust(_HEADER.size, b"\0"))
        _, version, flags, capacity, self._grain, start, length, self._entries, _, self._directory, *rest = fields
        _, _, ends, compression = rest
        self.is_compressed = bool(flags & (_COMPRESSED | _MARKERS) or compression)
        is_sound = 0 < self._entries <= 512 and self._grain and not self._grain & (self._grain - 1)
        if version not in (1, 2, 3) or ends != _LINE_ENDS or compression > 1 or not is_sound or self._grain > 1 << 17:
            raise UsageError(f"disk {self._path!r} is a vmdk image of a kind that is not known here")
        if not 0 < capacity < _LARGEST:
            self._refuse_names()
        self._descriptor = start, length
        self.size: int = capacity * SECTOR
        directory: int = self._directory
        return directory

    def _check_descriptor(self) -> None:
        """Look for files that the image names, in what it says of itself."""
        start, length = self._descriptor
        if not 0 < start < _LARGEST or not 0 < length <= _LONGEST_DESCRIPTOR:
            raise UsageError(f"disk {self._path!r} is no whole vmdk image: there is no descriptor in it")
        text = os.pread(self._fd, length * SECTOR, start * SECTOR).partition(b"\0")[0].decode("latin-1")
        extents = []
        for line in text.splitlines():
            name, _, value = line.partition("=")
            name, value = name.strip().lower(), value.strip().strip('"').lower()
            is_parent = name == "parentcid" and value != "ffffffff"
            is_other = name == "createtype" and value not in ("monolithicsparse", "streamoptimized")
            if is_parent or is_other or name == "parentfilenamehint":
                self._refuse_names()
            words = line.split(None, 3)
            if words and words[0] in _ACCESS:
                extents.append(words[2:3])
        if extents != [["SPARSE"]]:  # the file itself; its name of that time does not matter
            self._refuse_names()

    def _refuse_beginning(self, sector: bytes) -> None:
        if b"disk descriptorfile" in sector.lower():
            self._refuse_names()
        raise UsageError(f"disk {self._path!r} is no vmdk image", "--disk-format raw takes it as it is")

    def _refuse_names(self) -> None:
        raise UsageError(
            f"disk {self._path!r} needs other files that it names, which no guest's image may choose",
            f"`qemu-img convert -O vmdk {self._path} NEW` makes one that stands for itself",
        )

    def read(self, offset: int, size: int) -> bytes:
        """Return what the guest would read; fewer bytes at the end.

        :raise Unreadable: not in a simple way.
        """
        if self.is_compressed:
            raise Unreadable
        size = max(0, min(size, self.size - offset))
        found = b""
        while len(found) < size:
            found += self._read_in_grain(offset + len(found), size - len(found))
        return found

    def _read_in_grain(self, offset: int, size: int) -> bytes:
        grain = self._grain * SECTOR
        inside = offset % grain
        size = min(size, grain - inside)
        table, entry = divmod(offset // grain, self._entries)
        place = self._word(self._directory * SECTOR + 4 * table)
        start = self._word(place * SECTOR + 4 * entry) if place else 0
        if start <= 1:  # not there, or zeros
            return bytes(size)
        return read_padded(self._fd, size, start * SECTOR + inside)

    def _word(self, offset: int) -> int:
        value: int = _WORD.unpack(read_padded(self._fd, 4, offset))[0]
        return value
