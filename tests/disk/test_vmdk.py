"""VMDK images as far as the host reads them itself, and those that it does not take."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykrun.disk import doubts, file_system, open_image
from pykrun.disk.qcow2 import Unreadable
from pykrun.disk.vmdk import Vmdk
from pykrun.errors import UsageError
from pykrun.machine import Disk
from tests.disk import make
from tests.disk.make import MIB

Opened = Callable[..., Disk]


@pytest.fixture
def opened() -> Iterator[Opened]:
    with ExitStack() as stack:

        def open_(path: Path, *, read_only: bool = False, format: str = "vmdk") -> Disk:
            disk = open_image(str(path), read_only=read_only, format=format)
            stack.callback(os.close, disk.descriptor)
            return disk

        yield open_


def convert(raw: Path, target: Path, kind: str = "monolithicSparse") -> Path:
    make.tool("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={kind}", raw, target)
    return target


def refusal(path: Path, *, read_only: bool = True) -> str:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UsageError) as caught:
        open_image(str(path), format="vmdk", read_only=read_only)
    assert len(os.listdir("/proc/self/fd")) == before
    return str(caught.value)


def test_reads_what_qemu_has_written(opened: Opened, tmp_path: Path) -> None:
    raw = make.sparse(tmp_path / "raw", 40 * MIB)
    with open(raw, "r+b") as file:
        for place in (0, 70_000, 33 * MIB - 5, 40 * MIB - 100):
            file.seek(place)
            file.write(os.urandom(100))
    disk = opened(convert(raw, tmp_path / "image"))
    assert (disk.size, disk.format) == (40 * MIB, "vmdk")
    image = Vmdk(disk.descriptor, disk.path, read_only=False)
    content = raw.read_bytes()
    for place, size in ((0, MIB), (511, 120), (69_990, 120), (33 * MIB - 50, 200), (40 * MIB - 50, 120)):
        assert image.read(place, size) == content[place : place + size]


def test_finds_the_file_system(opened: Opened, tmp_path: Path) -> None:
    raw = make.file_system(tmp_path / "raw", "ext4")
    assert file_system(opened(convert(raw, tmp_path / "image"))) == "ext4"
    assert file_system(opened(convert(raw, tmp_path / "stream", "streamOptimized"), read_only=True)) is None


def test_a_stream_can_only_be_read(opened: Opened, tmp_path: Path) -> None:
    image = convert(make.sparse(tmp_path / "raw", MIB), tmp_path / "image", "streamOptimized")
    assert "can only be read (add :ro" in refusal(image, read_only=False)
    assert opened(image, read_only=True).size == MIB


@pytest.mark.parametrize("kind", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_images_of_several_files_are_refused(tmp_path: Path, kind: str) -> None:
    """A descriptor names them: a stranger's could name any file of the host."""
    assert "needs other files that it names" in refusal(
        convert(make.sparse(tmp_path / "raw", MIB), tmp_path / "i", kind)
    )


def test_an_image_over_another_one_is_refused(tmp_path: Path) -> None:
    base = convert(make.sparse(tmp_path / "raw", MIB), tmp_path / "base.vmdk")
    make.tool("qemu-img", "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", base, tmp_path / "over.vmdk")
    assert "needs other files" in refusal(tmp_path / "over.vmdk")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'SPARSE "', b'FLAT  "/', "needs other files"),
        (b"version=1\n", b"RW 1 FLAT ", "needs other files"),
        (b'"monolithicSparse"', b'"vmfsSparse"      ', "needs other files"),
        (b"parentCID=ffffffff", b"parentCID=fffffff0", "needs other files"),
        (b"ddb.virtualHWVersion", b"parentFileNameHint =", "needs other files"),
        (b"KDMV\x01", b"KDMV\x04", "not known here"),
        (b"\n \r\n", b"\n \n\n", "not known here"),
        (b"KDMV", b"COWD", "is no vmdk image"),
    ],
)
def test_what_is_in_the_header(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    image = convert(make.sparse(tmp_path / "raw", MIB), tmp_path / "image")
    content = image.read_bytes()
    assert content.count(old) == 1
    assert len(old) == len(new)
    image.write_bytes(content.replace(old, new))
    assert message in refusal(image)


def test_what_is_no_vmdk(tmp_path: Path) -> None:
    assert "is no vmdk image" in refusal(make.sparse(tmp_path / "raw", MIB))
    (tmp_path / "short").write_bytes(b"KDMV")
    assert "not known here" in refusal(tmp_path / "short")


def test_a_raw_disk_that_looks_like_vmdk_is_doubted(opened: Opened, tmp_path: Path) -> None:
    image = convert(make.sparse(tmp_path / "raw", MIB), tmp_path / "image")
    os.truncate(image, 256 * 1024)
    assert "--disk-format vmdk" in doubts(opened(image, format="raw"))


@given(
    st.integers(0, 2**64 - 1),
    st.sampled_from((0, 1, 8, 128, 1 << 17, 2**63)),
    st.sampled_from((0, 1, 7, 512, 2**32 - 1)),
    st.sampled_from((0, 1, 21, 26, 2**62, 2**64 - 1)),
    st.lists(st.sampled_from((0, 1, 2, 40, 2**32 - 1)), min_size=128, max_size=128),
    st.integers(0, 2**64),
)
def test_any_image(capacity: int, grain: int, entries: int, directory: int, words: list[int], offset: int) -> None:
    def little(value: int, size: int) -> bytes:
        return value.to_bytes(size, "little")

    head = [b"KDMV", little(1, 4), little(3, 4), little(capacity, 8), little(grain, 8), little(1, 8), little(20, 8)]
    head += [little(entries, 4), little(0, 8), little(directory, 8), little(0, 8), b"\0\n \r\n\0\0"]
    text = b'parentCID=ffffffff\ncreateType="monolithicSparse"\nRW 1 SPARSE "x"\n'
    fd = os.memfd_create("image")
    try:
        os.write(fd, b"".join(head).ljust(512, b"\0") + text.ljust(20 * 512, b"\0"))
        os.write(fd, b"".join(little(word, 4) for word in words))
        try:
            content = Vmdk(fd, "image", read_only=True).read(offset, 4096)
        except (Unreadable, UsageError):
            return
        assert len(content) <= 4096
    finally:
        os.close(fd)
