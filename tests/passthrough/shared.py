"""A folder of the host, what serves it, and a guest on plain bytes."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

from pykrun.fs import FileSystem, InodeAllocator
from pykrun.fs.passthrough import Options, PassthroughFs
from tests.fuse import guest as fuse
from tests.fuse.guest import Guest


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Share:
    """:param limit: descriptors that the file system may have."""

    def __init__(
        self, folder: Path, options: Options | None = None, *, limit: int = 400, max_inodes: int = 100000, **layers: Any
    ) -> None:
        self.folder = folder
        self.before = descriptors()
        self.fs = PassthroughFs(str(folder), InodeAllocator(), options, descriptors=limit)
        self.top: FileSystem = layers["wrap"](self.fs) if "wrap" in layers else self.fs
        self.guest = Guest(self.top, max_inodes=max_inodes, max_handles=100000)
        self.call = self.guest.call

    def node(self, path: bytes) -> int:
        """Look a path up, each part once."""
        return self.guest.walk(path).nodeid

    def put(self, path: str, data: bytes = b"") -> Path:
        """Make a file behind the server's back."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return target

    def create(self, parent: int, name: bytes, flags: int = os.O_RDWR, mode: int = 0o644, **how: Any) -> fuse.Reply:
        body = struct.pack("<IIII", flags | os.O_CREAT, 0o100000 | mode, how.pop("umask", 0), 0) + name + b"\0"
        return self.call(fuse.CREATE, parent, body, **how)

    def end(self) -> None:
        """Nothing is left, and nothing went wrong."""
        self.guest.server.reset()
        assert len(self.fs._inodes) == 1
        assert self.fs._open_files == 0
        self.fs.close()
        assert self.guest.server.faults == 0
        assert descriptors() == self.before


def created(reply: fuse.Reply) -> tuple[int, int]:
    """The inode and the handle of a CREATE."""
    assert reply.error == 0, os.strerror(reply.error)
    return fuse.entry_out(reply.body[:128]).nodeid, struct.unpack_from("<Q", reply.body, 128)[0]
