"""The table of file-system cases, each a function of a `View`: they run on plain bytes and over a real mount."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from pykrun.fs import AugmentFs, FileSystem, InodeAllocator, NullFs
from pykrun.fs.passthrough import PassthroughFs
from tests.fs.memory import MemoryFs

TEXT = b"some text\n"
PATTERN = bytes(range(256)) * 32


class Stat(NamedTuple):
    mode: int
    size: int
    nlink: int
    ino: int


class View(Protocol):
    """A mounted file system as programs see it. Errors are returned as numbers, 0 for success."""

    def stat(self, path: bytes) -> Stat: ...

    def read(self, path: bytes, offset: int, size: int) -> bytes: ...

    def reads(self, path: bytes, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Read several ranges of one open file."""

    def names(self, path: bytes) -> list[bytes]:
        """Tell the names, sorted, without the dots."""

    def dots(self, path: bytes) -> list[int]:
        """Tell the numbers of "." and ".." in the listing."""

    def open_error(self, path: bytes, flags: int) -> int: ...

    def lookup_error(self, path: bytes) -> int: ...

    def change_errors(self, path: bytes) -> dict[str, int]:
        """Try to make, remove, rename, link and change what is at the path; tell each outcome."""

    def create_error(self, path: bytes) -> int: ...

    def mkdir_error(self, path: bytes) -> int: ...

    def getxattr_error(self, path: bytes) -> int: ...

    def listxattr(self, path: bytes) -> list[bytes]: ...

    def exit_code(self, path: bytes, code: int) -> None: ...

    def sync(self, path: bytes) -> None: ...


REAL = {b"/etc/passwd": b"root\n", b"/etc/hosts": b"inner", b"/plain": b"plain"}


