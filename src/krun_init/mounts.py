"""File systems: the standard ones, the shared root, tmpfs, volumes."""

from __future__ import annotations

import errno
import posix
import time

from krun_init import _linux, files
from krun_init.errors import InitError, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.log import Log
    from krun_init.places import Places
    from krun_init.start import Tmpfs, Volume

# uapi/linux/mount.h
RDONLY, NOSUID, NODEV, NOEXEC, SYNCHRONOUS, REMOUNT, MANDLOCK, DIRSYNC = 1, 2, 4, 8, 16, 32, 64, 128
NOSYMFOLLOW, NOATIME, NODIRATIME = 256, 1024, 2048
BIND, MOVE, REC, SHARED, RELATIME, STRICTATIME, LAZYTIME = 0x1000, 0x2000, 0x4000, 1 << 20, 1 << 21, 1 << 24, 1 << 25

_CLOSED = NODEV | NOEXEC | NOSUID | RELATIME

# target, type, flags, whether boot may go on without it
_STANDARD = (
    ("/dev", "devtmpfs", RELATIME, True),
    ("/proc", "proc", _CLOSED, True),
    ("/sys", "sysfs", _CLOSED, True),
    ("/sys/fs/cgroup", "cgroup2", _CLOSED, False),
    ("/dev/pts", "devpts", NOEXEC | NOSUID | RELATIME, False),
    ("/dev/shm", "tmpfs", NOEXEC | NOSUID | RELATIME, False),
)

