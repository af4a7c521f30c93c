"""The part of a shared directory that every operation needs, and the two that come most: look-up and getattr.

What holds for all modules of this package:

- A name is used with its directory's descriptor, never as part of a path; links are not followed.
- Only regular files and directories are ever opened. Everything else is known by O_PATH at most, which opens nothing.
- A descriptor that `Inodes.reach` gave is good until the next `reach`.
- One thread: file-system ids and the umask belong to it while something is made.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EMFILE, ENFILE, ENOENT, ESTALE
from stat import S_IFDIR
from typing import Any

from pykrun.fs import interface
from pykrun.fs.inodes import InodeAllocator
from pykrun.fs.interface import FileSystem
from pykrun.fs.packed import ATTR_OUT, ATTR_SUBMOUNT, ENTRY_OUT, kernel_device, split_timeout
from pykrun.fs.passthrough.handles import Listing
from pykrun.fs.passthrough.inodes import Inode, Inodes
from pykrun.fs.passthrough.options import Options
from pykrun.fs.types import Attributes, Caller, Entry, PackedAttributes, PackedEntry, errno_error
from pykrun.host.files import DirectoryReader
from pykrun.host.identity import Identity
from pykrun.host.own import OwnDescriptors
from pykrun.host.statx import FIELDS, HERE, MASK, NAMED, Fields, Statx

SPARE_DESCRIPTORS = 64
"""Left for the rest of the process: sockets, eventfds, memory regions."""
SECOND = 1_000_000_000

_unpack = FIELDS.unpack_from
_pack_attr = ATTR_OUT.pack
_pack_entry = ENTRY_OUT.pack


class Core(FileSystem):
    """A directory of the host, as far as finding and describing goes.

    :param root: its path (links are followed, this once) or a descriptor of it, which is duplicated.
    :param allocator: the one of all layers.
    :param options: how it is served.
    :param descriptors: how many it may have open; None for what the process' limit leaves.
    :param proc: where the proc file system is; "." if it is the working directory.
    :raise OSError: the directory cannot be opened, or /proc is missing.
    :raise ValueError: no such cache policy.
    """

    def __init__(
        self,
        root: str | bytes | int,
        allocator: InodeAllocator,
        options: Options | None = None,
        *,
        descriptors: int | None = None,
        proc: str = "/proc",
    ) -> None:
        self.options = options = options or Options()
        self._cache = cache = options.policy()
        if descriptors is None:
            descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS
        self._max_files = max(descriptors // 3, 16)
        self._open_files = 0  # files, directories with a handle, and carriers of locks
        self._changed = False
        """The guest has made, removed or opened for writing: there may be something to bring to stable storage."""
        self._reader = DirectoryReader()
        self._cursors: dict[int, Listing] = {}  # by inode, in the order in which they were begun
        self.features = _features(options, cache.listings)
        self._statx = Statx()
        self._identity = Identity()
        self._own = OwnDescriptors(proc)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            top = os.open(b".", flags, dir_fd=root) if isinstance(root, int) else os.open(root, flags)
        except OSError:
            self._own.close()
            raise
        self._inodes = Inodes(top, self._statx, allocator, min(descriptors // 4, 8192))  # twice, with those held
        (names, names_ns), (seconds, ns) = split_timeout(cache.entries), split_timeout(cache.attributes)
        self._timeouts = names, seconds, names_ns, ns
        self._missing = Entry(0, Attributes(ino=0, mode=0), cache.negative)
        self._root_number = self._inodes.root.key[0]

    def enter_proc(self) -> None:
        """Get along without /proc: to be called before the root of this process is changed to one that has none.

        Makes the proc file system this process' working directory.
        """
        self._own.enter()

    # The two

    # fmt: off
    def lookup(self, parent: int, name: bytes) -> Entry:
        """Find a name: one system call, and no descriptor."""
        # What `Statx.at`, `Inodes.found` and `_entry` do, without the calls between them: a quarter of the time.
        inodes = self._inodes
        directory = inodes.by_number.get(parent)
        if directory is None or directory.kind != S_IFDIR:
            directory = inodes.directory(parent)  # which says what is wrong
        fd = directory.fd
        statx = self._statx
        if statx.call(statx.nr, fd if fd >= 0 else inodes.reach(directory), name, NAMED, MASK, statx.address):
            statx.failed()
            return self._missing
        fields = _unpack(statx.answer)
        (block_size, nlink, uid, gid, mode, ino, size, blocks, atime, atime_ns, birth, birth_ns, ctime, ctime_ns,
         mtime, mtime_ns, major, minor, device_major, device_minor, mount) = fields
        inode = inodes.by_key.get((ino, device_major, device_minor, mount))
        if (
            inode is None or inode.parent is not directory or inode.name != name
            or (inode.fd < 0 and not inode.files
                and (inode.kind != mode & 0o170000 or inode.birth != (birth, birth_ns)))
        ):
            return self._entry(inodes.found(directory, name, fields), fields, directory)
        inode.lookups += 1
        submount = mount != directory.key[3] and inode.kind == S_IFDIR and self.options.submounts
        names, seconds, names_ns, ns = self._timeouts
        number = inode.ino
        return PackedEntry(number, _pack_entry(
            number, 0, names, seconds, names_ns, ns, ino, size, blocks, atime, mtime, ctime, atime_ns, mtime_ns,
            ctime_ns, mode, nlink, uid, gid, kernel_device(major, minor) if major or minor else 0, block_size,
            ATTR_SUBMOUNT if submount else 0))
    # fmt: on

    # fmt: off
    def getattr(self, ino: int, handle: Any) -> Attributes:
        """Tell the attributes of what the guest knows, wherever it is by now: one system call."""
        # What `_describe` and `_attributes` do, as in `lookup`.
        inodes = self._inodes
        inode = inodes.by_number.get(ino)
        if inode is None:
            raise errno_error(ESTALE)
        statx = self._statx
        fd = inode.fd if handle is None else handle.fd
        if fd < 0 and inode.files:
            fd = inode.files[-1].fd
        if fd >= 0:
            failed = statx.call(statx.nr, fd, b"", HERE, MASK, statx.address)
        else:
            parent = inode.parent
            if parent is None:
                raise errno_error(ESTALE)
            fd = parent.fd
            failed = statx.call(
                statx.nr, fd if fd >= 0 else inodes.reach(parent), inode.name, NAMED, MASK, statx.address)
            fd = -1
        fields = _unpack(statx.answer)
        (block_size, nlink, uid, gid, mode, number, size, blocks, atime, atime_ns, birth, birth_ns, ctime, ctime_ns,
         mtime, mtime_ns, major, minor, device_major, device_minor, mount) = fields
        if failed or (fd < 0 and (
            (number, device_major, device_minor, mount) != inode.key
            or (birth, birth_ns) != inode.birth or mode & 0o170000 != inode.kind
        )):
            return self._attributes(statx.of(inodes.reach(inode)) if handle is None else statx.of(fd))
        _, seconds, _, ns = self._timeouts
        return PackedAttributes(_pack_attr(
            seconds, ns, number, size, blocks, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, mode, nlink, uid,
            gid, kernel_device(major, minor) if major or minor else 0, block_size, 0))
    # fmt: on

    def forget(self, ino: int, count: int) -> None:
        """Take back look-ups."""
        self._inodes.forget(ino, count)

    def statx(self, ino: int, handle: Any, flags: int, mask: int) -> Attributes:
        """Tell the attributes with the time of birth."""
        fields = self._statx.of(handle.fd) if handle is not None else self._describe(self._inodes.get(ino))
        seconds, nanoseconds = fields[10], fields[11]
        attributes = self._attributes(fields)
        attributes.birth_ns = seconds * SECOND + nanoseconds if seconds or nanoseconds else None
        return attributes

    # For the other modules

    def _describe(self, inode: Inode) -> Fields:
        """Ask statx about an inode; by its hint where that spares a descriptor."""
        parent = inode.parent
        if inode.fd < 0 and not inode.files and parent is not None:
            fields = self._statx.at(self._inodes.reach(parent), inode.name)
            if fields is not None and self._inodes.is_same(inode, fields):
                return fields
        return self._statx.of(self._inodes.reach(inode))

    # fmt: off
    def _packed_entry(self, inode: Inode, fields: Fields, directory: Inode) -> bytes:
        """Make the answer to a look-up."""
        (block_size, nlink, uid, gid, mode, ino, size, blocks, atime, atime_ns, _, _, ctime, ctime_ns, mtime, mtime_ns,
         major, minor, _, _, mount) = fields
        rdev = kernel_device(major, minor) if major or minor else 0
        submount = mount != directory.key[3] and inode.kind == S_IFDIR and self.options.submounts
        names, seconds, names_ns, ns = self._timeouts
        return _pack_entry(
            inode.ino, 0, names, seconds, names_ns, ns, ino, size, blocks, atime, mtime, ctime, atime_ns, mtime_ns,
            ctime_ns, mode, nlink, uid, gid, rdev, block_size, ATTR_SUBMOUNT if submount else 0)

    def _attributes(self, fields: Fields) -> Attributes:
        """Make the answer to a getattr."""
        (block_size, nlink, uid, gid, mode, ino, size, blocks, atime, atime_ns, _, _, ctime, ctime_ns, mtime, mtime_ns,
         major, minor, _, _, _) = fields
        rdev = kernel_device(major, minor) if major or minor else 0
        _, seconds, _, ns = self._timeouts
        return PackedAttributes(_pack_attr(
            seconds, ns, ino, size, blocks, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, mode, nlink, uid, gid,
            rdev, block_size, 0))
    # fmt: on

    def _entry(self, inode: Inode, fields: Fields, directory: Inode) -> Entry:
        """Make the answer to a look-up."""
        return PackedEntry(inode.ino, self._packed_entry(inode, fields, directory))

    def _made(self, directory: Inode, name: bytes, fd: int = -1) -> tuple[Inode, Entry]:
        """Look up what was just made for the guest; by `fd` if it is open.

        :raise OSError: ENOENT when somebody has removed it already.
        """
        if fd >= 0:
            fields: Fields | None = self._statx.of(fd)
        else:
            fields = self._statx.at(self._inodes.reach(directory), name)
        if fields is None:
            raise errno_error(ENOENT)
        inode = self._inodes.found(directory, name, fields, new=True)
        return inode, self._entry(inode, fields, directory)

    def _require_room(self) -> None:
        """Check, before something is opened for the guest, that it does not have too much open.

        :raise OSError: ENFILE.
        """
        if self._open_files >= self._max_files:
            raise errno_error(ENFILE)

    def _reopen(self, inode: Inode, flags: int) -> int:
        """Open a regular file or directory anew; the only way in which anything of the shared tree is opened."""
        try:
            return self._own.reopen(self._inodes.reach(inode), flags)
        except OSError as error:
            if error.errno not in (EMFILE, ENFILE) or not self._inodes.give_up(self._inodes.limit, inode):
                raise
        return self._own.reopen(self._inodes.reach(inode), flags)

    @contextmanager
    def _killing(self, kill: bool) -> Iterator[None]:
        """Have set-user-ID and set-group-ID bits cleared by what is done, if `kill`."""
        dropped = kill and self._identity.drop_fsetid()
        try:
            yield
        finally:
            if dropped:
                self._identity.restore()

    def close(self) -> None:
        """Close every descriptor."""
        self._inodes.close()
        self._own.close()


class Making:
    """The time in which something is made as its caller, with its umask: the kernel leaves that where there is a
    default ACL, and knows what a set-group-ID directory does.

    A class, not a generator: entering and leaving one takes a fifth of the time.
    """

    __slots__ = ("_caller", "_identity", "_old", "_taken", "_umask")

    def __init__(self, identity: Identity, caller: Caller, umask: int) -> None:
        self._identity = identity
        self._caller = caller
        self._umask = umask

    def __enter__(self) -> None:
        caller = self._caller
        self._old = os.umask(self._umask)
        self._taken = self._identity.take(caller.uid, caller.gid, caller.groups)

    def __exit__(self, *error: object) -> None:
        if self._taken:
            self._identity.restore()
        os.umask(self._old)


def _features(options: Options, listings: bool) -> int:
    features = interface.AUTO_INVALIDATE | interface.SUPPLEMENTARY_GROUPS | interface.OWN_UMASK
    wanted = (
        (listings, interface.STATELESS_DIRECTORIES),
        (options.posix_locks, interface.POSIX_LOCKS),
        (options.flocks, interface.FLOCK_LOCKS),
        (options.writeback, interface.WRITEBACK_CACHE),
        (options.posix_acl and options.xattr, interface.POSIX_ACL),
    )
    for choice, feature in wanted:
        if choice:
            features |= feature
    return features
