"""A root file system, composed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Self

from pykrun.errors import UsageError
from pykrun.machine import DISK_FORMATS
from pykrun.request import MEMORY, DiskImage, Entry, Tree, Volume
from pykrun.root import guest_path

CACHES = ("auto", "always", "never")
StrPath = str | os.PathLike[str]
Content = bytes | bytearray | memoryview | str | os.PathLike[str] | Callable[[], bytes | str]
"""What a virtual file holds: bytes, text (as UTF-8), the file of this host that a `pathlib.Path` names, or a function
that is asked for it when a VM starts."""


class Root:
    """What a VM finds below `/`: nothing, or a directory of this host, and over it whatever is added.

    Every method returns the object, so that calls can be chained. One root may serve any number of VMs.

    :param path: a directory of this host that becomes the root; None for nothing of this host.
    :param image: a container image in its place: an OCI layout's folder, an archive, or a name that skopeo pulls
        (docs/images.md). Its configuration counts: command, variables, user, working directory.
    :param read_only: the guest can change nothing in it.
    :param writable: a writable layer over it, while it stays as it is: "memory" forgets it at the VM's end, a directory
        of this host keeps it. An image has one in memory unless it is read-only.
    :param cache: what the guest may remember of it: `auto` (for a second), `always`, `never`.
    """

    def __init__(
        self,
        path: StrPath | None = None,
        *,
        image: StrPath | None = None,
        read_only: bool = False,
        writable: StrPath | None = None,
        cache: str = "auto",
    ) -> None:
        if path is None and image is None and read_only:
            raise UsageError("read_only is for a root that is a directory", "virtual files are read-only as they are")
        if path is not None and image is not None:
            raise UsageError("a root is a directory or an image, not both")
        self._image = None if image is None else _reference(image)
        self._writable = _layer(writable)
        if writable is None and image is not None and not read_only:
            self._writable = MEMORY
        _check_cache(cache)
        self._path = None if path is None else host_path("a root", path)
        self._read_only = read_only
        self._cache = cache
        self._contents: dict[bytes, tuple[Content, int | None, bool]] = {}
        self._directories: list[tuple[bytes, int]] = []
        self._volumes: list[Volume] = []
        self._disks: list[DiskImage] = []
        self._tmpfs: list[tuple[bytes, tuple[str, ...]]] = []

    def file(self, guest: str, content: Content, *, mode: int | None = None) -> Self:
        """Add a virtual file, over whatever is at that path.

        :param guest: its absolute path; directories on the way are made as needed.
        :param content: see `Content`; a `str` is the text itself, a `Path` a file.
        :param mode: permission bits; None for 0644, or those of the file.
        :raise UsageError: the path cannot be, or is taken.
        """
        return self._add(guest, content, mode, one_shot=False)

    def secret(self, guest: str, content: Content, *, mode: int = 0o400) -> Self:
        """Add a file that can be opened once, is never listed, and leaves nothing behind when it was read.

        It belongs to the user that the program runs as.

        :raise UsageError: the path cannot be, or is taken.
        """
        return self._add(guest, content, mode, one_shot=True)

    def directory(self, guest: str, *, mode: int = 0o755) -> Self:
        """Add a virtual directory.

        :raise UsageError: the path cannot be.
        """
        self._directories.append((guest_path(guest), mode))
        return self

    def volume(self, host: StrPath, guest: str, *, read_only: bool = False, cache: str = "auto") -> Self:
        """Share one more directory of this host, mounted at `guest`.

        :raise UsageError: the path cannot be, or another volume is there.
        """
        _check_cache(cache)
        tree = Tree(directory=host_path("a volume", host), read_only=read_only, cache=cache)
        where = guest_path(guest)
        if any(volume.where == where for volume in self._volumes):
            raise UsageError(f"the volume {os.fsdecode(where)} is given twice")
        self._volumes.append(Volume(tree=tree, where=where))
        return self

    def tmpfs(self, guest: str, *, size: int | None = None, mode: int = 0o1777) -> Self:
        """Mount an empty file system at `guest` that lives in the guest's memory: a place to write over any root.

        :param size: bytes that it may hold; None for half of the guest's memory, as the kernel has it (tmpfs(5)).
        :param mode: permission bits of its top directory.
        :raise UsageError: the path or the size cannot be.
        """
        if size is not None and (not isinstance(size, int) or size < 1):
            raise UsageError(f"the size of a tmpfs is a positive number of bytes, not {size!r}")
        words = ["rw", "exec", f"mode={mode:o}"] + ([] if size is None else [f"size={size}"])
        self._tmpfs.append((guest_path(guest), tuple(words)))
        return self.directory(guest)

    def disk(self, image: StrPath, *, read_only: bool = False, format: str = "raw") -> Self:
        """Add a block device, in order /dev/vda, /dev/vdb, ...: a file or block device of this host.

        :param format: `raw`, `qcow2` or `vmdk`; never guessed, as the guest could have written any.
        """
        if format not in DISK_FORMATS:
            raise UsageError(f"the format of a disk is one of {', '.join(DISK_FORMATS)}, not {format!r}")
        self._disks.append(DiskImage(image=host_path("a disk", image), read_only=read_only, format=format))
        return self

    def tree(self) -> Tree:
        """The root's own tree, with what functions give by now.

        :raise UsageError: a function gave neither bytes nor text.
        """
        entries = tuple(_entry(path, *given) for path, given in self._contents.items())
        return Tree(
            directory=self._path,
            read_only=self._read_only and self._image is None,
            cache=self._cache,
            entries=entries,
            directories=tuple(self._directories),
        )

    @property
    def image(self) -> str | None:
        """The image's reference, None for none."""
        return self._image

    @property
    def writable(self) -> str | None:
        """The writable layer: "memory", or the directory that keeps it; None for none."""
        return self._writable

    @property
    def volumes(self) -> tuple[Volume, ...]:
        """The further directories."""
        return tuple(self._volumes)

    @property
    def mounts(self) -> tuple[tuple[bytes, tuple[str, ...]], ...]:
        """The file systems in memory: where, and their mount options."""
        return tuple(self._tmpfs)

    @property
    def disks(self) -> tuple[DiskImage, ...]:
        """The block devices."""
        return tuple(self._disks)

    def _add(self, guest: str, content: Content, mode: int | None, *, one_shot: bool) -> Self:
        path = guest_path(guest)
        if path in self._contents:
            raise UsageError(f"{guest!r} is given twice")
        if not isinstance(content, bytes | bytearray | memoryview | str | os.PathLike) and not callable(content):
            raise UsageError(
                f"the content of {guest!r} is {type(content).__name__}", "bytes, text, a Path, or a function"
            )
        self._contents[path] = content, mode, one_shot
        return self


