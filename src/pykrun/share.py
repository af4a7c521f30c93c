"""What a file server serves, put together: the one place where file systems are chosen and stacked."""

from __future__ import annotations

import os
from collections.abc import Callable

from pykrun.fs import AugmentFs, FileSource, InodeAllocator, MemorySource, NullFs
from pykrun.record import record
from pykrun.root import Root, VirtualFile


@record(slots=True, kw_only=True)
class Share:
    """The options of a share.

    :param root: the virtual entries.
    :param shared_dir: a directory of the host that lies below them; None for nothing.
    :param read_only: refuse every change.
    :param owner: user and group of the virtual entries.
    """

    root: Root
    shared_dir: str | None = None
    read_only: bool = False
    owner: tuple[int, int] = (0, 0)

    def descriptors(self) -> tuple[int, ...]:
        """The open files that `compose` takes over or reads: whoever composes in another process hands them on."""
        return tuple(file.content for file in self.root.files.values() if isinstance(file.content, int))

    def compose(self) -> AugmentFs:
        """Make the file system.

        :raise OSError: a file cannot be read, or entries cannot lie where they are to.
        """
        filesystem = AugmentFs(NullFs(), InodeAllocator())
        try:
            add_entries(filesystem, self.root, owner=self.owner)
        except BaseException:
            filesystem.close()
            raise
        return filesystem


def add_entries(filesystem: AugmentFs, root: Root, *, owner: tuple[int, int] = (0, 0)) -> None:
    """Add a root's virtual files and directories. It takes over the descriptors that the root has opened."""
    uid, gid = owner
    for path, mode in root.missing_directories().items():
        filesystem.add_directory(path, mode=mode, uid=uid, gid=gid)
    for file in root.files.values():
        source = _source(root, file)
        filesystem.add_file(file.path, source, mode=file.mode, one_shot=file.one_shot, uid=uid, gid=gid)


def _source(root: Root, file: VirtualFile) -> FileSource | MemorySource | Callable[[], bytes]:
    content = file.content
    if isinstance(content, int):
        own = root.hand_over(content)
        return _secret(content, own=own) if file.wipe else FileSource(content, own=own)
    if isinstance(content, bytes | bytearray | memoryview):
        return MemorySource(content, wipe=file.wipe)
    return content


def _secret(descriptor: int, *, own: bool) -> MemorySource:
    """Read a secret only here, in the process that serves it: no other one has it, not even for a moment."""
    from pykrun.secret import read_secret  # mmap is a library of its own, and most roots have no secret

    try:
        return MemorySource(read_secret(descriptor), wipe=True)
    finally:
        if own:
            os.close(descriptor)
