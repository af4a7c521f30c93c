"""The kernel inside a kernel image that unpacks itself, or has to be unpacked.

On x86 QEMU can boot an ELF vmlinux that carries a PVH note directly. Under emulation that saves the kernel's own,
emulated decompression: half a second of a boot. On aarch64 QEMU before 9 boots an Image only as it is or as a gzip.

Layouts: Documentation/arch/x86/boot.rst, "payload_offset"; Documentation/arch/arm64/booting.rst; the EFI image that
unpacks itself: drivers/firmware/efi/libstub/zboot-header.S.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from pykrun.errors import MissingError
from pykrun.host.cache import cache_directory, stamp, write_atomic

_LIMIT = 512 << 20  # of an unpacked kernel


def is_bzimage(data: bytes) -> bool:
    """Whether this is how a bzImage begins, x86's own format."""
    return data[0x202:0x206] == b"HdrS"


def is_arm64_image(data: bytes) -> bool:
    """Whether this is how an Image of aarch64 begins, not packed."""
    return data[0x38:0x3C] == b"ARM\x64"


def check_regular(image: Path) -> None:
    """Refuse what may have no end: opening a FIFO waits for a writer.

    :raise MissingError: it is no regular file.
    :raise OSError: it is not there.
    """
    if not stat.S_ISREG(os.stat(image).st_mode):
        raise MissingError(f"cannot read the kernel {image}: not a regular file", "copy it to one")


def uncompressed(image: Path) -> Path:
    """Return a kernel that QEMU boots without decompressing it: `image` itself if it is not packed, else a cached copy.

    `image` is returned as it is, too, when its compression needs a library or program that is not installed.

    :raise MissingError: `image` cannot be read, or is no regular file.
    """
    try:
        kept = cache_directory() / "kernels" / f"vmlinux-{stamp(image)}"
        if kept.exists():
            return kept
        check_regular(image)
        with open(image, "rb") as file:
            head = file.read(64)
            if head.startswith(b"\x7fELF") or is_arm64_image(head):
                return image
            file.seek(0)
            packed = file.read()
    except OSError as error:
        raise MissingError(f"{error.filename}: {error.strerror}") from None
    unpacked = unpack(packed)
    if unpacked is None:
        return image
    try:
        write_atomic(kept, (unpacked,))
    except OSError:
        return image
    return kept


def unpack(image: bytes) -> bytes | None:
    """Return the ELF vmlinux or the Image in an image; None when it is not packed, or not to be unpacked here."""
    payload = _payload(image)
    for magic, decompress in _FORMATS.items():
        if payload.startswith(magic):
            try:
                data = decompress(payload)
            except Exception:  # each library has errors of its own: the image boots as it is, only slower
                return None
            return data if data.startswith(b"\x7fELF") or is_arm64_image(data) else None
    return None


def _payload(image: bytes) -> bytes:
    """What is compressed."""
    if is_bzimage(image):
        setup_sectors = image[0x1F1] or 4
        start = (setup_sectors + 1) * 512 + int.from_bytes(image[0x248:0x24C], "little")
        return image[start : start + int.from_bytes(image[0x24C:0x250], "little")]
    if image[:2] == b"MZ" and image[4:8] == b"zimg":
        start, size = (int.from_bytes(image[at : at + 4], "little") for at in (8, 12))
        return image[start : start + size]
    return image


def _gzip(payload: bytes) -> bytes:
    import zlib

    return zlib.decompressobj(31).decompress(payload, _LIMIT)


def _xz(payload: bytes) -> bytes:
    import lzma

    return lzma.LZMADecompressor().decompress(payload, _LIMIT)


def _zstd(payload: bytes) -> bytes:
    """By the program: the frame does not say its size, which the library's simple call would need."""
    import subprocess

    # It complains about the size that follows the frame, after having written everything.
    return subprocess.run(
        ("zstd", "-dcq"), input=payload, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60
    ).stdout


def _lz4(payload: bytes) -> bytes:
    """LZ4's legacy frame: a magic, then blocks of (size u32, data), each of at most 8 MiB unpacked.

    By liblz4, which is wherever systemd is.
    """
    import ctypes

    decompress = ctypes.CDLL("liblz4.so.1").LZ4_decompress_safe
    room = ctypes.create_string_buffer(8 << 20)
    out = bytearray()
    offset = 4
    while offset + 8 <= len(payload):  # the last four bytes are the unpacked size, which the kernel's build appends
        size = int.from_bytes(payload[offset : offset + 4], "little")
        block = payload[offset + 4 : offset + 4 + size]
        length = decompress(block, room, len(block), len(room))
        if length < 0 or len(out) + length > _LIMIT:
            raise OSError("damaged LZ4 block")
        out += memoryview(room)[:length]
        offset += 4 + size
    return bytes(out)


_FORMATS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": _gzip,
    b"\xfd7zXZ\0": _xz,
    b"\x28\xb5\x2f\xfd": _zstd,
    b"\x02\x21\x4c\x18": _lz4,
}
