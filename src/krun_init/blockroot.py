"""Block roots: mount a device and make it the root.

Two callers ask for one: the host, by KRUN_BLOCK_ROOT_DEVICE or the start data, and a build for confidential guests
(AMD SEV, Intel TDX), whose root is always /dev/vda. What libkrun loses here is the exit code: it goes to the virtio-fs
server of the first root, so a descriptor of that root is kept.
"""

from __future__ import annotations

import errno
import posix
import time

from krun_init import _linux, files, mounts
from krun_init.errors import InitError, reason_of
from krun_init.start import BlockRoot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from krun_init.log import Log
    from krun_init.places import Places

_TARGET = "/newroot"
_TEE_DEVICE, _TEE_TARGET, _TEE_TYPE = "/dev/vda", "/tmp/vda", "ext4"

_TYPE, _BLOCK_DEVICE = 0o170000, 0o060000  # uapi/linux/stat.h, S_IFMT and S_IFBLK

_WRITE_PROTECTED = (errno.EROFS, errno.EACCES)
"""How mount(2) refuses to mount a read-only device for writing; which one depends on the file system."""
_OTHER_TYPE = (errno.EINVAL, errno.ENODEV, errno.EPERM, errno.ENXIO, errno.ENOTBLK)
"""How a file system says that this is not one of its own, or that it does not live on a disk at all."""


class FirstRoot:
    """The root that the machine began with, once another has taken its place: a descriptor, -1 while none has."""

    __slots__ = ("descriptor",)

    def __init__(self) -> None:
        self.descriptor = -1

    def leave_for(self, target: str) -> None:
        """Make what is mounted on `target` the root.

        :raise OSError: as mount(2) and chroot(2).
        """
        left = posix.open("/", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
        posix.chdir(target)
        _linux.mount(".", "/", None, mounts.MOVE)
        posix.chroot(".")
        posix.chdir("/")
        if self.descriptor < 0:
            self.descriptor = left
        else:  # that one has been left before
            posix.close(left)


def enter(words: Mapping[str, str], asked: BlockRoot | None, first: FirstRoot, places: Places, log: Log) -> None:
    """Go on in the block device's file system, if one was asked for.

    :param asked: by the start data, which wins over the words of the kernel command line.
    :raise InitError: the device does not appear, or nothing on it can be mounted.
    """
    if asked is None:
        asked = _from_words(words)
        if asked is None:
            return
    device, kind = asked.device, asked.fstype
    if "/" not in device:
        device = "/dev/" + device
    _await_device(device, places)
    _make(_TARGET)
    flags, data = mounts.options([word for word in asked.options.split(",") if word], mounts.RELATIME)
    if kind and kind != "auto":
        _mount_as(device, kind, _TARGET, flags, data, log)
    else:
        _probe(device, _TARGET, flags, data, places, log)
    first.leave_for(_TARGET)
    mounts.standard(places.devices, log)
    for path in asked.directories:
        _make(path)
    for path in asked.files:
        _show(path, first.descriptor)


def _from_words(words: Mapping[str, str]) -> BlockRoot | None:
    device = words.get("KRUN_BLOCK_ROOT_DEVICE")
    if not device:
        return None
    return BlockRoot(device, words.get("KRUN_BLOCK_ROOT_FSTYPE", ""), words.get("KRUN_BLOCK_ROOT_OPTIONS", ""))


def enter_confidential(first: FirstRoot, places: Places, log: Log) -> None:
    """Go on in /dev/vda, as confidential guests do; nothing of the host's file system is looked at after that.

    :raise InitError: see `enter`.
    """
    try:
        posix.stat(_TEE_DEVICE)
    except OSError:  # kernels that do not mount /dev by themselves
        mounts.devices()
    _await_device(_TEE_DEVICE, places)
    _make(_TEE_TARGET)
    _mount_as(_TEE_DEVICE, _TEE_TYPE, _TEE_TARGET, mounts.RELATIME, None, log)
    first.leave_for(_TEE_TARGET)


def _await_device(device: str, places: Places) -> None:
    """Wait until the device is there: its driver or the scan of its partitions may still be busy."""
    deadline = 0.0
    while True:
        try:
            mode = posix.stat(device).st_mode
        except OSError as error:
            now = time.monotonic()
            deadline = deadline or now + places.patience
            if error.errno != errno.ENOENT or now >= deadline:
                raise InitError(f"block root {device}: {reason_of(error)}{_present(places)}") from None
            time.sleep(0.002)
            continue
        if mode & _TYPE != _BLOCK_DEVICE:
            raise InitError(f"block root {device} is no block device")
        return


def _present(places: Places) -> str:
    """What disks and partitions there are instead."""
    try:
        names = sorted(posix.listdir(places.block_devices))
    except OSError:
        names = []
    return f" (there is: {', '.join(names)})" if names else " (there is no disk)"


def _make(target: str) -> None:
    try:
        files.make_directories(target)
    except OSError as error:
        raise InitError(f"block root: {target} is missing and cannot be made: {reason_of(error)}") from None


def _mount_as(device: str, kind: str, target: str, flags: int, data: str | None, log: Log) -> None:
    try:
        _mount(device, kind, target, flags, data, log)
    except OSError as error:
        asked = f", options {data!r}" if data else ""
        raise InitError(f"cannot mount block root {device} as {kind}{asked}: {_meaning(error)}") from None


def _probe(device: str, target: str, flags: int, data: str | None, places: Places, log: Log) -> None:
    """Try every file system that the kernel knows and that lives on disks, in the kernel's order."""
    kinds = list(_disk_types(str(files.read(places.filesystems), "utf-8", "replace").split("\n")))
    for kind in kinds:
        try:
            return _mount(device, kind, target, flags, data, log)
        except OSError as error:
            if error.errno not in _OTHER_TYPE:
                raise InitError(f"cannot mount block root {device} as {kind}: {_meaning(error)}") from None
    asked = f" with options {data!r}" if data else ""
    raise InitError(f"block root {device}: no file system that this kernel knows{asked} (tried {', '.join(kinds)})")


def _disk_types(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        nodev, _, kind = line.partition("\t")
        if kind and nodev != "nodev":
            yield kind


def _mount(device: str, kind: str, target: str, flags: int, data: str | None, log: Log) -> None:
    """mount(2); a write-protected device is mounted read-only, as mount(8) does."""
    try:
        _linux.mount(device, target, kind, flags, data)
    except OSError as error:
        if flags & mounts.RDONLY or error.errno not in _WRITE_PROTECTED:
            raise
        _linux.mount(device, target, kind, flags | mounts.RDONLY, data)
        log.warn(f"block root {device} is write-protected, it is mounted read-only")


def _meaning(error: OSError) -> str:
    if error.errno == errno.EINVAL:
        return "no such file system on it, it is damaged, or an option is wrong"
    if error.errno == errno.ENODEV:
        return "this kernel has no such file system"
    return reason_of(error)


def _show(path: str, left: int) -> None:
    """Let a file of the root that was left appear at the same path of the new one.

    It is a mount: the file keeps its content, its mode, and that it can be read only once.
    """
    try:
        files.make_directories(path.rpartition("/")[0] or "/")
        posix.close(posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o644))
    except FileExistsError:
        pass
    except OSError as error:
        raise InitError(f"block root: {path} cannot be made for a file to be shown there: {reason_of(error)}") from None
    try:
        _linux.mount(f"/proc/self/fd/{left}{path}", path, None, mounts.BIND)
    except OSError as error:
        raise InitError(f"block root: cannot show {path} there: {reason_of(error)}") from None
