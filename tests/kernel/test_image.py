"""Kernel images of each kind, made here: what is in them, and what they are for."""

from __future__ import annotations

import ctypes
import gzip
import lzma
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pykrun.errors import MissingError
from pykrun.kernel import find
from pykrun.kernel.identify import Identity, identify
from pykrun.kernel.image import uncompressed, unpack

KERNEL = b"\x7fELF" + bytes(range(256)) * 40_000  # more than one LZ4 block


def bzimage(payload: bytes, setup_sectors: int = 4) -> bytes:
    """Documentation/arch/x86/boot.rst: a setup header, then the protected-mode part with the payload in it."""
    head = bytearray((setup_sectors + 1) * 512)
    head[0x1F1] = setup_sectors
    head[0x202:0x206] = b"HdrS"
    release = b"6.1.0-test (somebody@somewhere) #1\0"
    head[0x20E:0x210] = (0x300 - 0x200).to_bytes(2, "little")
    head[0x300 : 0x300 + len(release)] = release
    offset = 128
    head[0x248:0x24C] = offset.to_bytes(4, "little")
    head[0x24C:0x250] = len(payload).to_bytes(4, "little")
    return bytes(head) + bytes(offset) + payload + b"after"


def size_follows(data: bytes) -> bytes:
    return data + len(KERNEL).to_bytes(4, "little")


def lz4_legacy(data: bytes) -> bytes:
    library = ctypes.CDLL("liblz4.so.1")
    out = b"\x02\x21\x4c\x18"
    for start in range(0, len(data), 8 << 20):
        block = data[start : start + (8 << 20)]
        room = ctypes.create_string_buffer(library.LZ4_compressBound(len(block)))
        length = library.LZ4_compress_default(block, room, len(block), len(room))
        out += length.to_bytes(4, "little") + room.raw[:length]
    return out


def zstd(data: bytes) -> bytes:
    if shutil.which("zstd") is None:
        pytest.skip("no zstd")
    return subprocess.run(["zstd", "-1q"], input=data, stdout=subprocess.PIPE, check=True, timeout=60).stdout


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, lz4_legacy, zstd])
def test_each_compression(pack: Callable[[bytes], bytes]) -> None:
    assert unpack(bzimage(size_follows(pack(KERNEL)))) == KERNEL


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"\x7fELF" + bytes(4096),
        bzimage(b"unknown compression"),
        bzimage(b"\x1f\x8b damaged"),
        bzimage(b"\xfd7zXZ\0 damaged"),
        bzimage(b"\x02\x21\x4c\x18\xff\xff\xff\xff damaged"),
        bzimage(gzip.compress(b"no ELF")),
    ],
)
def test_what_cannot_be_unpacked_is_left_as_it_is(image: bytes) -> None:
    assert unpack(image) is None


def test_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image = tmp_path / "vmlinuz"
    image.write_bytes(bzimage(size_follows(gzip.compress(KERNEL))))
    first = uncompressed(image)
    assert first.read_bytes() == KERNEL
    assert first.stat().st_mode & 0o777 == 0o644, "an engine without rights has to read it"
    assert uncompressed(image) == first
    image.write_bytes(b"\x7fELF and more")
    assert uncompressed(image) == image
    with pytest.raises(MissingError):
        uncompressed(tmp_path / "none")


def elf(machine: int) -> bytes:
    return b"\x7fELF\x02\x01" + bytes(12) + machine.to_bytes(2, "little") + bytes(44)


def arm64_image() -> bytes:
    """Documentation/arch/arm64/booting.rst: 64 bytes of header, the magic last but one."""
    return bytes(0x38) + b"ARM\x64" + bytes(4) + b"Linux version %s (%s)\0Linux version 6.7.8-own (who@where) #1\0"


def zboot(payload: bytes) -> bytes:
    """drivers/firmware/efi/libstub/zboot-header.S: two magics, offset and size of the payload, its compression."""
    return b"MZ\0\0zimg" + (64).to_bytes(4, "little") + len(payload).to_bytes(4, "little") + bytes(48) + payload


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (bzimage(b""), Identity("6.1.0-test", "x86_64")),
        (elf(62) + arm64_image()[0x40:], Identity("6.7.8-own", "x86_64")),
        (arm64_image(), Identity("6.7.8-own", "aarch64")),
        (gzip.compress(arm64_image()), Identity("6.7.8-own", "aarch64")),
        (zboot(lzma.compress(arm64_image())), Identity("6.7.8-own", "aarch64")),
    ],
    ids=["bzImage", "vmlinux", "Image", "Image.gz", "EFI"],
)
def test_kernels_are_known_by_their_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: bytes, expected: Identity
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "kernel"
    file.write_bytes(image)
    assert identify(file) == identify(file) == expected
    found = find.for_image(file)
    assert (found.release, found.arch) == (expected.release, expected.arch)


@pytest.mark.parametrize(
    "image",
    [b"", b"not a kernel", arm64_image()[:0x40], elf(183) + arm64_image()[0x40:], gzip.compress(elf(62)), zboot(b"MZ")],
    ids=["empty", "text", "no release", "vmlinux of aarch64", "packed ELF", "EFI without a kernel"],
)
def test_what_is_no_kernel_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: bytes) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "kernel"
    file.write_bytes(image)
    with pytest.raises(MissingError, match="no Linux kernel"):
        identify(file)


@pytest.mark.parametrize("pack", [gzip.compress, lambda image: zboot(gzip.compress(image))], ids=["gzip", "EFI"])
def test_an_image_of_aarch64_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "vmlinuz"
    file.write_bytes(pack(arm64_image()))
    assert uncompressed(file).read_bytes() == arm64_image()
    file.write_bytes(arm64_image())
    assert uncompressed(file) == file


def test_kernels_of_other_machines_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    other = "aarch64" if find.MACHINE == "x86_64" else "x86_64"
    assert find.for_qemu(other) is None, "the host's own kernels are of no use"
    folder = find.unpacked_kernels(other) / "package"
    assert folder.parent != find.unpacked_kernels()
    (folder / "boot").mkdir(parents=True)
    (folder / "boot/vmlinuz-6.1.0-test").touch()
    (folder / "lib/modules/6.1.0-test/kernel").mkdir(parents=True)
    kernel = find.for_qemu(other)
    assert kernel is not None
    assert (kernel.release, kernel.arch, kernel.modules) == ("6.1.0-test", other, folder / "lib/modules/6.1.0-test")


def test_modules_of_a_kernel_are_found_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "boot").mkdir()
    image = tmp_path / "boot/vmlinuz-6.1.0-test"
    image.write_bytes(bzimage(b""))
    assert find.for_image(image).modules is None, "without modules everything counts as built in"
    (tmp_path / "lib/modules/6.1.0-test/kernel").mkdir(parents=True)
    assert find.for_image(image).modules == tmp_path / "lib/modules/6.1.0-test"
    own = tmp_path / "own"
    own.mkdir()
    assert find.for_image(image, own).modules == own
    with pytest.raises(MissingError, match="no folder"):
        find.for_image(image, tmp_path / "nowhere")
