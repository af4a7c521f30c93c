"""What the host must know of a qcow2 image: whether it is one that can be used, its size, its first bytes.

Source: QEMU's docs/interop/qcow2.txt. The image may be a stranger's: every read is bounded, and what is too hard to
read (compressed clusters, for one) is left alone. Writing is QEMU's business.
"""

from __future__ import annotations

import os
from struct import Struct

from pykrun.disk.reading import Unreadable, read_padded
from pykrun.errors import UsageError

MAGIC = b"QFI\xfb"

_HEADER = Struct(">4sIQIIQIIQ")  # magic, version, backing offset, its size, cluster bits, size, crypt, L1 entries, L1
_INCOMPATIBLE = Struct(">Q")  # at 72, from version 3 on
_EXTERNAL_DATA, _EXTENDED_L2 = 1 << 2, 1 << 4
_WORD = Struct(">Q")
_OFFSET = 0x00FF_FFFF_FFFF_FE00  # of an L1 or L2 entry
_COMPRESSED, _ZERO = 1 << 62, 1


class Qcow2:
    """An image that stands for itself: no other file is needed to read it.

    :param path: for messages.
    :raise UsageError: it is no such image.
    """

    def __init__(self, descriptor: int, path: str) -> None:
        self._fd = descriptor
        head = os.pread(descriptor, 104, 0).ljust(104, b"\0")
        magic, version, backing, _, self._bits, self.size, crypt, self._l1_entries, self._l1 = _HEADER.unpack_from(head)
        features = _INCOMPATIBLE.unpack_from(head, 72)[0] if version >= 3 else 0
        if magic != MAGIC:
            raise UsageError(f"disk {path!r} is no qcow2 image", "--disk-format raw takes it as it is")
        if version not in (2, 3) or not 9 <= self._bits <= 21:
            raise UsageError(f"disk {path!r} is a qcow2 image of a kind that is not known here")
        if crypt:
            raise UsageError(f"disk {path!r} is encrypted", "decrypt it by `qemu-img convert`")
        if backing or features & _EXTERNAL_DATA:
            raise UsageError(
                f"disk {path!r} needs another file that it names, which no guest's image may choose",
                f"`qemu-img convert -O qcow2 {path} NEW` makes one that stands for itself",
            )
        self._is_simple = not features & _EXTENDED_L2

    def read(self, offset: int, size: int) -> bytes:
        """Return what the guest would read; fewer bytes at the end.

        :raise Unreadable: not in a simple way.
        """
        size = max(0, min(size, self.size - offset))
        found = b""
        while len(found) < size:
            found += self._read_in_cluster(offset + len(found), size - len(found))
        return found

    def _read_in_cluster(self, offset: int, size: int) -> bytes:
        cluster = 1 << self._bits
        inside = offset % cluster
        size = min(size, cluster - inside)
        l2_bits = self._bits - 3
        index = offset >> self._bits
        if not self._is_simple or index >> l2_bits >= self._l1_entries:
            raise Unreadable
        table = self._word(self._l1 + 8 * (index >> l2_bits)) & _OFFSET
        entry = self._word(table + 8 * (index & (1 << l2_bits) - 1)) if table else 0
        if entry & _COMPRESSED:
            raise Unreadable
        if entry & _ZERO or not entry & _OFFSET:
            return bytes(size)
        return read_padded(self._fd, size, (entry & _OFFSET) + inside)

    def _word(self, offset: int) -> int:
        value: int = _WORD.unpack(read_padded(self._fd, 8, offset))[0]
        return value
