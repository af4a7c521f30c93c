"""Opening an image: a regular file or a block device of the host, checked and locked before a VM is started."""

from __future__ import annotations

import errno
import os
import stat

from pykrun.disk import qcow2, vmdk
from pykrun.disk.lock import lock
from pykrun.errors import UsageError
from pykrun.machine import Disk

SECTOR = 512


def open_image(path: str, *, read_only: bool = False, format: str = "raw", serial: str = "") -> Disk:
    """Open and lock an image; its descriptor is the caller's to close.

    :param format: a member of `pykrun.machine.DISK_FORMATS`; never guessed, as the guest could have written any.
    :raise UsageError: it is not there, no image, may not be used so, or is in use.
    """
    descriptor = _open(path, read_only)
    try:
        if format == "raw":
            size = _size(path, descriptor)
        elif format == "qcow2":
            size = qcow2.Qcow2(descriptor, path).size
        else:
            size = vmdk.Vmdk(descriptor, path, read_only=read_only).size
        if not lock(descriptor, read_only=read_only):
            raise UsageError(
                f"disk {path!r} is in use, by another VM perhaps",
                "only one may use an image that it writes to; add :ro wherever nothing is written",
            )
    except BaseException:
        os.close(descriptor)
        raise
    return Disk(descriptor=descriptor, path=path, size=size, read_only=read_only, format=format, serial=serial)


def doubts(disk: Disk) -> str:
    """Return what is suspicious about an image that was opened; empty when nothing is."""
    if disk.format == "raw" and (seems := _looks_like(disk.descriptor)):
        return f"disk {disk.path!r} looks like a {seems} image, the guest sees it as it is (--disk-format {seems})"
    return ""


def _looks_like(descriptor: int) -> str:
    """Return the format that is not raw; empty for none."""
    beginnings = {qcow2.MAGIC: "qcow2", vmdk.MAGIC: "vmdk"}
    return beginnings.get(os.pread(descriptor, 4, 0), "")


def _open(path: str, read_only: bool) -> int:
    """Open a file or block device, and nothing that opening would do something to."""
    try:
        mode = os.stat(path).st_mode
        _check_kind(path, mode)
        flags = os.O_RDONLY if read_only else os.O_RDWR
        if stat.S_ISBLK(mode) and not read_only:
            flags |= os.O_EXCL  # for a block device: EBUSY while it is mounted or part of something
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"cannot open disk {path!r}: {error.strerror}", _hint(error, read_only)) from None
    except ValueError:
        raise UsageError(f"cannot open disk {path!r}: no file has such a name") from None
    try:
        _check_kind(path, os.fstat(descriptor).st_mode)
    except UsageError:
        os.close(descriptor)
        raise
    return descriptor


def _check_kind(path: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise UsageError(f"disk {path!r} is a directory", "name an image or a block device")
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise UsageError(f"disk {path!r} is neither a file nor a block device")


def _hint(error: OSError, read_only: bool) -> str:
    if error.errno == errno.ENOENT:
        return "`truncate -s 1G FILE` makes an empty disk"
    if error.errno == errno.EBUSY:
        return "this host uses it itself; unmount it, or add :ro"
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM) and not read_only:
        return "add :ro if it may only be read"
    return ""


def _size(path: str, descriptor: int) -> int:
    """Return the bytes that the guest will see."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size == 0:
        raise UsageError(f"disk {path!r} is empty", f"`truncate -s 1G {path}` gives a file a size")
    if size % SECTOR:
        seems = _looks_like(descriptor)
        raise UsageError(
            f"disk {path!r} has {size} bytes, which is no multiple of {SECTOR}",
            f"it looks like --disk-format {seems}"
            if seems
            else f"`truncate -s %{SECTOR} {path}` fills it up with zeros",
        )
    return size
