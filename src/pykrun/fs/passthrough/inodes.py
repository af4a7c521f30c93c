"""What the guest knows: inodes, how often it looked each up, and how each is found again on the host.

An inode is keyed by device, inode number and mount. It is found again in one of three ways, in this order:

- by its *pin*, an O_PATH descriptor;
- by a file that is open for the guest;
- by its *hint*: the directory (an inode, not a path) and the name under which it was last seen. Whatever is found there
  is believed only when it has the right key and time of birth; otherwise the inode is stale, the guest's kernel looks
  the name up again, and goes on with what it finds. (On an overlay, what is written to for the first time is copied and
  keeps its number, but is born again: there the key has to do.)

Most inodes are looked up, asked about and forgotten without ever needing a descriptor, so a look-up makes none: it is
one system call. Pins are made when something is to be done with an inode, and the oldest are closed when there are too
many: a tree may have more files than a process may have descriptors, and no right of root's is needed to come back.

What would make a hint useless (the guest renames or removes the name) makes the file be pinned before, or the hint be
changed with it.
"""

from __future__ import annotations

import os
from errno import EMFILE, ENFILE, ENOENT, ENOTDIR, ESTALE
from stat import S_IFDIR
from typing import TYPE_CHECKING

from pykrun.fs.inodes import InodeAllocator
from pykrun.fs.interface import ROOT
from pykrun.fs.types import errno_error
from pykrun.host.files import is_overlay, open_path
from pykrun.host.statx import Fields, Statx

if TYPE_CHECKING:
    from pykrun.fs.passthrough.handles import FileHandle

_KIND = 0o170000  # S_IFMT(mode), without a call
DEEPEST = 4096
"""How many directories that have no descriptor may lie above an inode; more is a circle of hints that went stale."""

Key = tuple[int, int, int, int]
"""Inode number, device (major, minor), mount."""


class Inode:
    """One file of the host that the guest knows."""

    __slots__ = (
        "birth",
        "children",
        "fd",
        "files",
        "ino",
        "key",
        "kind",
        "lookups",
        "name",
        "parent",
        "seen",
    )

    def __init__(self, ino: int, key: Key, kind: int, birth: tuple[int, int]) -> None:
        self.ino = ino
        """The number by which the guest knows it."""
        self.key = key
        self.kind = kind
        """S_IFREG and its like; an inode never changes it."""
        self.birth = birth
        """Tells files apart that had the same number one after the other; (0, 0) where the file system keeps none."""
        self.fd = -1
        """The pin."""
        self.files: list[FileHandle] | None = None
        """Open for the guest."""
        self.parent: Inode | None = None
        self.name = b""
        """The hint, with `parent`; no parent, no hint."""
        self.children: dict[bytes, Inode] | None = None
        """Of a directory: whose hint says what here."""
        self.lookups = 0
        self.seen: tuple[int, int, int] | None = None
        """Time of change and size at the last open."""


