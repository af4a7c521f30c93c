"""What is on a disk: file systems and partitions that real tools have made, and bytes that nobody has."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykrun.disk import file_system, open_image
from pykrun.disk.partitions import find
from pykrun.disk.superblock import Read, identify
from pykrun.errors import UsageError
from pykrun.machine import disk_place
from tests.disk import make
from tests.disk.make import MIB

KINDS = ("ext2", "ext3", "ext4", "xfs", "btrfs")


class Look:
    """Opens an image, looks, and closes it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, path: Path, partition: int = 0, format: str = "raw") -> str | None:
        disk = open_image(str(path), read_only=True, format=format)
        self._stack.callback(os.close, disk.descriptor)
        return file_system(disk, partition)


@pytest.fixture
def look() -> Iterator[Look]:
    with ExitStack() as stack:
        yield Look(stack)


@pytest.mark.parametrize("kind", KINDS)
def test_file_systems_of_real_tools(look: Look, tmp_path: Path, kind: str) -> None:
    assert look(make.file_system(tmp_path / "image", kind)) == kind


MAGIC = {
    "squashfs": (0, b"hsqs"),
    "erofs": (1024, b"\xe2\xe1\xf5\xe0"),
    "f2fs": (1024, b"\x10\x20\xf5\xf2"),
    "exfat": (3, b"EXFAT   "),
    "iso9660": (32769, b"CD001"),
}


@pytest.mark.parametrize("kind", MAGIC)
def test_file_systems_by_their_magic(look: Look, tmp_path: Path, kind: str) -> None:
    """Their tools are too rare to ask for; the numbers are those of linux/magic.h and file(1)."""
    place, magic = MAGIC[kind]
    image = make.sparse(tmp_path / "image", 64 * 1024)
    with open(image, "r+b") as file:
        file.seek(place)
        file.write(magic)
    assert look(image) == kind


def test_fat(look: Look, tmp_path: Path) -> None:
    """A boot sector as mkfs.fat writes it; a mark alone is not enough, other boot sectors speak of FAT too."""
    sector = bytearray(1024)
    sector[11:13], sector[13], sector[14], sector[16], sector[21] = b"\0\2", 4, 1, 2, 0xF8
    sector[54:62], sector[510:512] = b"FAT16   ", b"\x55\xaa"
    image = tmp_path / "image"
    image.write_bytes(sector)
    assert look(image) == "vfat"
    for place, byte in ((510, 0), (13, 3), (14, 0), (16, 0), (21, 7), (12, 3), (54, 0)):
        image.write_bytes(sector[:place] + bytes([byte]) + sector[place + 1 :])
        assert look(image) == "", place


def test_nothing_known(look: Look, tmp_path: Path) -> None:
    assert look(make.sparse(tmp_path / "zeros", 512)) == ""
    (tmp_path / "text").write_bytes(b"some words " * 512)
    assert look(tmp_path / "text") == ""


def test_the_journal_of_another_file_system_is_none(look: Look, tmp_path: Path) -> None:
    image = make.sparse(tmp_path / "image", 8 * MIB)
    make.tool("mke2fs", "-q", "-F", "-O", "journal_dev", image)
    assert look(image) == ""


TABLES = {
    "mbr": "label: dos\nstart=2048, size=2048\nstart=8192, size=4096\n",
    "gpt": "label: gpt\nstart=2048, size=2048\nstart=8192, size=4096\n",
    "gpt in odd places": "label: gpt\ntable-length: 8\n7: start=4096, size=2048\n3: start=8192, size=512\n",
    "logical": (
        "label: dos\n1: start=2048, size=1024\n2: start=4096, size=24576, type=5\n4: start=29696, size=512\n"
        "5: start=6144, size=1024\n6: start=10240, size=2048\n7: start=14336, size=1024\n"
    ),
    "extended first": (
        "label: dos\n1: start=2048, size=20480, type=f\n2: start=24576, size=512\n5: start=4096, size=512\n"
    ),
}


def extents(image: Path) -> dict[int, tuple[int, int]]:
    """Where sfdisk sees partitions, in bytes."""
    table = json.loads(make.tool("sfdisk", "--json", image))["partitiontable"]
    return {
        int(part["node"].removeprefix(str(image))): (part["start"] * 512, part["size"] * 512)
        for part in table["partitions"]
    }


@pytest.mark.parametrize("name", TABLES)
def test_partitions_lie_where_sfdisk_sees_them(tmp_path: Path, name: str) -> None:
    image = make.partitioned(tmp_path / "image", 16 * MIB, TABLES[name])
    expected = extents(image)
    assert len(expected) >= 2
    content = image.read_bytes()
    seen = {number: find(reader(content), len(content), number) for number in range(300)}
    assert {number: extent for number, extent in seen.items() if extent is not None} == expected


