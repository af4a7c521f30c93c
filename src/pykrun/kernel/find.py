"""Where kernels are: User Mode Linux's program, the unpacked cloud kernel in the cache, the host's own."""

from __future__ import annotations

import os
from pathlib import Path

from pykrun.errors import MissingError
from pykrun.host.cache import cache_directory, stamp, write_atomic
from pykrun.machine import Kernel

UML_MODULES = Path("/usr/lib/uml/modules")
_BANNER = b"Linux version "


def unpacked_kernels() -> Path:
    """Return the cache folder below which `python -m pykrun.kernel` unpacks kernel packages."""
    return cache_directory() / "kernels"


def for_image(image: Path, modules: Path | None = None) -> Kernel:
    """Describe a kernel that the caller names.

    :param modules: its modules folder; None looks for it at the usual places by the kernel's release, and takes
        everything as built in when it is not there.
    :raise MissingError: a file is not there, or is no kernel.
    """
    if modules is not None and not modules.is_dir():
        raise MissingError(f"{modules} is no folder", "--modules names the folder that holds `kernel/`")
    release = release_of(image)
    return Kernel(image=image, modules=modules or _modules_of(image, release), release=release)


def for_qemu() -> Kernel | None:
    """Return the kernel that QEMU boots when the caller names none, None when there is none."""
    unpacked = unpacked_kernels()
    candidates = list(unpacked.glob("*/boot/vmlinuz-*"))
    own = Path(f"/boot/vmlinuz-{os.uname().release}")
    for image in (*sorted(candidates, key=_version_key, reverse=True), own, *_host_kernels()):
        if os.access(image, os.R_OK):
            release = image.name.removeprefix("vmlinuz-")
            modules = _modules_of(image, release)
            if modules is not None:
                return Kernel(image=image, modules=modules, release=release)
    return None


def release_of(image: Path) -> str:
    """Return the release (as `uname -r` prints it) of a kernel file.

    :raise MissingError: it cannot be read, or is no kernel.
    """
    try:
        kept = cache_directory() / "releases" / stamp(image)
        try:
            return kept.read_text()
        except OSError:
            pass
        data = image.read_bytes()
    except OSError as error:
        raise MissingError(f"cannot read the kernel {image}: {error.strerror}") from None
    if data[0x202:0x206] == b"HdrS":  # boot.rst, "kernel_version"
        start = 0x200 + int.from_bytes(data[0x20E:0x210], "little")
        release = data[start : data.index(b"\0", start)].split()[0].decode("ascii", "replace")
    else:
        release = _release_in_banner(data)
        if not release:
            raise MissingError(f"{image} is no Linux kernel", "name a bzImage, an ELF vmlinux, or a linux.uml")
    try:
        write_atomic(kept, (release.encode(),))
    except OSError:
        pass  # no cache: look again next time
    return release


def _release_in_banner(data: bytes) -> str:
    """The word after "Linux version " in a kernel's bytes; the string stands in format strings too, before a %s."""
    start = 0
    while (start := data.find(_BANNER, start) + len(_BANNER)) >= len(_BANNER):
        word = data[start : start + 128].split(b" ")[0]
        if word[:1].isdigit() and word.isascii():
            return word.decode()
    return ""


def _modules_of(image: Path, release: str) -> Path | None:
    """The modules folder of a release: beside the image, where packages put it, or on the host."""
    beside = image.resolve().parent.parent
    for base in (beside / "lib/modules", UML_MODULES, Path("/lib/modules"), Path("/usr/lib/modules")):
        folder = base / release
        if (folder / "kernel").is_dir():
            return folder
    return None


def _host_kernels() -> list[Path]:
    return sorted(Path("/boot").glob("vmlinuz-*"), key=_version_key, reverse=True)


def _version_key(path: Path) -> list[int]:
    digits = "".join(letter if letter.isdigit() else " " for letter in path.name)
    return [int(word) for word in digits.split()]
