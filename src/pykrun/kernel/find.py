"""Where kernels are: User Mode Linux's program, the unpacked cloud kernel in the cache, the host's own."""

from __future__ import annotations

import os
from pathlib import Path

from pykrun.errors import MissingError
from pykrun.host.cache import cache_directory
from pykrun.host.numbers import MACHINE
from pykrun.kernel.identify import identify
from pykrun.machine import Kernel

UML_MODULES = Path("/usr/lib/uml/modules")


def unpacked_kernels(arch: str = MACHINE) -> Path:
    """Return the cache folder below which `python -m pykrun.kernel` unpacks kernel packages of a machine."""
    return cache_directory() / ("kernels" if arch == MACHINE else f"kernels-{arch}")


def for_image(image: Path, modules: Path | None = None) -> Kernel:
    """Describe a kernel that the caller names.

    :param modules: its modules folder; None looks for it at the usual places by the kernel's release, and takes
        everything as built in when it is not there.
    :raise MissingError: a file is not there, or is no kernel.
    """
    if modules is not None and not modules.is_dir():
        raise MissingError(f"{modules} is no folder", "--modules names the folder that holds `kernel/`")
    found = identify(image)
    folder = modules or _modules_of(image, found.release)
    return Kernel(image=image, modules=folder, release=found.release, arch=found.arch)


def for_qemu(arch: str = MACHINE) -> Kernel | None:
    """Return the kernel that QEMU boots when the caller names none, None when there is none.

    :param arch: the guest's machine; the host's own kernels are only for its own.
    """
    unpacked = unpacked_kernels(arch)
    try:
        candidates = sorted(unpacked.glob("*/boot/vmlinuz-*"), key=_version_key, reverse=True)
    except OSError:  # a cache that is not ours to read
        candidates = []
    if arch == MACHINE:
        candidates += [Path(f"/boot/vmlinuz-{os.uname().release}"), *_host_kernels()]
    for image in candidates:
        if os.access(image, os.R_OK):
            release = image.name.removeprefix("vmlinuz-")
            modules = _modules_of(image, release)
            if modules is not None:
                return Kernel(image=image, modules=modules, release=release, arch=arch)
    return None


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
