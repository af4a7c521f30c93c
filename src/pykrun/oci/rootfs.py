"""The root file system with the bind mounts in it, put together in a mount namespace of the supervisor's own.

The guest is served one tree: what a runtime of ordinary containers would make the container's root. So a bind mount,
of a single file too, costs no server and no device of its own, read-only means that the host's kernel refuses, and
nothing is left when the supervisor ends, however it ends.
"""

from __future__ import annotations

import ctypes
import os
import stat
from errno import EEXIST, ENOENT, ENOSYS, EPERM

from pykrun.errors import SandboxError, UsageError
from pykrun.host import linux
from pykrun.host.numbers import number
from pykrun.oci.bundle import Bundle, Mount
from pykrun.root import resolve_parent

_RESOLVE_NO_MAGICLINKS, _RESOLVE_IN_ROOT = 0x02, 0x10
_FLAGS = {
    "ro": (linux.MS_RDONLY, 0),
    "rw": (0, linux.MS_RDONLY),
    "nosuid": (linux.MS_NOSUID, 0),
    "suid": (0, linux.MS_NOSUID),
    "nodev": (linux.MS_NODEV, 0),
    "dev": (0, linux.MS_NODEV),
    "noexec": (linux.MS_NOEXEC, 0),
    "exec": (0, linux.MS_NOEXEC),
    "noatime": (linux.MS_NOATIME, 0),
    "atime": (0, linux.MS_NOATIME),
}
"""Of a bind mount: flags to set, flags to clear."""
_KEPT = os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME
_RELATIME = os.ST_RELATIME


