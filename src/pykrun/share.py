"""What a file server serves, put together: the one place where file systems are chosen and stacked."""

from __future__ import annotations

import importlib
import os
import resource
from collections.abc import Callable

from pykrun.errors import UsageError
from pykrun.record import record
from pykrun.root import Root, VirtualFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.fs import AugmentFs, FileSource, FileSystem, MemorySource
    from pykrun.fs.passthrough import Options

_ALWAYS = ("pykrun.fs", "pykrun.secret")
_FOLDERS = ("pykrun.fs.passthrough", "pykrun.fs.readonly", "pykrun.fs.reachable")
"""Modules of the server: `pykrun run` imports them only while its kernel boots."""
_SPARE_DESCRIPTORS = 64
"""Left for the rest of the process: sockets, eventfds, memory regions, virtual files."""


@record(slots=True, kw_only=True)
class Share:
    """The options of a share.

    :param root: the virtual entries.
    :param folder: a directory of the host that lies below them, its path without symbolic links; None for nothing.
    :param identity: device and inode number of that directory.
    :param options: how that is served; None for what is usual, with `cache` and `submounts`.
    :param submounts: the guest is told where another file system of the host begins (`Options`). Not below a layer:
        overlayfs refuses directories that mount themselves (EREMOTE).
    :param read_only: refuse every change.
    :param reachable: what is made in it can be reached again by a server that is not root (`pykrun.fs.reachable`).
    :param owner: user and group of the virtual entries.
    :param files: how many descriptors the directory may take; `prepare` asks for this process' limit.
    """

    root: Root
    folder: str | None = None
    identity: tuple[int, int] = (0, 0)
    options: Options | None = None
    cache: str = "auto"
    submounts: bool = True
    read_only: bool = False
    reachable: bool = False
    owner: tuple[int, int] = (0, 0)
    files: int = 0

    def descriptors(self) -> tuple[int, ...]:
        """The open files that `compose` takes over or reads: whoever composes in another process hands them on."""
        return tuple(file.content for file in self.root.files.values() if isinstance(file.content, int))

    def prepare(self) -> None:
        """Import and ask what `compose` needs, where that is possible: before a sandbox."""
        for name in _ALWAYS if self.folder is None else (*_ALWAYS, *_FOLDERS):
            importlib.import_module(name)
        if self.folder is not None:
            self.files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_DESCRIPTORS

    def compose_in_sandbox(self, on_exit_code: Callable[[int], None] | None = None) -> AugmentFs:
        """Make the file system in the process that serves it: the directory may have become its root.

        :param on_exit_code: see `AugmentFs`.
        :raise OSError: see `compose`.
        """
        if self.folder is None:
            return self.compose(on_exit_code=on_exit_code)
        top = os.stat("/")
        folder = "/" if (top.st_dev, top.st_ino) == self.identity else self.folder
        return self.compose(folder, proc=".", on_exit_code=on_exit_code)

    def compose(
        self,
        folder: str | None = None,
        proc: str = "/proc",
        on_exit_code: Callable[[int], None] | None = None,
    ) -> AugmentFs:
        """Make the file system.

        :param folder: where the directory is found by now; None for where it was.
        :param proc: where the proc file system is; "." if it is the working directory.
        :param on_exit_code: see `AugmentFs`.
        :raise OSError: a directory or file cannot be read, or entries cannot lie where they are to.
        """
        from pykrun.fs import AugmentFs, InodeAllocator, NullFs

        allocator = InodeAllocator()
        inner: FileSystem = NullFs()
        if self.folder is not None:
            from pykrun.fs.passthrough import Options, PassthroughFs
            from pykrun.fs.readonly import ReadOnly

            options = self.options or Options(cache=self.cache, submounts=self.submounts)
            inner = PassthroughFs(folder or self.folder, allocator, options, descriptors=self.files or None, proc=proc)
            if self.reachable:
                from pykrun.fs.reachable import Reachable

                inner = Reachable(inner)
            if self.read_only:
                inner = ReadOnly(inner)
        filesystem = AugmentFs(inner, allocator, on_exit_code=on_exit_code)
        try:
            add_entries(filesystem, self.root, owner=self.owner)
        except BaseException:
            filesystem.close()
            raise
        return filesystem


def find_directory(option: str, path: str) -> tuple[str, tuple[int, int]]:
    """Find a directory: its path without symbolic links, which somebody could change later, and what is there now.

    :param option: what names it, for the message.
    :raise UsageError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{option} {path!r}: {error.strerror}", "it has to be a directory of this host") from None
    status = os.fstat(descriptor)
    os.close(descriptor)
    try:
        return os.path.realpath(path), (status.st_dev, status.st_ino)
    except OSError:  # of a relative one in a folder that was removed
        raise UsageError(f"{option} {path!r}: the working directory is gone", "cd to one that is there") from None


def add_entries(filesystem: AugmentFs, root: Root, *, owner: tuple[int, int] = (0, 0)) -> None:
    """Add a root's virtual files and directories. It takes over the descriptors that the root has opened."""
    uid, gid = owner
    for path, mode in root.missing_directories().items():
        filesystem.add_directory(path, mode=mode, uid=uid, gid=gid)
    for file in root.files.values():
        source = _source(root, file)
        uid, gid = root.reader if file.one_shot and root.reader is not None else owner
        filesystem.add_file(file.path, source, mode=file.mode, one_shot=file.one_shot, uid=uid, gid=gid)


def _source(root: Root, file: VirtualFile) -> FileSource | MemorySource | Callable[[], bytes]:
    from pykrun.fs import FileSource, MemorySource

    content = file.content
    if isinstance(content, int):
        own = root.hand_over(content)
        return _secret(content, file.path, own=own) if file.wipe else FileSource(content, own=own)
    if isinstance(content, bytes | bytearray | memoryview):
        return MemorySource(content, wipe=file.wipe)
    return content


def _secret(descriptor: int, path: bytes, *, own: bool) -> MemorySource:
    """Read a secret only here, in the process that serves it: no other one has it, not even for a moment.

    :raise OSError: it cannot be read; the message names it.
    """
    from pykrun.fs import MemorySource
    from pykrun.secret import read_secret  # mmap is a library of its own, and most roots have no secret

    try:
        return MemorySource(read_secret(descriptor), wipe=True)
    except OSError as error:
        raise OSError(error.errno, f"the secret {os.fsdecode(path)}: {error.strerror}") from None
    finally:
        if own:
            os.close(descriptor)
