"""The guest's kernel and firmware."""

from __future__ import annotations

import errno
import os

from pykrun.krun.calls import Refusal, Text, call, number, optional_text, text, unsupported
from pykrun.krun.context import KernelSpec, find

RAW, ELF, PE_GZ, IMAGE_BZ2, IMAGE_GZ, IMAGE_ZSTD = range(6)
FORMATS = ("raw", "ELF", "PE, gzip", "Image, bzip2", "Image, gzip", "Image, zstd")


@call
def krun_set_kernel(ctx_id: int, kernel_path: Text, kernel_format: int, initramfs: Text, cmdline: Text) -> int:
    """Boot a kernel of the caller's. The files are opened now.

    What the image is decides its content, not `kernel_format`: a User Mode Linux executable runs on that engine,
    anything else on QEMU.

    :param kernel_format: 0 raw, 1 ELF, 2 PE with a gzip payload, 3 to 5 Image with bzip2, gzip, zstd.
    :param initramfs: an initramfs, or NULL.
    :param cmdline: replaces the fixed part of the kernel's command line, init= included; NULL leaves that.
    :return: 0; -EINVAL: NULL, no UTF-8 text, another format, a file that cannot be opened; -ENOENT: no such context.
    """
    path = text("kernel_path", kernel_path)
    kind = number("kernel_format", kernel_format)
    if kind >= len(FORMATS):
        raise Refusal(errno.EINVAL, f"there is no kernel format {kind}")
    initrd, words = optional_text("initramfs", initramfs), optional_text("cmdline", cmdline)
    image, archive = _open("kernel", path), -1
    try:
        archive = -1 if initrd is None else _open("initramfs", initrd)
        context = find(ctx_id)
    except BaseException:
        _close(image, archive)
        raise
    if context.kernel is not None:
        _close(context.kernel.image, context.kernel.initramfs)
    context.kernel = KernelSpec(
        path=path, image=image, format=kind, initramfs_path=initrd, initramfs=archive, cmdline=words
    )
    return 0


@call
def krun_set_firmware(ctx_id: int, firmware_path: Text) -> int:
    """Boot a firmware. Not supported: neither engine boots one here, but kernels directly (`krun_set_kernel`).

    :return: -EINVAL: NULL, no UTF-8 text, a file that cannot be opened; -ENOENT: no such context; else -ENOTSUP.
    """
    path = text("firmware_path", firmware_path)
    _close(_open("firmware", path))
    find(ctx_id)
    return unsupported("krun_set_firmware", "the engines boot kernels directly (krun_set_kernel)")


def _open(what: str, path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Refusal(errno.EINVAL, f"{what} {path!r}: {error.strerror}") from None


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)
