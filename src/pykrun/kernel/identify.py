"""Which kernel a file is: its release and the machine that it runs on, from its own bytes.

An ELF is a kernel for x86_64 (`vmlinux`, `linux.uml`); the others are those of `pykrun.kernel.image`.
"""

from __future__ import annotations

from pathlib import Path

from pykrun.errors import MissingError
from pykrun.host.cache import cache_directory, stamp, write_atomic
from pykrun.kernel.image import check_regular, is_arm64_image, is_bzimage, unpack
from pykrun.record import record

_BANNER = b"Linux version "
_EM_AARCH64 = 183


@record(frozen=True, slots=True)
class Identity:
    """A kernel's release, as `uname -r` prints it, and its machine, as `uname -m` does."""

    release: str
    arch: str


def identify(image: Path) -> Identity:
    """Look at a kernel file; the answer is kept in the cache directory.

    :raise MissingError: it cannot be read, or is no kernel that pykrun knows how to boot.
    """
    try:
        kept = cache_directory() / "releases" / f"{stamp(image)}.txt"
        try:
            return Identity(*kept.read_text().split())
        except (OSError, TypeError):
            pass
        check_regular(image)
        data = image.read_bytes()
    except OSError as error:
        raise MissingError(f"cannot read the kernel {image}: {error.strerror}") from None
    plain = data if is_bzimage(data) else unpack(data) or data
    arch = _machine(plain)
    release = _release(plain)
    if not arch or not release:
        raise MissingError(
            f"{image} is no Linux kernel for x86_64 or aarch64",
            "name a bzImage, an ELF vmlinux of x86_64, a linux.uml, or an Image of aarch64 (or a gzip of it)",
        )
    try:
        write_atomic(kept, (f"{release} {arch}".encode(),))
    except OSError:
        pass  # no cache: look again next time
    return Identity(release, arch)


def _machine(kernel: bytes) -> str:
    """Empty when there is none that we know.

    An ELF vmlinux of aarch64 is none: QEMU would take it for a program that needs no device tree.
    """
    if kernel[:4] == b"\x7fELF":
        return "" if int.from_bytes(kernel[18:20], "little") == _EM_AARCH64 else "x86_64"
    if is_bzimage(kernel):
        return "x86_64"
    return "aarch64" if is_arm64_image(kernel) else ""


def _release(kernel: bytes) -> str:
    if is_bzimage(kernel):  # boot.rst, "kernel_version"
        start = 0x200 + int.from_bytes(kernel[0x20E:0x210], "little")
        return kernel[start : kernel.index(b"\0", start)].split()[0].decode("ascii", "replace")
    return _in_banner(kernel)


def _in_banner(data: bytes) -> str:
    """The word after "Linux version " in a kernel's bytes; the string stands in format strings too, before a %s."""
    start = 0
    while (start := data.find(_BANNER, start) + len(_BANNER)) >= len(_BANNER):
        word = data[start : start + 128].split(b" ")[0]
        if word[:1].isdigit() and word.isascii():
            return word.decode()
    return ""