def test_the_copy_of_a_gpt(tmp_path: Path) -> None:
    """The kernel takes the one at the end when the first is damaged."""
    image = make.partitioned(tmp_path / "image", 16 * MIB, TABLES["gpt"])
    content = bytearray(image.read_bytes())
    expected = extents(image)
    content[512 + 20] ^= 1
    assert {number: find(reader(bytes(content)), len(content), number) for number in expected} == expected
    content[-512 + 20] ^= 1
    assert find(reader(bytes(content)), len(content), 2) is None


def test_a_file_system_in_a_partition(look: Look, tmp_path: Path) -> None:
    image = make.partitioned(tmp_path / "image", 16 * MIB, TABLES["logical"])
    inner = make.file_system(tmp_path / "inner", "ext4").read_bytes()
    with open(image, "r+b") as file:
        file.seek(10240 * 512)
        file.write(inner[: 2048 * 512])
    assert look(image, 6) == "ext4"
    assert look(image, 5) == ""
    with pytest.raises(UsageError, match="has no partition 9"):
        look(image, 9)


def test_a_partition_that_leaves_the_disk(tmp_path: Path) -> None:
    content = make.partitioned(tmp_path / "image", 16 * MIB, TABLES["mbr"]).read_bytes()[: 5 * MIB]
    assert find(reader(content), len(content), 1) is not None
    assert find(reader(content), len(content), 2) is None


def reader(content: bytes) -> Read:
    def read(offset: int, size: int) -> bytes:
        assert size <= 64 * 1024, "reads are bounded"
        return content[offset : offset + size]

    return read


@given(st.binary(max_size=2048), st.integers(min_value=-1, max_value=300))
def test_any_bytes(content: bytes, number: int) -> None:
    assert isinstance(identify(reader(content)), str)
    find(reader(content), len(content), number)


@given(
    st.lists(st.tuples(st.sampled_from((0, 5, 15, 131, 238)), st.integers(0, 70), st.integers(0, 70)), max_size=80),
    st.integers(0, 260),
)
def test_any_chain_of_tables(entries: list[tuple[int, int, int]], number: int) -> None:
    """Every sector is a partition table: loops, gaps, tables that hold each other."""
    content = bytearray(64 * 512)
    for index, (kind, start, size) in enumerate(entries):
        place = (index // 4) * 512 + 446 + 16 * (index % 4)
        content[place : place + 16] = (
            bytes((0, 0, 0, 0, kind, 0, 0, 0)) + start.to_bytes(4, "little") + size.to_bytes(4, "little")
        )
    for sector in range(64):
        content[sector * 512 + 510 : sector * 512 + 512] = b"\x55\xaa"
    extent = find(reader(bytes(content)), len(content), number)
    if extent is not None:
        assert 0 <= extent[0] < extent[0] + extent[1] <= len(content)


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=40), st.integers(0, 200))
def test_any_gpt(changes: list[tuple[int, int]], number: int) -> None:
    """A protective MBR, and a header whose checksum is right whatever it says."""
    from binascii import crc32

    content = bytearray(70 * 512)
    content[446 + 4] = 0xEE
    content[510:512] = b"\x55\xaa"
    head = bytearray(b"EFI PART\0\0\1\0\x5c\0\0\0".ljust(92, b"\0"))
    head[24], head[72], head[80], head[85] = 1, 2, 128, 1
    head[84] = 128
    for place, byte in changes:
        if place < 92 and place not in range(16, 20):
            head[place] = byte
        elif place >= 92:
            content[1024 + place] = byte
    head[16:20] = crc32(head[:16] + bytes(4) + head[20:]).to_bytes(4, "little")
    content[512:604] = head
    extent = find(reader(bytes(content)), len(content), number)
    if extent is not None:
        assert 0 <= extent[0] < extent[0] + extent[1] <= len(content)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("/dev/vda", (0, 0)),
        ("vda", (0, 0)),
        ("/dev/vdb1", (1, 1)),
        ("vdz128", (25, 128)),
        ("/dev/sda", None),
        ("vd", None),
        ("vdA", None),
        ("vda0", None),
        ("vda01", None),
        ("vda1p1", None),
        ("vda٣", None),
        ("", None),
    ],
)
def test_names_of_disks(name: str, place: tuple[int, int] | None) -> None:
    assert disk_place(name) == place
