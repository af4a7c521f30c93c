"""A directory tree that is made from a layer's entries: every name is looked up inside the tree, as if it were `/`.

Symbolic links on the way to an entry are followed within the tree, as container runtimes do; no system call gets a path
that has a link in it. Nobody else changes the tree meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict

from pykrun.errors import ImageError
from pykrun.host import files

MAX_LINKS = 40
LONGEST_PATH = 4095
"""Bytes, as Linux has it (PATH_MAX, less the NUL)."""
DEEPEST = 256
"""Directories below each other: each may cost an open file."""
_KEPT = 128
"""Directories that stay open: entries come directory by directory."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Path = tuple[bytes, ...]
"""Names from the root, none of them a link but perhaps the last."""


def parts_of(name: bytes) -> Path:
    """Part the name of an entry.

    :raise ImageError: it leads out of the tree, or is longer than a path can be.
    """
    if len(name) > LONGEST_PATH:
        raise ImageError(f"it has an entry whose name is too long: {len(name)} bytes")
    parts = tuple(part for part in name.split(b"/") if part not in (b"", b"."))
    if b".." in parts:
        raise ImageError(f"it has an entry that leads out of it: {_shown(name)}")
    return parts


def _shown(name: bytes) -> str:
    return repr(os.fsdecode(name[-200:]))


class Tree:
    """The tree below one open directory."""

    def __init__(self, descriptor: int) -> None:
        """:param descriptor: the directory; it is the tree's from now on."""
        self.root = descriptor
        self.made = 0  # directories that no entry has asked for
        self._open: OrderedDict[Path, int] = OrderedDict()

    def close(self) -> None:
        """Close every directory."""
        self.forget()
        os.close(self.root)

    def forget(self) -> None:
        """Close all but the root: something was removed or replaced."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def directory(self, path: Path) -> int:
        """Open a directory that is there, by its real path; the descriptor stays the tree's.

        :raise OSError: ENOENT, ENOTDIR, ELOOP for a link.
        """
        if not path:
            return self.root
        found = self._open.get(path)
        if found is not None:
            self._open.move_to_end(path)
            return found
        descriptor = os.open(path[-1], _DIRECTORY, dir_fd=self.directory(path[:-1]))
        self._open[path] = descriptor
        while len(self._open) > _KEPT:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def resolve(self, name: bytes, *, make: bool) -> Path:
        """Find the real path of a directory, following links; what is missing is made, or taken as it stands.

        :raise ImageError: links go in circles, or something that is no directory lies in the way.
        """
        waiting = list(reversed(parts_of(name)))
        found: list[bytes] = []
        links = 0
        while waiting:
            part = waiting.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":  # of a link; the root's parent is the root
                del found[-1:]
                continue
            status = self.status((*found, part))
            if status is not None and stat.S_ISLNK(status.st_mode):
                links += 1
                if links > MAX_LINKS:
                    raise ImageError(f"links in it go in circles: {_shown(name)}")
                target = os.readlink(part, dir_fd=self.directory(tuple(found)))
                if target.startswith(b"/"):
                    found.clear()
                waiting += reversed(target.split(b"/"))
                continue
            if len(found) >= DEEPEST:
                raise ImageError(f"it has directories that lie too deep: {_shown(name)}")
            if status is None and make:
                os.mkdir(part, 0o755, dir_fd=self.directory(tuple(found)))
                self.made += 1
            elif status is not None and not stat.S_ISDIR(status.st_mode):
                raise ImageError(f"it has an entry below one that is no directory: {_shown(name)}")
            found.append(part)
        return tuple(found)

    def status(self, path: Path) -> os.stat_result | None:
        """Look at what is there, a link itself; None if nothing is.

        :raise OSError: the name is too long.
        """
        if not path:
            return os.fstat(self.root)
        try:
            return os.stat(path[-1], dir_fd=self.directory(path[:-1]), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, path: Path) -> list[bytes]:
        """List a directory."""
        return [os.fsencode(name) for name in os.listdir(self.directory(path))]

    def remove(self, path: Path) -> None:
        """Remove what is there, with all below it.

        :raise OSError: it cannot be removed.
        """
        parent = self.directory(path[:-1])
        status = self.status(path)
        if status is None:
            return
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(path[-1], dir_fd=parent)
            return
        self.forget()
        remove_tree(path[-1], self.directory(path[:-1]))


def remove_tree(name: bytes, parent: int) -> None:
    """Remove a directory with all below it, whatever its modes are; links are not followed.

    :raise OSError: something cannot be removed.
    """
    stack = [(name, _open_for_removal(name, parent))]
    waiting = [_remove_files(stack[0][1])]
    try:
        while stack:
            if waiting[-1]:
                below = waiting[-1].pop()
                stack.append((below, _open_for_removal(below, stack[-1][1])))
                waiting.append(_remove_files(stack[-1][1]))
                continue
            top, descriptor = stack.pop()
            waiting.pop()
            os.close(descriptor)
            os.rmdir(top, dir_fd=stack[-1][1] if stack else parent)
    finally:
        for _, descriptor in stack:
            os.close(descriptor)


def _open_for_removal(name: bytes, parent: int) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:  # an ordinary user's own, but closed
        opened = files.open_path(parent, name)
        try:
            os.chmod(f"/proc/self/fd/{opened}", 0o700)
        finally:
            os.close(opened)
        return os.open(name, _DIRECTORY, dir_fd=parent)


def _remove_files(descriptor: int) -> list[bytes]:
    """Unlink what is no directory; return the names of what is one."""
    if os.fstat(descriptor).st_mode & 0o700 != 0o700:
        os.fchmod(descriptor, 0o700)
    with os.scandir(descriptor) as listing:
        found = list(listing)
    folders = []
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            folders.append(os.fsencode(entry.name))
        else:
            os.unlink(entry.name, dir_fd=descriptor)
    return folders
