"""What others see who enter the supervisor's mount namespace: the container's tree, as with any container.

`podman cp` joins the mount namespace of the pid that stands for a container, and takes its root for the container's. So
as soon as all that serves the VM has been started, the supervisor moves to a namespace whose root is the tree. It goes
on with this host's root as its own: as with chroot(2), and hidden from everybody else.
"""

from __future__ import annotations

import os

from pykrun.host import linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_BEHIND = "proc"
"""A directory that every container has. This host's root lies there, under a small file system."""


_LONGEST = 4096
"""Bytes of a command line that are shown."""


def show(tree: str, stage: str, arguments: Sequence[str]) -> None:
    """Make the tree the root of a mount namespace of this process's own.

    A guest may change the tree meanwhile, a symbolic link in the place of a directory for instance. So nothing is
    looked up in it more than once, and from then on descriptors tell what is meant.

    :param tree: the folder.
    :param stage: an empty folder to mount it on; the tree itself will do, if it is mounted there.
    :param arguments: of the workload: the command line that `podman top` shows for this process.
    :raise OSError: this host does not let us, or the tree has no directory `proc`.
    """
    os.close(_open(f"{tree}/{_BEHIND}"))
    linux.unshare(linux.CLONE_NEWNS)
    # As in `compose`: slave, so that what is unmounted outside does not stay busy here.
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_SLAVE)
    linux.mount(tree, stage, None, linux.MS_BIND | linux.MS_REC)
    linux.mount("none", stage, None, linux.MS_REC | linux.MS_PRIVATE)
    opened = [_open("/"), _open(stage)]
    try:
        host, root = opened
        place = os.open(_BEHIND, _FOLDER | os.O_NOFOLLOW, dir_fd=root)
        opened.append(place)
        process = _mount_process(stage, arguments)
        opened.append(process)
        os.chroot("/")  # which shows that we may: from the next step on it must not fail
        linux.pivot_root(_path(root), _path(place))
        os.fchdir(host)
        os.chroot(".")
        linux.mount(_path(process), _path(host), None, _MS_MOVE)  # over it, at that place
    finally:
        for descriptor in opened:
            os.close(descriptor)
    os.chdir("/")


_MS_MOVE = 0x2000
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def _open(folder: str) -> int:
    return os.open(folder, _FOLDER)


def _path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _mount_process(place: str, arguments: Sequence[str]) -> int:
    """Put what `podman top` reads of a process into an empty file system; return its root.

    Files alone: the folder has links that lead out (`root`, `cwd`, `fd`), and the guest may have made links to those.
    """
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("tmpfs", place, "tmpfs", flags, "size=16k,mode=755")
    root = _open(place)
    process = str(os.getpid())
    os.mkdir(f"{place}/{process}", 0o555)
    for name in ("stat", f"{process}/stat", f"{process}/status"):
        os.close(os.open(f"{place}/{name}", os.O_CREAT | os.O_CLOEXEC, 0o444))
        linux.mount(f"/proc/{name}", f"{place}/{name}", None, linux.MS_BIND)
    with open(f"{place}/{process}/cmdline", "wb") as file:
        file.write(b"".join(os.fsencode(word) + b"\0" for word in arguments)[:_LONGEST])
    os.mkdir(f"{place}/{process}/ns", 0o555)
    os.symlink(os.readlink("/proc/self/ns/pid"), f"{place}/{process}/ns/pid")
    linux.mount("none", place, None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | flags)
    return root
