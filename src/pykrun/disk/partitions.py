"""Where a partition lies, by the number that Linux gives it: GPT, and MBR with logical partitions.

The bytes are a guest's or a stranger's: every read is bounded, and whatever is wrong means that there is no such
partition. Sources: the UEFI specification, chapter 5; the kernel's block/partitions/efi.c and msdos.c.
"""

from __future__ import annotations

from binascii import crc32
from struct import Struct

from pykrun.disk.superblock import Read

SECTOR = 512

Extent = tuple[int, int]
"""Offset and size in bytes."""

_ENTRY = Struct("<B3xB3xII")  # MBR: status, type, first sector, number of sectors
_TABLE = 446
_SIGNATURE = b"\x55\xaa"
_PROTECTIVE = 0xEE
_EXTENDED = (0x05, 0x0F, 0x85)
_LONGEST_CHAIN = 256  # logical partitions; the kernel has at most so many on a disk

_GPT = Struct(
    "<8sIIIIQQQQ16sQIII"
)  # signature, revision, size, crc, -, own, other, first, last, guid, entries, n, size
_GPT_ENTRY = Struct("<16s16sQQ")  # type, guid, first sector, last sector
_LARGEST_GPT_ENTRY = 4096


def find(read: Read, size: int, number: int) -> Extent | None:
    """Return where partition `number` lies; None when there is none, or not all of it on the disk.

    :param size: of the disk, in bytes.
    """
    sector = read(0, SECTOR)
    if len(sector) < SECTOR or sector[510:] != _SIGNATURE:
        return None
    entries = _entries(sector)
    if any(status not in (0, 0x80) for status, *_ in entries):  # a boot sector of a file system
        return None
    extent: Extent | None = None
    header = _gpt_header(read, size) if any(kind == _PROTECTIVE for _, kind, *_ in entries) else None
    if header is not None:
        extent = _in_gpt(read, header, number)
    elif 1 <= number <= 4:
        _, _, first, count = entries[number - 1]
        extent = (first, count)
    elif number > 4:
        extent = _logical(read, entries, number)
    if extent is None or extent[1] <= 0 or (extent[0] + extent[1]) * SECTOR > size:
        return None
    return extent[0] * SECTOR, extent[1] * SECTOR


def _entries(sector: bytes) -> list[tuple[int, int, int, int]]:
    return [_ENTRY.unpack_from(sector, _TABLE + 16 * index) for index in range(4)]


def _logical(read: Read, entries: list[tuple[int, int, int, int]], number: int) -> Extent | None:
    """Walk the chain of extended partition tables: in each, what it holds and where the next one is."""
    starts = [(first, count) for _, kind, first, count in entries if kind in _EXTENDED and count]
    if not starts:
        return None
    base, base_size = starts[0]
    here, room, found = base, base_size, 4
    for _ in range(_LONGEST_CHAIN):
        sector = read(here * SECTOR, SECTOR)
        if sector[510:] != _SIGNATURE:
            return None
        following = None
        for index, (_, kind, first, count) in enumerate(_entries(sector)):
            if not count:
                continue
            if kind in _EXTENDED:
                following = following or (base + first, count)
                continue
            start = here + first
            is_odd = index >= 2 and (first + count > room or start < base or start + count > base + base_size)
            if not is_odd:
                found += 1
                if found == number:
                    return start, count
        if following is None:
            return None
        here, room = following
    return None


def _gpt_header(read: Read, size: int) -> tuple[int, int, int] | None:
    """Return first sector, number and size of the entries, by the first header or its copy at the end."""
    for place in (1, size // SECTOR - 1):
        sector = read(place * SECTOR, SECTOR)
        if len(sector) < SECTOR:
            continue
        magic, _, length, checksum, _, own, _, _, _, _, entries, count, entry, _ = _GPT.unpack_from(sector)
        if magic != b"EFI PART" or own != place or not _GPT.size <= length <= SECTOR:
            continue
        blank = sector[:16] + bytes(4) + sector[20:length]
        if crc32(blank) == checksum and 128 <= entry <= _LARGEST_GPT_ENTRY:
            return entries, count, entry
    return None


def _in_gpt(read: Read, header: tuple[int, int, int], number: int) -> Extent | None:
    entries, count, entry = header
    if not 1 <= number <= count:
        return None
    content = read(entries * SECTOR + (number - 1) * entry, _GPT_ENTRY.size)
    if len(content) < _GPT_ENTRY.size or content[:16] == bytes(16):
        return None
    _, _, first, last = _GPT_ENTRY.unpack(content)
    return first, last - first + 1