class RootFs:
    """The tree that the guest is served.

    :param folder: where it is; in the supervisor's mount namespace if anything had to be mounted.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._top = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def find(self, path: str) -> int:
        """Open what a path means inside (O_PATH), with this tree as the root of its symbolic links.

        :raise OSError: as open(2).
        """
        return _open_in(self._top, path, os.O_PATH)

    def real_path(self, path: str) -> str:
        """The path without symbolic links, as it is inside.

        :raise OSError: as open(2).
        """
        descriptor = self.find(path)
        try:
            real = os.readlink(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return real.removeprefix(self.folder) or "/"

    def directory(self, path: str) -> tuple[int | None, bool]:
        """The permissions of a directory, None where there is none, and whether there is something in it."""
        try:
            descriptor = _open_in(self._top, path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return None, False
        try:
            return stat.S_IMODE(os.fstat(descriptor).st_mode), bool(os.listdir(descriptor))
        finally:
            os.close(descriptor)

    def make(self, path: str, *, directory: bool) -> int:
        """Find it as `find` does; what is missing is made: directories, and at the end perhaps an empty file.

        :raise OSError: as open(2), mkdir(2).
        """
        try:
            return self.find(path)
        except FileNotFoundError:
            pass
        done = ""
        # Links that lead to what is missing, too, mean something inside.
        resolved = os.fsdecode(resolve_parent(os.fsencode(self.folder), os.fsencode(path) + b"/_"))
        *parents, last = [part for part in resolved.split("/")[:-1] if part]
        for part in (*parents, *([last] if directory else [])):
            self._make_directory(done, part)
            done += "/" + part
        if directory:
            return self.find(done)
        parent = self.find(done or "/")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(last, flags, 0o644, dir_fd=parent))
        finally:
            os.close(parent)
        return self.find(f"{done}/{last}")

    def _make_directory(self, parent: str, name: str) -> None:
        folder = self.find(parent or "/")
        try:
            os.mkdir(name, 0o755, dir_fd=folder)
        except OSError as error:
            if error.errno != EEXIST:
                raise
        finally:
            os.close(folder)

    def close(self) -> None:
        """Give its descriptor back."""
        os.close(self._top)


def compose(bundle: Bundle, stage: str, mounts: list[Mount]) -> RootFs:
    """Make the tree.

    :param stage: an empty folder to make it in.
    :param mounts: the bind mounts to make, in order, among others of which the mount points are made.
    :raise UsageError: a source is not there, a destination cannot be made.
    :raise SandboxError: this host allows no mount namespace.
    """
    if not bundle.read_only and all(mount.kind != "bind" for mount in mounts):
        return _fill(RootFs(bundle.root), bundle, mounts)
    try:
        linux.unshare(linux.CLONE_NEWNS)
    except OSError as error:
        raise SandboxError(f"bind mounts and a read-only root need a mount namespace: {error.strerror}") from None
    # Slave, so that what is unmounted outside is unmounted here, too, and nobody finds it busy.
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_SLAVE)
    linux.mount(bundle.root, stage, None, linux.MS_BIND | linux.MS_REC)
    linux.mount("none", stage, None, linux.MS_REC | linux.MS_PRIVATE)
    root = _fill(RootFs(stage), bundle, mounts)
    if bundle.read_only:
        _change_flags(stage, linux.MS_RDONLY, 0)
    return root


def _fill(root: RootFs, bundle: Bundle, mounts: list[Mount]) -> RootFs:
    """Bind what is to be bound; make mount points and the working directory where they are missing, as runtimes do."""
    for mount in mounts:
        if mount.kind == "bind":
            _bind(root, mount)
        else:
            _make_place(root, mount.destination)
    _make_place(root, "/proc")
    if bundle.process is not None:
        _make_place(root, os.path.normpath(bundle.process.directory))
    return root


def _make_place(root: RootFs, path: str) -> None:
    try:
        os.close(root.make(path, directory=True))
    except OSError:
        pass  # the guest will say what is wrong with it


def _bind(root: RootFs, mount: Mount) -> None:
    what = f"mounting {mount.source!r} to rootfs at {mount.destination!r}"
    try:
        source = os.open(mount.source, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"error {what}: {_reason(error)}") from None
    try:
        directory = stat.S_ISDIR(os.fstat(source).st_mode)
        target = root.make(mount.destination, directory=directory)
        recursive = 0 if "bind" in mount.options and "rbind" not in mount.options else linux.MS_REC
        try:
            linux.mount(f"/proc/self/fd/{source}", f"/proc/self/fd/{target}", None, linux.MS_BIND | recursive)
        finally:
            os.close(target)
        added = removed = 0
        for word in mount.options:
            add, remove = _FLAGS.get(word, (0, 0))
            added, removed = (added | add) & ~remove, (removed | remove) & ~add
        if added or removed:
            mounted = root.find(mount.destination)
            try:
                _change_flags(f"/proc/self/fd/{mounted}", added, removed)
            finally:
                os.close(mounted)
    except OSError as error:
        raise UsageError(f"error {what}: {_reason(error)}") from None
    finally:
        os.close(source)


def _change_flags(path: str, added: int, removed: int) -> None:
    """Remount with other flags; those that nobody spoke of stay, for leaving one out may be forbidden."""
    have = os.statvfs(path).f_flag
    flags = have & _KEPT | (linux.MS_RELATIME if have & _RELATIME else 0)
    wanted = (flags | added) & ~removed
    if wanted == flags:
        return
    try:
        linux.mount("none", path, None, linux.MS_REMOUNT | linux.MS_BIND | wanted)
    except PermissionError:  # of another user namespace, which has forbidden more than we were asked to
        linux.mount("none", path, None, linux.MS_REMOUNT | linux.MS_BIND | flags | added)


def _reason(error: OSError) -> str:
    """As Go says it, which is what podman looks for."""
    return "no such file or directory" if error.errno == ENOENT else (error.strerror or str(error)).lower()


class _OpenHow(ctypes.Structure):
    """`struct open_how`."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


_syscall = ctypes.PyDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


def _open_in(top: int, path: str, flags: int) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    opened = int(
        _syscall(ctypes.c_long(number("openat2") or -1), top, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    )
    if opened < 0:
        code = ctypes.get_errno()
        if code in (ENOSYS, EPERM):
            raise SandboxError("the host's kernel lacks openat2 (Linux 5.6), without which a root cannot be kept to")
        raise OSError(code, os.strerror(code), path)
    return opened