_LINKS = (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"))

# option word -> flags to set, flags to clear; other words are the file system's own
OPTIONS = {
    "defaults": (0, 0),
    "ro": (RDONLY, 0),
    "rw": (0, RDONLY),
    "suid": (0, NOSUID),
    "nosuid": (NOSUID, 0),
    "dev": (0, NODEV),
    "nodev": (NODEV, 0),
    "exec": (0, NOEXEC),
    "noexec": (NOEXEC, 0),
    "sync": (SYNCHRONOUS, 0),
    "async": (0, SYNCHRONOUS),
    "dirsync": (DIRSYNC, 0),
    "mand": (MANDLOCK, 0),
    "nomand": (0, MANDLOCK),
    "symfollow": (0, NOSYMFOLLOW),
    "nosymfollow": (NOSYMFOLLOW, 0),
    "atime": (0, NOATIME),
    "noatime": (NOATIME, RELATIME),
    "diratime": (0, NODIRATIME),
    "nodiratime": (NODIRATIME, 0),
    "relatime": (RELATIME, NOATIME),
    "norelatime": (0, RELATIME),
    "strictatime": (STRICTATIME, RELATIME | NOATIME),
    "nostrictatime": (0, STRICTATIME),
    "lazytime": (LAZYTIME, 0),
    "nolazytime": (0, LAZYTIME),
}
_PROPAGATION = frozenset(("private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"))

# A virtio-fs device that is still being probed: no such tag yet (EINVAL), no such type or device yet.
_NOT_YET = (errno.EINVAL, errno.ENODEV, errno.ENXIO)


def standard(devices: str, log: Log) -> None:
    """Mount what every Linux program expects; in place already is fine.

    :raise InitError: /dev, /proc or /sys cannot be mounted.
    """
    for target, kind, flags, needed in _STANDARD:
        try:
            _mount_at(target, kind, flags)
        except OSError as error:
            text = f"cannot mount {kind} on {target}: {reason_of(error)}"
            if error.errno == errno.EROFS:
                text = f"{target} is missing in a root that cannot be written: make empty /dev, /proc and /sys there"
            if needed:
                raise InitError(text) from None
            log.warn(text)
    for name, target in _LINKS:
        try:
            posix.symlink(target, f"{devices}/{name}")
        except OSError:
            pass
    try:
        posix.chmod(devices + "/kvm", 0o666)
    except OSError:
        pass


def devices() -> None:
    """Mount /dev alone.

    :raise InitError: it cannot be mounted.
    """
    target, kind, flags, _needed = _STANDARD[0]
    try:
        _mount_at(target, kind, flags)
    except OSError as error:
        raise InitError(f"cannot mount {kind} on {target}: {reason_of(error)}") from None


def _mount_at(target: str, kind: str, flags: int) -> None:
    try:
        _linux.mount(kind, target, kind, flags)
    except FileNotFoundError:
        files.make_directories(target)
        _mount_retry(target, kind, flags)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise


def _mount_retry(target: str, kind: str, flags: int) -> None:
    try:
        _linux.mount(kind, target, kind, flags)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise


def share_root() -> None:
    """Make `/` recursively shared, so that mounts reach the workload's own namespaces."""
    try:
        _linux.mount(None, "/", None, REC | SHARED)
    except OSError as error:
        raise InitError(f"cannot make / shared: {reason_of(error)}") from None


def mount_points(table: str) -> set[str]:
    """Every mount point there is, from the mount table alone: a stat would trigger automounts.

    :raise OSError: the table cannot be read.
    """
    lines = str(files.read(table), "utf-8", "surrogateescape").split("\n")
    return {unescape(line.split(" ", 2)[1]) for line in lines if line}


def unescape(field: str) -> str:
    r"""A field of the mount table; blank, tab, newline, hash and backslash stand there as octal, like `\040`."""
    first, *rest = field.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def tmpfs(wanted: list[Tmpfs], places: Places) -> None:
    """Mount each tmpfs whose destination is no mount point yet; make the destination.

    :raise InitError: the kernel refuses one.
    """
    if not wanted:
        return
    taken = mount_points(places.mount_table)
    for one in wanted:
        destination = normalise(one.destination)
        if destination in taken:
            continue
        flags, data = options(one.options, _CLOSED)
        what = f"cannot mount a tmpfs on {destination}"
        _make_destination(destination, what)
        try:
            _linux.mount("tmpfs", destination, "tmpfs", flags, data)
        except OSError as error:
            asked = f" (options {data!r})" if data else ""
            raise InitError(f"{what}: {reason_of(error)}{asked}") from None
        taken.add(destination)


def _make_destination(path: str, what: str) -> None:
    try:
        files.make_directories(path)
    except OSError as error:
        raise InitError(f"{what}: the directory is missing and cannot be made: {reason_of(error)}") from None


def options(words: list[str], flags: int) -> tuple[int, str | None]:
    """Part mount options into flags and the file system's own data."""
    data = []
    for word in words:
        known = OPTIONS.get(word)
        if known is not None:
            flags = (flags | known[0]) & ~known[1]
        elif word not in _PROPAGATION:
            data.append(word)
    return flags, ",".join(data) or None


def normalise(path: str) -> str:
    """The absolute path as the mount table spells it, without `.`, `..`, and empty components."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def volumes(wanted: list[Volume], places: Places) -> None:
    """Mount the further virtio-fs devices.

    :raise InitError: one does not appear in time, or cannot be mounted.
    """
    for volume in wanted:
        what = f"cannot mount volume {volume.tag} on {volume.destination}"
        _make_destination(volume.destination, what)
        try:
            virtiofs(volume.tag, volume.destination, RDONLY if volume.readonly else 0, places.patience)
        except OSError as error:
            raise InitError(f"{what}: {reason_of(error)}") from None


def virtiofs(tag: str, target: str, flags: int, patience: float) -> None:
    """Mount a virtio-fs device, waiting for its driver to have found it.

    :raise OSError: as mount(2), after `patience` seconds.
    """
    deadline = 0.0
    while True:
        try:
            return _linux.mount(tag, target, "virtiofs", flags)
        except OSError as error:
            if error.errno not in _NOT_YET:
                raise
            now = time.monotonic()
            deadline = deadline or now + patience
            if now >= deadline:
                raise
            time.sleep(0.002)
