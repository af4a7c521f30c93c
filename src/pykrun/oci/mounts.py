"""What becomes of the bundle's `mounts`: binds go into the tree that is served, the others are the guest's to make.

The guest mounts over the tree: a bind below such a mount is in the tree all the same, and the guest shows it again on
top.
"""

from __future__ import annotations

import os

from pykrun.oci.bundle import Bundle, Mount
from pykrun.start_data import GuestMount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.oci.rootfs import RootFs

_OWN = frozenset(("/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts"))
"""The guest has mounted its own there before it hears of any other."""
_SHARED_MEMORY = "/dev/shm"
_KERNEL = frozenset(
    ("proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "securityfs", "debugfs", "tracefs", "bpf")
)
"""Types that the guest's kernel may have; without one of them it goes on."""
_NOT_OURS = frozenset(("tmpcopyup", "rbind", "bind"))


def host_mounts(bundle: Bundle) -> list[Mount]:
    """Those that need something in the tree, in order: it is bound there, or mounted on by the guest."""
    return [
        one
        for one in bundle.mounts
        if one.destination not in (*_OWN, _SHARED_MEMORY) and (one.kind == "bind" or not hides([], one.destination))
    ]


def guest_mounts(bundle: Bundle, root: RootFs) -> list[GuestMount]:
    """Those that the guest makes, in order.

    :param root: the tree, with the binds in it.
    """
    made: list[GuestMount] = []
    for mount in bundle.mounts:
        if mount.destination in _OWN:
            continue
        if mount.destination == _SHARED_MEMORY:
            made.append(_shared_memory(mount))
        elif mount.kind == "bind":
            if hides(made, mount.destination):
                made.append(
                    GuestMount(kind="root", destination=mount.destination, source=root.real_path(mount.destination))
                )
        elif mount.kind == "tmpfs":
            made.append(_tmpfs(mount, root))
        else:
            made.append(GuestMount(kind=mount.kind, destination=mount.destination, optional=mount.kind in _KERNEL))
    return made


def hides(made: list[GuestMount], path: str) -> bool:
    """Whether the guest mounts something above a path."""
    above = ("/proc", "/sys", "/dev", *(os.fsdecode(mount.destination) for mount in made))
    return any(path.startswith(f"{place}/") or path == place for place in above)


def _tmpfs(mount: Mount, root: RootFs) -> GuestMount:
    """A tmpfs has the permissions of the directory that it hides, unless it is told others."""
    options = [word for word in mount.options if word not in _NOT_OURS]
    mode, filled = root.directory(mount.destination)
    if mode is not None and not any(word.startswith("mode=") for word in options):
        options.append(f"mode={mode:o}")
    copy = filled and "tmpcopyup" in mount.options
    return GuestMount(kind="tmpfs", destination=mount.destination, options=options, copy=copy)


def _shared_memory(mount: Mount) -> GuestMount:
    """Memory cannot be shared with the host: the guest has its own, as large as that which it was to have."""
    options = [word for word in mount.options if word not in _NOT_OURS] if mount.kind == "tmpfs" else []
    if mount.kind == "bind":
        options = ["nosuid", "noexec", "nodev"]
        size = _size_of_tmpfs(mount.source)
        if size:
            options.append(f"size={size}")
    return GuestMount(kind="tmpfs", destination=_SHARED_MEMORY, options=options)


def _size_of_tmpfs(path: str) -> int:
    """How large the file system mounted there is; 0 when nothing is mounted there."""
    try:
        if not os.path.ismount(path):
            return 0
        status = os.statvfs(path)
    except OSError:
        return 0
    return status.f_blocks * status.f_frsize
