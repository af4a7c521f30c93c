"""What others see who enter the supervisor's mount namespace: the container's tree, as with any container.

`podman cp` joins the mount namespace of the pid that stands for a container, and takes its root for the container's. So
as soon as all that serves the VM has been started, the supervisor moves to a namespace whose root is the tree. It goes on
with this host's root as its own: as with chroot(2), and hidden from everybody else.
"""

from __future__ import annotations

import os

from pykrun.host import linux

_BEHIND = "proc"
"""A directory that every container has. This host's root lies there, under an empty file system."""


def show(tree: str, stage: str) -> None:
    """Make the tree the root of a mount namespace of this process's own.

    :param tree: the folder.
    :param stage: an empty folder to mount it on; the tree itself will do, if it is mounted there.
    :raise OSError: this host does not let us, or the tree has no directory `proc`.
    """
    os.stat(f"{tree}/{_BEHIND}")
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount(tree, stage, None, linux.MS_BIND | linux.MS_REC)
    linux.pivot_root(stage, f"{stage}/{_BEHIND}")
    host = os.open(f"/{_BEHIND}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        linux.mount("tmpfs", f"/{_BEHIND}", "tmpfs", linux.MS_RDONLY | linux.MS_NODEV | linux.MS_NOEXEC, "size=4k")
        os.fchdir(host)
        os.chroot(".")
    finally:
        os.close(host)
    os.chdir("/")
