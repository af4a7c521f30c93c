"""The archive format on plain bytes; that kernels read it is shown by every boot test."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pykrun.kernel import cpio

BUSYBOX = Path("/bin/busybox")
ENTRIES = [
    cpio.folder("dev"),
    cpio.character_device("dev/console", 5, 1),
    cpio.file("init", b"#!x", 0o755),
    cpio.file("empty", b""),
    cpio.folder("deep", 0o700),
    cpio.file("deep/file", bytes(range(256)) * 5),
]


def test_bytes_depend_on_the_entries_only() -> None:
    first = b"".join(cpio.archive(ENTRIES))
    assert first == b"".join(cpio.archive(list(ENTRIES)))
    assert len(first) % 4 == 0
    assert first.startswith(b"070701")
    assert b"TRAILER!!!" in first[-128:]


@pytest.mark.skipif(not BUSYBOX.exists(), reason="needs busybox-static")
def test_an_independent_reader_understands_it(tmp_path: Path) -> None:
    data = b"".join(cpio.archive(entry for entry in ENTRIES if not entry.name.startswith("dev/")))
    subprocess.run([BUSYBOX, "cpio", "-id"], input=data, cwd=tmp_path, check=True, timeout=30, capture_output=True)
    assert (tmp_path / "init").read_bytes() == b"#!x"
    assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "empty").read_bytes() == b""
    assert (tmp_path / "deep/file").read_bytes() == bytes(range(256)) * 5
    assert (tmp_path / "deep").stat().st_mode & 0o777 == 0o700


def test_device_numbers_are_in_the_header() -> None:
    record = b"".join(cpio.archive([cpio.character_device("null", 1, 3, 0o666)]))
    fields = [int(record[6 + 8 * index : 14 + 8 * index], 16) for index in range(13)]
    assert fields[1] == 0o020666
    assert fields[9:11] == [1, 3]
