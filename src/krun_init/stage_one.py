"""Stage one: the same program as `/init` of an initramfs, for kernels that have their drivers as modules.

It loads the modules, makes the virtio-fs root the root, and goes on as init. The initramfs is emptied on the way: its
files are memory that the workload could use.
"""

from __future__ import annotations

import errno
import posix

from krun_init import _linux, mounts
from krun_init.errors import InitError, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from krun_init.log import Log
    from krun_init.places import Places
    from krun_init.trace import Trace

ROOT_TAG = "/dev/root"
_SELF = "/init"
_TARGET = "/mnt"


def enter_root(argv: list[str], environ: Mapping[bytes, bytes], places: Places, log: Log, trace: Trace) -> None:
    """Enter the virtio-fs root; does nothing unless this is the `/init` of our own initramfs.

    :raise InitError: there is no such root.
    """
    if argv[:1] != [_SELF]:
        return
    try:
        names = posix.listdir(places.modules)
    except FileNotFoundError:
        return
    _silence_hotplug(places)
    for name in sorted(names):
        _load(f"{places.modules}/{name}", log)
        trace.mark(name)
    posix.rmdir(places.modules)
    _mount_root(places)
    trace.mark("virtio-fs root mounted")
    posix.unlink(_SELF)
    posix.chdir(_TARGET)
    _linux.mount(".", "/", None, mounts.MOVE)
    posix.chroot(".")
    posix.chdir("/")
    if environ.get(b"KRUN_STAGE1") == b"exec":
        _execute_init(argv, environ, places)
    _consume_init(places)


def _silence_hotplug(places: Places) -> None:
    """Stop the kernel from forking a helper for each device that appears, where it was configured to.

    User Mode Linux from Debian is; an attempt takes 0.4 ms there, and would later run a program of the root's.
    """
    try:
        posix.mkdir("/sys", 0o755)
        _linux.mount("sysfs", "/sys", "sysfs")
        fd = posix.open(places.uevent_helper, posix.O_WRONLY | posix.O_CLOEXEC)
    except OSError:
        return
    posix.write(fd, b"\n")
    posix.close(fd)


def _load(path: str, log: Log) -> None:
    """Load a module and free its file. A module that is not needed after all may fail: mounting will tell."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    posix.unlink(path)
    try:
        _linux.finit_module(fd)
    except OSError as error:
        if error.errno != errno.EEXIST:
            log.warn(f"kernel module {path}: {reason_of(error)}")
    finally:
        posix.close(fd)


def _mount_root(places: Places) -> None:
    try:
        posix.mkdir(_TARGET, 0o755)
    except FileExistsError:
        pass
    try:
        mounts.virtiofs(ROOT_TAG, _TARGET, 0, places.patience)
    except OSError as error:
        raise InitError(f"cannot mount the virtio-fs root, tag {ROOT_TAG}: {reason_of(error)}") from None


def _execute_init(argv: list[str], environ: Mapping[bytes, bytes], places: Places) -> None:
    try:
        posix.execve(places.init, [places.init, *argv[1:]], dict(environ))
    except OSError as error:
        raise InitError(f"cannot execute {places.init}: {reason_of(error)}") from None


def _consume_init(places: Places) -> None:
    """Our own file may be one-shot: what is open once is gone, as if the kernel had executed it."""
    try:
        posix.close(posix.open(places.init, posix.O_RDONLY | posix.O_CLOEXEC))
    except OSError:
        pass
