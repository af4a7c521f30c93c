"""The file system that the tests of virtual entries use, with its guest."""

from __future__ import annotations

from pykrun.fs import AugmentFs, InodeAllocator, NullFs
from tests.fs.memory import MemoryFs
from tests.fuse.guest import Guest

TEXT = b"a line of text\n"
PATTERN = bytes(range(256)) * 32


class World:
    """A guest, the AugmentFs it uses, and the tree below, which is empty for NullFs."""

    def __init__(self, *, real: bool) -> None:
        allocator = InodeAllocator()
        self.inner = MemoryFs(allocator) if real else None
        self.codes: list[int] = []
        self.fs = AugmentFs(self.inner or NullFs(), allocator, on_exit_code=self.codes.append)
        self.fs.make_parents(b"/nested/deeper/leaf")
        self.fs.add_file(b"/text", TEXT)
        self.fs.add_file(b"/pattern", PATTERN, mode=0o100755)
        self.fs.add_file(b"/nested/deeper/leaf", b"leaf")
        self.fs.add_directory(b"/dev", mode=0o40711)
        self.fs.add_file(b"/once", b"secret", mode=0o400, one_shot=True)
        self.guest = Guest(self.fs)

    def node(self, path: bytes) -> int:
        return self.guest.walk(path).nodeid
