"""qcow2 images as far as the host reads them itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykrun.disk import doubts, file_system, open_image
from pykrun.disk.qcow2 import Qcow2, Unreadable
from pykrun.errors import UsageError
from pykrun.machine import Disk
from tests.disk import make
from tests.disk.make import MIB


class Opener:
    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, path: Path, format: str = "qcow2") -> Disk:
        disk = open_image(str(path), format=format)
        self._stack.callback(os.close, disk.descriptor)
        return disk


@pytest.fixture
def opened() -> Iterator[Opener]:
    with ExitStack() as stack:
        yield Opener(stack)


def convert(raw: Path, target: Path, *options: str) -> Path:
    make.tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, target)
    return target


@pytest.mark.parametrize("options", [(), ("-o", "compat=0.10"), ("-o", "cluster_size=512"), ("-o", "cluster_size=2M")])
def test_reads_what_qemu_has_written(opened: Opener, tmp_path: Path, options: tuple[str, ...]) -> None:
    raw = make.sparse(tmp_path / "raw", 3 * MIB)
    with open(raw, "r+b") as file:
        for place in (0, 70_000, MIB - 5, 3 * MIB - 100):
            file.seek(place)
            file.write(os.urandom(100))
    disk = opened(convert(raw, tmp_path / "image", *options))
    assert disk.size == 3 * MIB
    image = Qcow2(disk.descriptor, disk.path)
    content = raw.read_bytes()
    assert image.read(0, 3 * MIB) == content
    for place in (0, 511, 69_990, MIB - 10, 3 * MIB - 50):
        assert image.read(place, 120) == content[place : place + 120]


def test_finds_the_file_system(opened: Opener, tmp_path: Path) -> None:
    raw = make.file_system(tmp_path / "raw", "btrfs")
    assert file_system(opened(convert(raw, tmp_path / "image"))) == "btrfs"
    assert file_system(opened(convert(raw, tmp_path / "compressed", "-c"))) is None
    assert file_system(opened(convert(raw, tmp_path / "extended", "-o", "extended_l2=on,cluster_size=128k"))) is None


def refusal(path: Path, format: str = "qcow2") -> str:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UsageError) as caught:
        open_image(str(path), format=format)
    assert len(os.listdir("/proc/self/fd")) == before
    return str(caught.value)


def test_images_that_need_other_files_are_refused(tmp_path: Path) -> None:
    """The header of an image names them: a guest's or a stranger's image could name any file of the host."""
    base = make.sparse(tmp_path / "base", MIB)
    make.tool("qemu-img", "create", "-f", "qcow2", "-F", "raw", "-b", base, tmp_path / "overlay")
    assert "needs another file" in refusal(tmp_path / "overlay")
    make.tool("qemu-img", "create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", tmp_path / "split", "1M")
    assert "needs another file" in refusal(tmp_path / "split")


def test_encrypted_images_are_refused(tmp_path: Path) -> None:
    options = ["--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"]
    make.tool("qemu-img", "create", "-f", "qcow2", *options, tmp_path / "image", "1M")
    assert "is encrypted" in refusal(tmp_path / "image")


def test_what_is_no_qcow2(tmp_path: Path) -> None:
    raw = make.sparse(tmp_path / "raw", MIB)
    assert "is no qcow2 image" in refusal(raw)
    (tmp_path / "short").write_bytes(b"QFI\xfb")
    assert "not known here" in refusal(tmp_path / "short")
    (tmp_path / "future").write_bytes(b"QFI\xfb\0\0\0\4".ljust(512, b"\0"))
    assert "not known here" in refusal(tmp_path / "future")


def test_a_raw_disk_that_looks_like_qcow2_is_doubted(opened: Opener, tmp_path: Path) -> None:
    """Formats are never guessed, since a guest may write what it likes to a raw disk; the user may have forgotten."""
    image = convert(make.sparse(tmp_path / "raw", MIB), tmp_path / "image")
    assert "it looks like --disk-format qcow2" in refusal(image, "raw")  # by chance its size is no raw disk's
    os.truncate(image, 256 * 1024)
    disk = opened(image, "raw")
    assert disk.size == image.stat().st_size
    assert "--disk-format qcow2" in doubts(disk)
    assert doubts(opened(tmp_path / "raw", "raw")) == ""


def header(bits: int, size: int, entries: int, table: int) -> bytes:
    words = [b"QFI\xfb", (3).to_bytes(4, "big"), bytes(12), bits.to_bytes(4, "big"), size.to_bytes(8, "big"), bytes(4)]
    return b"".join([*words, entries.to_bytes(4, "big"), table.to_bytes(8, "big")]).ljust(512, b"\0")


@given(
    st.sampled_from((9, 12, 16, 21)),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.sampled_from((0, 512, 1024, 4096, 2**62, 2**64 - 8)),
    st.lists(st.sampled_from((0, 1, 512, 1 << 62, 1 << 63 | 512, 2**64 - 1)), min_size=64, max_size=64),
    st.integers(0, 2**64),
)
def test_any_image(bits: int, size: int, entries: int, table: int, words: list[int], offset: int) -> None:
    fd = os.memfd_create("image")
    try:
        os.write(fd, header(bits, size, entries, table) + b"".join(word.to_bytes(8, "big") for word in words))
        try:
            content = Qcow2(fd, "image").read(offset, 4096)
        except Unreadable:
            return
        assert len(content) <= 4096
    finally:
        os.close(fd)