class World:
    """What the cases expect to be served.

    :param kind: what lies below: "nothing", a "tree" in memory, or a "folder" of the host.
    :param folder: that folder, empty.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        allocator = InodeAllocator()
        self.real = kind != "nothing"
        self.root_number = folder.stat().st_ino if kind == "folder" else 1
        self.inner: FileSystem = NullFs()
        if kind == "tree":
            self.inner = tree = MemoryFs(allocator)
            for path, data in REAL.items():
                tree.plant(path, data)
        elif kind == "folder":
            for path, data in REAL.items():
                target = folder / os.fsdecode(path[1:])
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(data)
            self.inner = PassthroughFs(str(folder), allocator)
        self.fs = AugmentFs(self.inner, allocator)
        for name in (b"/dev", b"/proc", b"/sys", b"/etc"):
            self.fs.add_directory(name)
        self.fs.add_file(b"/text", TEXT)
        self.fs.add_file(b"/pattern", PATTERN, mode=0o755)
        self.fs.make_parents(b"/a/b/leaf")
        self.fs.add_file(b"/a/b/leaf", b"leaf")
        self.fs.add_file(b"/etc/hosts", b"virtual")
        self.fs.add_file(b"/empty", b"")
        self.fs.add_file(b"/once", b"secret", one_shot=True)
        self.fs.add_file(b"/lazy", lambda: b"late")
        self.fs.add_file(b"/big", bytes(3 << 20) + b"end")


Case = Callable[[View, World], None]
CASES: list[Case] = []
KINDS = ("nothing", "tree", "folder")


def case(function: Case) -> Case:
    CASES.append(function)
    return function


@case
def listing_shows_persistent_entries(view: View, world: World) -> None:
    expected = {b"dev", b"proc", b"sys", b"etc", b"text", b"pattern", b"a", b"empty", b"lazy", b"big"}
    if world.real:
        expected.add(b"plain")
    assert view.names(b"/") == sorted(expected)
    assert view.names(b"/a") == [b"b"]
    assert view.names(b"/a/b") == [b"leaf"]
    assert view.names(b"/dev") == []
    assert view.names(b"/etc") == ([b"hosts"] if not world.real else [b"hosts", b"passwd"])


@case
def listing_knows_where_it_is(view: View, world: World) -> None:
    a, b = view.stat(b"/a").ino, view.stat(b"/a/b").ino
    assert view.dots(b"/a/b") == [b, a]
    assert view.dots(b"/a") == [a, world.root_number]


@case
def sizes_modes_and_links(view: View, world: World) -> None:
    assert view.stat(b"/text")[:3] == (stat.S_IFREG | 0o644, len(TEXT), 1)
    assert view.stat(b"/pattern")[:3] == (stat.S_IFREG | 0o755, 8192, 1)
    assert view.stat(b"/empty")[:3] == (stat.S_IFREG | 0o644, 0, 1)
    assert view.stat(b"/lazy")[:2] == (stat.S_IFREG | 0o644, 4)
    assert (view.stat(b"/dev").mode, view.stat(b"/dev").nlink) == (stat.S_IFDIR | 0o755, 2)
    assert view.stat(b"/").mode == stat.S_IFDIR | 0o755


@case
def numbers_are_unique(view: View, world: World) -> None:
    paths = (b"/text", b"/pattern", b"/dev", b"/a", b"/a/b", b"/a/b/leaf", b"/lazy")
    assert len({view.stat(path).ino for path in paths}) == len(paths)


@case
def reads_at_offsets(view: View, world: World) -> None:
    ranges = [(0, 256), (4000, 512), (8182, 10), (8182, 100), (8192, 100), (100000, 10), (0, 256), (0, 8192)]
    expected = [PATTERN[offset : offset + size] for offset, size in ranges]
    assert view.reads(b"/pattern", ranges) == expected
    assert view.read(b"/empty", 0, 10) == b""


@case
def reads_twice_the_same(view: View, world: World) -> None:
    for _ in range(2):
        assert view.read(b"/text", 0, 100) == TEXT
        assert view.read(b"/lazy", 0, 100) == b"late"
        assert view.read(b"/a/b/leaf", 0, 100) == b"leaf"


@case
def reads_of_a_large_file(view: View, world: World) -> None:
    assert view.read(b"/big", 0, 4 << 20) == bytes(3 << 20) + b"end"
    assert view.read(b"/big", (3 << 20) - 5, 100) == bytes(5) + b"end"


@case
def virtual_names_hide_inner_ones(view: View, world: World) -> None:
    assert view.read(b"/etc/hosts", 0, 100) == b"virtual"
    if world.real:
        assert view.read(b"/etc/passwd", 0, 100) == b"root\n"
        assert view.read(b"/plain", 0, 100) == b"plain"


@case
def missing_names(view: View, world: World) -> None:
    for path in (b"/missing", b"/dev/missing", b"/a/b/missing", b"/etc/missing"):
        assert view.lookup_error(path) == errno.ENOENT
    assert view.lookup_error(b"/text/below") == errno.ENOTDIR


@case
def opening_for_writing(view: View, world: World) -> None:
    for flags in (1, 2, 0o1001, 0o2001):  # O_WRONLY, O_RDWR, with O_TRUNC, with O_APPEND
        assert view.open_error(b"/text", flags) == errno.EACCES
    assert view.open_error(b"/dev", 1) == errno.EISDIR
    assert view.open_error(b"/text", 0) == 0


@case
def changes_of_virtual_entries(view: View, world: World) -> None:
    assert set(view.change_errors(b"/text").values()) == {errno.EPERM}
    assert set(view.change_errors(b"/dev").values()) == {errno.EPERM}
    assert view.mkdir_error(b"/dev") == errno.EEXIST
    assert view.mkdir_error(b"/text") == errno.EEXIST
    assert view.read(b"/text", 0, 100) == TEXT


@case
def creation(view: View, world: World) -> None:
    for path in (b"/dev/new", b"/a/b/new"):
        assert view.create_error(path) == errno.EPERM
        assert view.mkdir_error(path) == errno.EPERM
    expected = errno.EPERM if not world.real else 0
    assert view.create_error(b"/new") == expected
    assert view.mkdir_error(b"/etc/new") == expected
    assert (b"new" in view.names(b"/etc")) == (expected == 0)


@case
def extended_attributes(view: View, world: World) -> None:
    for path in (b"/text", b"/dev"):
        assert view.getxattr_error(path) == errno.ENODATA
        assert view.listxattr(path) == []


@case
def one_shot_is_used_up_by_reading(view: View, world: World) -> None:
    assert b"once" not in view.names(b"/")
    assert view.read(b"/once", 0, 100) == b"secret"
    for _ in range(2):
        assert view.lookup_error(b"/once") == errno.ENOENT
    assert view.open_error(b"/once", 0) == errno.ENOENT
    assert view.create_error(b"/once") == errno.EPERM
    assert b"once" not in view.names(b"/")


@case
def one_shot_is_used_up_by_looking(view: View, world: World) -> None:
    assert view.stat(b"/once")[:3] == (stat.S_IFREG | 0o644, 6, 1)
    assert view.lookup_error(b"/once") == errno.ENOENT


@case
def one_shot_is_read_in_pieces(view: View, world: World) -> None:
    assert view.reads(b"/once", [(0, 2), (2, 10), (6, 10), (0, 6)]) == [b"se", b"cret", b"", b"secret"]


@case
def syncing(view: View, world: World) -> None:
    view.sync(b"/")
    view.sync(b"/text")


@case
def exit_codes(view: View, world: World) -> None:
    view.exit_code(b"/", 42)
    view.exit_code(b"/text", 0x1FF)
    view.exit_code(b"/dev", 7)
