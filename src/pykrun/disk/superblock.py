"""Which file system begins at a place, by its superblock: so that stage one loads that module and no other.

The bytes are a guest's or a stranger's. Nothing here follows them anywhere: some fixed places are compared.
Sources: the magic numbers of the kernel's include/uapi/linux/magic.h and of each file system's on-disk format.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

Read = Callable[[int, int], bytes]
"""Offset and size to bytes; fewer at the end of what is read."""

_EXT_FEATURES = Struct("<III")  # compatible, incompatible, read-only compatible, at 0x5c of the superblock
_EXT_JOURNAL = 0x4  # compatible: has_journal
_EXT_JOURNAL_DEVICE = 0x8  # incompatible: no file system but the journal of one
_EXT2_INCOMPATIBLE = 0x2 | 0x4 | 0x10  # filetype, needs_recovery (ext3), meta_bg
_EXT2_READ_ONLY = 0x1 | 0x2 | 0x4  # sparse_super, large_file, btree_dir

_SECTOR_SIZES = (512, 1024, 2048, 4096)


def identify(read: Read) -> str:
    """Return a file system's name, as mount(2) takes it; empty for none that is known here."""
    for offset, magic, name in _MAGIC:
        if read(offset, len(magic)) == magic:
            return name
    return _ext(read(0x400, 0x100)) or _fat(read(0, 512))


_MAGIC = (
    (0, b"XFSB", "xfs"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (0, b"hsqs", "squashfs"),
    (0x400, b"\xe2\xe1\xf5\xe0", "erofs"),
    (0x400, b"\x10\x20\xf5\xf2", "f2fs"),
    (3, b"EXFAT   ", "exfat"),
    (0x8001, b"CD001", "iso9660"),  # before FAT: such an image may begin with a boot sector too
)


def _ext(superblock: bytes) -> str:
    """One of three names, by the features that each can bear."""
    if superblock[0x38:0x3A] != b"\x53\xef" or len(superblock) < 0x68:
        return ""
    compatible, incompatible, read_only = _EXT_FEATURES.unpack_from(superblock, 0x5C)
    if incompatible & _EXT_JOURNAL_DEVICE:
        return ""
    if incompatible & ~_EXT2_INCOMPATIBLE or read_only & ~_EXT2_READ_ONLY:
        return "ext4"
    return "ext3" if compatible & _EXT_JOURNAL else "ext2"


def _fat(sector: bytes) -> str:
    """What the kernel's fat_read_bpb checks, and the name that every formatter writes."""
    if sector[510:512] != b"\x55\xaa" or b"FAT" not in (sector[54:57], sector[82:85]):
        return ""
    size, per_cluster = int.from_bytes(sector[11:13], "little"), sector[13]
    reserved, tables, media = int.from_bytes(sector[14:16], "little"), sector[16], sector[21]
    is_power_of_two = per_cluster and not per_cluster & (per_cluster - 1)
    is_sound = (
        size in _SECTOR_SIZES and is_power_of_two and reserved and tables and media in (0xF0, *range(0xF8, 0x100))
    )
    return "vfat" if is_sound else ""
