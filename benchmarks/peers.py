"""A directory mounted by one of the Python libraries for FUSE: the peers of the benchmark `mount`.

`python benchmarks/peers.py pyfuse3|mfusepy DIRECTORY MOUNTPOINT`, with the interpreter of the environment that has the
library. Written as their own examples are, and as lean as they can be: each operation is one system call on the
directory below. What is looked up is good for no time at all, so every request reaches Python.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any


def serve_pyfuse3(directory: str, mountpoint: str) -> None:
    """Serve until it is unmounted: inodes by number, files by descriptor."""
    import pyfuse3  # type: ignore[import-not-found]  # in an environment of its own
    import trio  # type: ignore[import-not-found]  # as well

    class Passthrough(pyfuse3.Operations):  # type: ignore[misc]  # not there for mypy
        def __init__(self) -> None:
            super().__init__()
            self.paths: dict[int, str] = {pyfuse3.ROOT_INODE: directory}

        def attributes(self, ino: int, path: str) -> Any:
            found = os.lstat(path)
            entry = pyfuse3.EntryAttributes()
            entry.st_ino = ino
            entry.st_mode, entry.st_nlink, entry.st_size = found.st_mode, found.st_nlink, found.st_size
            entry.st_uid, entry.st_gid, entry.st_blksize, entry.st_blocks = found.st_uid, found.st_gid, 4096, 8
            entry.st_atime_ns, entry.st_mtime_ns = found.st_atime_ns, found.st_mtime_ns
            entry.st_ctime_ns = found.st_ctime_ns
            entry.entry_timeout = entry.attr_timeout = 0
            return entry

        async def lookup(self, parent: int, name: bytes, ctx: object = None) -> Any:
            path = f"{self.paths[parent]}/{os.fsdecode(name)}"
            try:
                ino = os.lstat(path).st_ino
            except OSError as error:
                raise pyfuse3.FUSEError(error.errno) from None
            self.paths[ino] = path
            return self.attributes(ino, path)

        async def getattr(self, ino: int, ctx: object = None) -> Any:
            return self.attributes(ino, self.paths[ino])

        async def open(self, ino: int, flags: int, ctx: object) -> Any:
            return pyfuse3.FileInfo(fh=os.open(self.paths[ino], flags))

        async def read(self, fh: int, offset: int, size: int) -> bytes:
            return os.pread(fh, size, offset)

        async def release(self, fh: int) -> None:
            os.close(fh)

        async def forget(self, inodes: object) -> None:
            pass  # a handful of names

    options = set(pyfuse3.default_options) | {"fsname=pyfuse3"}
    pyfuse3.init(Passthrough(), mountpoint, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)


def serve_mfusepy(directory: str, mountpoint: str) -> None:
    """Serve until it is unmounted: everything by path, files by descriptor."""
    import mfusepy  # type: ignore[import-not-found]  # in an environment of its own

    class Passthrough(mfusepy.Operations):  # type: ignore[misc]  # not there for mypy
        use_ns = True

        def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
            try:
                found = os.lstat(directory + path)
            except OSError as error:
                raise mfusepy.FuseOSError(error.errno or errno.EIO) from None
            names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid", "st_ino", "st_blocks")
            times = {name: getattr(found, f"{name}_ns") for name in ("st_atime", "st_mtime", "st_ctime")}
            return {name: getattr(found, name) for name in names} | times

        def open(self, path: str, flags: int) -> int:
            return os.open(directory + path, flags)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return os.pread(fh, size, offset)

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

    mfusepy.FUSE(
        Passthrough(),
        mountpoint,
        foreground=True,
        nothreads=True,
        fsname="mfusepy",
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
        default_permissions=True,
    )


if __name__ == "__main__":
    {"pyfuse3": serve_pyfuse3, "mfusepy": serve_mfusepy}[sys.argv[1]](sys.argv[2], sys.argv[3])