def host_path(what: str, path: StrPath) -> str:
    """Return the absolute path; a later change of the working directory changes nothing.

    :raise UsageError: it is no path.
    """
    try:
        return os.path.abspath(os.fspath(path))
    except TypeError:
        raise UsageError(f"{what} is a path on this host, not {path!r}") from None


def _check_cache(cache: str) -> None:
    if cache not in CACHES:
        raise UsageError(f"cache is one of {', '.join(CACHES)}, not {cache!r}")


def _entry(path: bytes, content: Content, mode: int | None, one_shot: bool) -> Entry:
    if callable(content):
        content = content()
        if not isinstance(content, bytes | bytearray | memoryview | str):
            raise UsageError(f"the function for {os.fsdecode(path)!r} gave {type(content).__name__}", "bytes or text")
    if isinstance(content, os.PathLike):
        return Entry(path=path, source=os.path.abspath(content), mode=mode, one_shot=one_shot)
    data = content.encode() if isinstance(content, str) else content
    return Entry(path=path, content=data, mode=mode, one_shot=one_shot)


def _reference(image: StrPath) -> str:
    """A reference to an image; paths are taken from here, wherever the supervisor's process is."""
    text = os.fspath(image)
    if not isinstance(text, str) or not text or "\0" in text:
        raise UsageError(f"an image is a path or a name, not {image!r}")
    if isinstance(image, os.PathLike):
        return os.path.abspath(text)
    from pykrun.image import absolute_reference  # of use only here

    return absolute_reference(text)


def _layer(writable: StrPath | None) -> str | None:
    if writable is None or writable == MEMORY:
        return writable
    return host_path("writable", writable)
