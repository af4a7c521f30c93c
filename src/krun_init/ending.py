"""The end: everything stopped, synced, reported; then the reboot. Nothing here may fail."""

from __future__ import annotations

import fcntl
import posix

from krun_init import _linux, files, mounts, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from krun_init.blockroot import FirstRoot
    from krun_init.control import Control
    from krun_init.errors import Ending
    from krun_init.log import Log
    from krun_init.places import Places

_VIRTIOFS = 0x65735546  # uapi/linux/magic.h, FUSE_SUPER_MAGIC
_REPORT_EXIT_CODE = 0x7602
_AUTOBOOT = 0x01234567  # uapi/linux/reboot.h

# Sources of the mount table that are no disks.
_NO_DISK = ("devtmpfs", "virtiofs")


def end(ending: Ending, control: Control | None, places: Places, log: Log, first_root: FirstRoot) -> NoReturn:
    """Stop what still runs, sync, report, reboot.

    :param first_root: what to report to, if a block device has taken its place as the root.
    """
    try:
        processes.end_all()
        posix.sync()
        detach_disks(places, log)
        report(ending.code, first_root.descriptor)
        if control is not None:
            control.finish(ending)
    finally:
        reboot(ending.code)


def reboot(code: int) -> NoReturn:
    """Reboot; where that is not possible, end with the code, which makes the kernel panic."""
    try:
        _linux.reboot(_AUTOBOOT)
    finally:
        posix._exit(code)


def detach_disks(places: Places, log: Log) -> None:
    """Remount the file systems of block devices read-only, so that they are clean. The others have nothing to lose.

    The last mounted comes first: what holds a file of another one open, a loop device say, has to go before it. So has
    swap, which the kernel holds open for writing.
    """
    _stop_swapping(places)
    try:
        table = str(files.read(places.mount_table), "utf-8", "surrogateescape").split("\n")
    except OSError:
        return
    for line in reversed(table):
        if not line.startswith("/dev/"):
            continue
        _source, target, kind, flags = line.split(" ")[:4]
        if kind in _NO_DISK or not flags.startswith("rw"):
            continue
        place = mounts.unescape(target)
        try:
            _linux.mount(None, place, None, mounts.REMOUNT | mounts.RDONLY)
            if _source.startswith("/dev/loop"):
                _linux.umount(place)  # and with it the file behind it is let go of
        except OSError as error:
            log.warn(f"cannot remount {target} read-only: {error.strerror}")


def _stop_swapping(places: Places) -> None:
    try:
        lines = str(files.read(places.swaps), "utf-8", "surrogateescape").split("\n")[1:]
    except OSError:
        return  # a kernel without
    for line in lines:
        if line:
            try:
                _linux.swapoff(mounts.unescape(line.split(" ")[0]))
            except OSError:
                pass  # no memory for what is in it: the remount tells


def report(code: int, first_root: int) -> None:
    """Tell the exit code to the virtio-fs server of the root, or of the one that was the root first."""
    try:
        root = first_root
        if root < 0:
            root = posix.open("/", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
        if _linux.filesystem_type(root) == _VIRTIOFS:
            fcntl.ioctl(root, _REPORT_EXIT_CODE, code)
    except OSError:
        pass
