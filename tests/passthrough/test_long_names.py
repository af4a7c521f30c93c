"""Names that are longer than a guest can ask for: vfat and NTFS have them, 255 characters of several bytes each."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from pykrun.fs.passthrough.handles import Listing
from pykrun.host.files import DirectoryReader


class Recorded(DirectoryReader):
    """What getdents64(2) says of a directory with such names: no file system of most test machines has them."""

    def __init__(self, names: list[bytes]) -> None:
        super().__init__()
        self._records = b""
        for number, name in enumerate(names, 1):
            length = -(-(19 + len(name) + 1) // 8) * 8
            self._records += struct.pack(f"<QQHB{length - 19}s", number, number, length, 8, name)

    def read(self, descriptor: int) -> bytes:
        records, self._records = self._records, b""
        return records


@pytest.mark.parametrize("length", [255, 256, 260, 261, 765])
def test_a_directory_is_listed_without_them(tmp_path: Path, length: int) -> None:
    names = [b"a", b"x" * length, b"z"]
    expected = names if length == 255 else [b"a", b"z"]
    for how in ("entries", "pack"):
        listing = Listing(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY), None)
        try:
            reader = Recorded(names)
            if how == "entries":
                assert [entry.name for entry in listing.entries(reader, 0)] == expected
            else:
                packed = listing.pack(reader, 0, 4096)
                assert [name in packed for name in (b"a\0", b"x" * length, b"z\0")] == [True, length == 255, True]
        finally:
            listing.close()
