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
"""A directory that every container has. This host's root lies there, under an empty file system."""


_LONGEST = 4096
"""Bytes of a command line that are shown."""


def show(tree: str, stage: str, arguments: Sequence[str]) -> None:
    """Make the tree the root of a mount namespace of this process's own.

    :param tree: the folder.
    :param stage: an empty folder to mount it on; the tree itself will do, if it is mounted there.
    :param arguments: of the workload: the command line that `podman top` shows for this process.
    :raise OSError: this host does not let us, or the tree has no directory `proc`.
    """
    os.stat(f"{tree}/{_BEHIND}")
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount(tree, stage, None, linux.MS_BIND | linux.MS_REC)
    linux.pivot_root(stage, f"{stage}/{_BEHIND}")
    host = os.open(f"/{_BEHIND}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(host)
        _show_process(f"/{_BEHIND}", arguments)
        os.chroot(".")
    finally:
        os.close(host)
    os.chdir("/")


def _show_process(place: str, arguments: Sequence[str]) -> None:
    """Put what `podman top` reads of a process into an empty file system; the host's root is the working directory.

    Files alone: the folder has links that lead out (`root`, `cwd`, `fd`), and the guest may have made links to those.
    """
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("tmpfs", place, "tmpfs", flags, "size=16k,mode=755")
    process = str(os.getpid())
    os.mkdir(f"{place}/{process}", 0o555)
    for name in ("stat", f"{process}/stat", f"{process}/status"):
        os.close(os.open(f"{place}/{name}", os.O_CREAT | os.O_CLOEXEC, 0o444))
        linux.mount(f"proc/{name}", f"{place}/{name}", None, linux.MS_BIND)
    with open(f"{place}/{process}/cmdline", "wb") as file:
        file.write(b"".join(os.fsencode(word) + b"\0" for word in arguments)[:_LONGEST])
    os.mkdir(f"{place}/{process}/ns", 0o555)
    os.symlink(os.readlink("proc/self/ns/pid"), f"{place}/{process}/ns/pid")
    linux.mount("none", place, None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | flags)
