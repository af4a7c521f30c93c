"""What becomes of the bundle's `mounts`: some are bound into the tree that is served, some are the guest's to make."""

from __future__ import annotations

from pykrun.oci.bundle import Bundle, Mount
from pykrun.record import record

_OWN = frozenset(("/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"))
"""The guest has mounted its own there before it hears of any other."""
_KERNEL = frozenset(("proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "devtmpfs", "securityfs", "debugfs"))


@record(frozen=True, slots=True, kw_only=True)
class Sorted:
    """The mounts by who makes them.

    :param binds: the supervisor, in the tree.
    :param tmpfs: the guest: where, and options as words.
    """

    binds: list[Mount]
    tmpfs: list[tuple[str, list[str]]]


def sort(bundle: Bundle) -> Sorted:
    """Say who makes which."""
    binds, tmpfs = [], []
    for mount in bundle.mounts:
        if mount.destination in _OWN or mount.kind in _KERNEL:
            continue
        if mount.kind == "bind":
            binds.append(mount)
        elif mount.kind == "tmpfs":
            tmpfs.append((mount.destination, [word for word in mount.options if word != "tmpcopyup"]))
    return Sorted(binds=binds, tmpfs=tmpfs)
