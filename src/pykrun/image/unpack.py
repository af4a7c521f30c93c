"""Layers, one over the other, into a directory: files, links, devices, attributes, and what layers take away.

OCI image-spec 1.1, layer.md: whiteouts (`.wh.NAME`, `.wh..wh..opq`) take away what lower layers had, never what their
own layer brings. Root makes everything as the image has it; an ordinary user owns everything, makes no device nodes,
and can always read and write what is his.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

from pykrun.errors import ImageError
from pykrun.host import files
from pykrun.image import tar
from pykrun.image.tree import Path, Tree, parts_of

_WHITEOUT, _OPAQUE, _AUFS = b".wh.", b".wh..wh..opq", b".wh..wh."
MOST_ENTRIES = 4_000_000
"""Of one image: the cache's file system may not have inodes for more."""
_CHUNK = 1 << 18
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OVERLAY_MARKS = b"user.overlay."


class Unpacker:
    """Makes one root file system.

    :ivar lost: what could not be made as the image has it, to how often: device nodes, owners, attributes.
    """

    def __init__(self, tree: Tree) -> None:
        """:param tree: an empty directory that nobody else uses."""
        self._tree = tree
        self._privileged = os.geteuid() == 0
        self._entries = 0
        self._directories: dict[Path, tuple[int, int]] = {}  # mode, time of change in nanoseconds
        self._brought: set[Path] = set()
        self.lost: dict[str, int] = {}

    def layer(self, chunks: Iterable[bytes], what: str) -> None:
        """Lay one layer over what is there.

        :param chunks: its plain tar stream.
        :param what: what it is called in messages.
        :raise ImageError: it is damaged or hostile, or the host refuses what is in it.
        """
        self._brought = set()
        try:
            for entry in tar.entries(tar.Stream(chunks)):
                self._entries += 1
                if self._entries + self._tree.made > MOST_ENTRIES:
                    raise ImageError(f"it has more than {MOST_ENTRIES} entries")
                try:
                    self._take(entry)
                except OSError as error:
                    shown = os.fsdecode(entry.name[-200:])
                    raise ImageError(f"cannot unpack {shown!r}: {error.strerror}", _hint(error)) from None
        except ImageError as error:
            raise ImageError(f"{what}: {error.message}", error.hint) from None

    def finish(self) -> None:
        """Give the directories their modes and times, which making things in them would have changed.

        :raise ImageError: the host refuses.
        """
        for path, (mode, mtime_ns) in sorted(self._directories.items(), key=lambda item: -len(item[0])):
            status = self._tree.status(path)
            if status is None or not stat.S_ISDIR(status.st_mode):
                continue
            descriptor = self._tree.directory(path)
            try:
                os.fchmod(descriptor, mode)
                files.change_times(descriptor, None, mtime_ns, mtime_ns)
            except OSError as error:
                raise ImageError(f"cannot unpack {os.fsdecode(b'/'.join(path))!r}: {error.strerror}") from None

    def _take(self, entry: tar.Entry) -> None:
        parts = parts_of(entry.name)
        if not parts:
            if entry.kind == tar.DIRECTORY:
                self._directory((), entry)
            return
        folder, last = b"/".join(parts[:-1]), parts[-1]
        if last.startswith(_WHITEOUT):
            self._white_out(folder, last)
            return
        path = (*self._tree.resolve(folder, make=True), last)
        if entry.kind == tar.DIRECTORY:
            self._directory(path, entry)
        elif entry.kind == tar.HARD_LINK:
            self._hard_link(path, entry)
        else:
            self._tree.remove(path)
            self._make(path, entry)
        self._bring(path)

    def _bring(self, path: Path) -> None:
        """Remember what this layer brought, and so does not take away."""
        while path and path not in self._brought:
            self._brought.add(path)
            path = path[:-1]

    # -- what layers take away ---------------------------------------------------------------------------------

    def _white_out(self, folder: bytes, name: bytes) -> None:
        opaque = name == _OPAQUE
        hidden = name[len(_WHITEOUT) :]
        if not opaque and name.startswith(_AUFS):
            return  # marks of aufs itself, without a meaning here
        if not opaque and hidden in (b"", b".", b".."):
            raise ImageError(f"it has a whiteout that leads out of it: {os.fsdecode(name)!r}")
        parent = self._tree.resolve(folder, make=False)
        status = self._tree.status(parent)
        if status is None or not stat.S_ISDIR(status.st_mode):
            return
        if opaque:
            self._take_away_below(parent)
        else:
            self._take_away((*parent, hidden))

    def _take_away(self, path: Path) -> None:
        """Remove what lower layers had there."""
        if path not in self._brought:
            self._tree.remove(path)
            return
        status = self._tree.status(path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            self._take_away_below(path)

    def _take_away_below(self, path: Path) -> None:
        for name in self._tree.names(path):
            self._take_away((*path, name))

    # -- what layers bring -------------------------------------------------------------------------------------

    def _directory(self, path: Path, entry: tar.Entry) -> None:
        status = self._tree.status(path)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            self._tree.remove(path)
            status = None
        if status is None:
            os.mkdir(path[-1], 0o700, dir_fd=self._tree.directory(path[:-1]))
        descriptor = self._tree.directory(path)
        self._own(descriptor, entry)
        self._set_attributes(descriptor, entry, fresh=status is None)
        self._directories[path] = self._mode(entry, 0o700), entry.mtime_ns

    def _hard_link(self, path: Path, entry: tar.Entry) -> None:
        """A link to what an entry before it made, in this layer or a lower one."""
        parts = parts_of(entry.target)
        source = (*self._tree.resolve(b"/".join(parts[:-1]), make=False), *parts[-1:])
        status = self._tree.status(source) if parts else None
        if status is None:
            raise ImageError(f"it has a hard link to what is not there: {os.fsdecode(entry.target[-200:])!r}")
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"it has a hard link to a directory: {os.fsdecode(entry.target[-200:])!r}")
        if source == path:
            return
        self._tree.remove(path)
        if self._tree.status(source) is None:  # it lay below what was replaced
            raise ImageError(f"it has a hard link to what is not there: {os.fsdecode(entry.target[-200:])!r}")
        os.link(
            source[-1],
            path[-1],
            src_dir_fd=self._tree.directory(source[:-1]),
            dst_dir_fd=self._tree.directory(path[:-1]),
            follow_symlinks=False,
        )

    def _make(self, path: Path, entry: tar.Entry) -> None:
        """Make what is no directory and no hard link, where nothing is."""
        parent, name = self._tree.directory(path[:-1]), path[-1]
        if entry.kind == tar.FILE:
            descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
            try:
                self._fill(descriptor, entry)
                self._own(descriptor, entry)
                self._set_attributes(descriptor, entry, fresh=True)
                os.fchmod(descriptor, self._mode(entry, 0o600))
                files.change_times(descriptor, None, entry.mtime_ns, entry.mtime_ns)
            finally:
                os.close(descriptor)
            return
        if entry.kind == tar.SYMBOLIC_LINK:
            os.symlink(entry.target, name, dir_fd=parent)
        elif not self._make_node(parent, name, entry):
            return
        opened = files.open_path(parent, name)
        try:
            self._own(opened, entry)
            if entry.kind != tar.SYMBOLIC_LINK:
                os.chmod(name, self._mode(entry, 0o600), dir_fd=parent)
        finally:
            os.close(opened)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _make_node(self, parent: int, name: bytes, entry: tar.Entry) -> bool:
        """Make a device node or FIFO. Nobody opens them on the host, and the cache's folder lets nobody else in."""
        kinds = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
        major, minor = entry.device
        if major >= 1 << 12 or minor >= 1 << 20:
            raise ImageError(f"it has a device that no kernel has: {major}:{minor}")
        try:
            os.mknod(name, kinds[entry.kind] | 0o600, os.makedev(major, minor), dir_fd=parent)
        except PermissionError:
            self._lose("device nodes")
            return False
        return True

    def _fill(self, descriptor: int, entry: tar.Entry) -> None:
        left = entry.size
        while left:
            data = entry.read(min(left, _CHUNK))
            left -= len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]

    def _mode(self, entry: tar.Entry, least: int) -> int:
        """The mode; an ordinary user has to read for the guest's root, whom modes do not stop."""
        return entry.mode if self._privileged else entry.mode | least

    def _own(self, descriptor: int, entry: tar.Entry) -> None:
        if not self._privileged:
            if (entry.uid, entry.gid) != (0, 0):
                self._lose("owners")
            return
        try:
            files.change_owner(descriptor, entry.uid, entry.gid)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL):  # a user namespace without such an id
                raise
            self._lose("owners")

    def _set_attributes(self, descriptor: int, entry: tar.Entry, *, fresh: bool) -> None:
        """Set extended attributes: capabilities and the user's own; others are the host's business.

        What overlayfs keeps in such would be believed by the guest's.
        """
        wanted = {
            name: value
            for name, value in entry.xattrs.items()
            if name == b"security.capability" or (name.startswith(b"user.") and not name.startswith(_OVERLAY_MARKS))
        }
        if not fresh:
            for old in os.listxattr(descriptor):
                if old.startswith("user.") and os.fsencode(old) not in wanted:
                    os.removexattr(descriptor, old)
        for name, value in wanted.items():
            try:
                os.setxattr(descriptor, name, value)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self._lose("extended attributes")

    def _lose(self, what: str) -> None:
        self.lost[what] = self.lost.get(what, 0) + 1


def _hint(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the file system of the cache is full: `pykrun image rm`, or set XDG_CACHE_HOME"
    return ""
