"""A writable layer over the root: overlayfs, with what changes in memory or in a directory that the host shares.

The root stays as it is below; a process of the guest sees one file system that it can write. As with a block root, the
exit code goes to the first root's server, so a descriptor of that root is kept.
"""

from __future__ import annotations

import errno
import posix

from krun_init import _linux, files, mounts
from krun_init.errors import InitError, reason_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from krun_init.blockroot import FirstRoot
    from krun_init.log import Log
    from krun_init.places import Places
    from krun_init.start import Layer

_PLACE = "/dev/shm"
"""Where it is put together: there whatever the root is, hidden by the new root afterwards, and no trace in either."""
_UPPER, _WORK = _PLACE + "/upper", _PLACE + "/work"
_PERMISSIONS = 0o7777


def enter(asked: Layer | None, first: FirstRoot, places: Places, log: Log) -> None:
    """Go on in the layered root, if one was asked for.

    :raise InitError: the layer's directory does not appear, or the kernel refuses it.
    """
    if asked is None:
        return
    what = "cannot lay a writable layer over the root"
    try:
        files.make_directories(_PLACE)
        if asked.tag:
            mounts.virtiofs(asked.tag, _PLACE, mounts.NOATIME, places.patience)
        else:
            _linux.mount("tmpfs", _PLACE, "tmpfs", 0, "mode=0700")
        _make_directories()
        # On the host an ordinary user may keep the layer: its marks are attributes that users may set.
        marks = ",userxattr" if asked.tag else ""
        data = f"lowerdir=/,upperdir={_UPPER},workdir={_WORK}{marks}"
        _linux.mount("overlay", _PLACE, "overlay", mounts.RELATIME, data)
    except OSError as error:
        why = "this kernel has no overlayfs" if error.errno == errno.ENODEV else reason_of(error)
        raise InitError(f"{what}: {why}") from None
    first.leave_for(_PLACE)
    mounts.standard(places.devices, log)


def _make_directories() -> None:
    """Make what overlayfs needs; the new root's own mode and owner are the upper directory's."""
    try:
        posix.mkdir(_WORK, 0o700)
    except FileExistsError:
        pass
    try:
        posix.mkdir(_UPPER, 0o755)
    except FileExistsError:
        return
    below = posix.stat("/")
    try:
        posix.chown(_UPPER, below.st_uid, below.st_gid)
    except OSError:  # kept by an ordinary user of the host, who owns it all
        pass
    posix.chmod(_UPPER, below.st_mode & _PERMISSIONS)