class Inodes:
    """All inodes of one shared directory.

    :param root: its descriptor, which is closed by `close`.
    :param limit: how many pins there may be that could be given up.
    """

    def __init__(self, root: int, statx: Statx, allocator: InodeAllocator, limit: int) -> None:
        fields = statx.of(root)
        self.root = Inode(ROOT, key_of(fields), S_IFDIR, birth_of(fields))
        self.root.fd = root
        self._born_again = is_overlay(root)
        self.limit = max(limit, 16)
        self._statx = statx
        self._allocate = allocator.allocate
        self.by_number = {ROOT: self.root}
        """By the guest's number."""
        self.by_key: dict[Key, Inode] = {self.root.key: self.root}
        """By the host's."""
        self._pins: dict[Inode, None] = {}  # in the order in which they were made: the oldest goes first
        self._held: set[Inode] = set()  # pinned too, and not to be found again: their names are gone

    def __len__(self) -> int:
        return len(self.by_number)

    def get(self, ino: int) -> Inode:
        """Find an inode by the guest's number.

        :raise OSError: ESTALE.
        """
        inode = self.by_number.get(ino)
        if inode is None:
            raise errno_error(ESTALE)
        return inode

    def directory(self, ino: int) -> Inode:
        """Find a directory.

        :raise OSError: ESTALE, ENOTDIR.
        """
        inode = self.by_number.get(ino)
        if inode is None or inode.kind != S_IFDIR:
            raise errno_error(ESTALE if inode is None else ENOTDIR)
        return inode

    # Look-ups

    def found(self, parent: Inode, name: bytes, fields: Fields, *, new: bool = False) -> Inode:
        """Count a look-up of what statx told about a name, which is its hint from now on.

        :param new: the guest has just made the file: whatever had its number before is gone.
        """
        key = (fields[5], fields[18], fields[19], fields[20])
        inode = self.by_key.get(key)
        if inode is None or (
            inode.fd < 0
            and not inode.files  # nothing keeps the old one alive: another may have its number
            and (new or not self.is_same(inode, fields))
        ):
            inode = self._new(key, fields)
        inode.lookups += 1
        if inode.parent is not parent or inode.name != name:
            self._hint(inode, parent, name)
        return inode

    def made(self, fields: Fields) -> Inode:
        """Count a look-up of a file without a name."""
        inode = self._new(key_of(fields), fields)
        inode.lookups += 1
        return inode

    def forget(self, ino: int, count: int) -> None:
        """Take back look-ups; an inode without any is dropped."""
        inode = self.by_number.get(ino)
        if inode is None:
            return
        inode.lookups -= count
        if inode.lookups > 0 or inode is self.root:
            return
        del self.by_number[ino]
        successor = self.by_key.pop(inode.key, None)
        if successor is not inode and successor is not None:
            self.by_key[inode.key] = successor
        if inode.parent is not None:
            self._unhint(inode)
        if inode.fd >= 0:
            self._unpin(inode)

    def _new(self, key: Key, fields: Fields) -> Inode:
        inode = Inode(self._allocate(), key, fields[4] & _KIND, (fields[10], fields[11]))
        self.by_key[key] = inode
        self.by_number[inode.ino] = inode
        return inode

    def is_same(self, inode: Inode, fields: Fields) -> bool:
        """Whether statx tells about the inode, to which there is only a hint."""
        if inode.key != (fields[5], fields[18], fields[19], fields[20]) or inode.kind != fields[4] & _KIND:
            return False
        if inode.birth != (fields[10], fields[11]):
            if not self._born_again:
                return False
            inode.birth = (fields[10], fields[11])
        return True

    # Hints

    def _hint(self, inode: Inode, parent: Inode, name: bytes) -> None:
        if inode is self.root:
            return
        if inode.parent is not None:
            self._unhint(inode)
        children = parent.children
        if children is None:
            children = parent.children = {}
        else:
            old = children.get(name)
            if old is not None:
                old.parent = None
        children[name] = inode
        inode.parent, inode.name = parent, name
        if inode.fd >= 0 and inode in self._held:
            self._held.remove(inode)
            self._pins[inode] = None

    def _unhint(self, inode: Inode) -> None:
        parent = inode.parent
        if parent is None:
            return
        children = parent.children
        if children is not None and children.get(inode.name) is inode:
            del children[inode.name]
        inode.parent = None

    def removing(self, parent: Inode, name: bytes) -> None:
        """The guest is about to remove a name: what it knows by that name only must stay within reach.

        As long as there are not too many: a guest that forgets nothing loses sight of what it removed.
        """
        inode = parent.children.get(name) if parent.children else None
        if inode is None:
            return
        if inode.fd < 0 and not inode.files:
            try:
                self.reach(parent)
                self._pin(inode, parent)
            except OSError:
                return  # it is stale already
        self._unhint(inode)
        if inode.fd < 0:
            return
        if len(self._held) < self.limit:
            del self._pins[inode]
            self._held.add(inode)
        else:
            self._unpin(inode)

    def moved(self, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes, exchange: bool) -> None:
        """The guest has renamed (what was at the new name was told to `removing`, unless they were exchanged)."""
        inode = parent.children.get(name) if parent.children else None
        other = new_parent.children.get(new_name) if exchange and new_parent.children else None
        if inode is not None:
            self._hint(inode, new_parent, new_name)
        if other is not None and other is not inode:
            self._hint(other, parent, name)

    # Descriptors

    def reach(self, inode: Inode, keep: Inode | None = None) -> int:
        """Return a descriptor of an inode, which may be an O_PATH one, and is valid until the next call.

        :param keep: a second inode whose descriptor must stay valid.
        :raise OSError: ESTALE when it is not where it was, EMFILE and ENFILE.
        """
        if inode.fd >= 0:
            return inode.fd
        if inode.files:
            return inode.files[-1].fd
        chain = [inode]
        above = inode.parent
        while above is not None and above.fd < 0:
            chain.append(above)
            above = above.parent
            if len(chain) > DEEPEST:
                raise errno_error(ESTALE)
        if above is None:
            raise errno_error(ESTALE)
        for missing in reversed(chain):
            self._pin(missing, keep)
        return inode.fd

    def _pin(self, inode: Inode, keep: Inode | None) -> None:
        """Open what the hint says with O_PATH, and see whether it is the inode; the parent is pinned."""
        parent = inode.parent
        assert parent is not None
        if len(self._pins) >= self.limit:
            self.give_up(len(self._pins) // 4, parent, keep)
        try:
            fd = open_path(self._directory_descriptor(parent), inode.name)
        except OSError as error:
            if error.errno in (EMFILE, ENFILE) and self.give_up(len(self._pins), parent, keep):
                fd = open_path(self._directory_descriptor(parent), inode.name)
            elif error.errno in (ENOENT, ENOTDIR):
                raise errno_error(ESTALE) from None
            else:
                raise
        try:
            fields = self._statx.of(fd)
            if not self.is_same(inode, fields):
                raise errno_error(ESTALE)
        except OSError:
            os.close(fd)
            raise
        inode.fd = fd
        self._pins[inode] = None

    def _directory_descriptor(self, parent: Inode) -> int:
        if parent.fd < 0:
            raise errno_error(ESTALE)
        return parent.fd

    def give_up(self, count: int, *keep: Inode | None) -> int:
        """Close the `count` oldest pins that are not needed; return how many were."""
        closed = 0
        for inode in list(self._pins)[: count + len(keep)]:
            if closed == count:
                break
            if inode in keep:
                continue
            self._unpin(inode)
            closed += 1
        return closed

    def _unpin(self, inode: Inode) -> None:
        self._pins.pop(inode, None)
        self._held.discard(inode)
        fd, inode.fd = inode.fd, -1
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Close every descriptor."""
        for inode in {*self.by_number.values(), *self._pins}:
            self._unpin(inode)
        self.by_number.clear()
        self.by_key.clear()


def key_of(fields: Fields) -> Key:
    """Take the key out of statx's answer."""
    return fields[5], fields[18], fields[19], fields[20]


def birth_of(fields: Fields) -> tuple[int, int]:
    """Take the time of birth out of statx's answer."""
    return fields[10], fields[11]
