"""Virtual entries over a real tree: what is hidden, what is merged, and who counts the look-ups."""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Iterator

import pytest

from pykrun.fs import AugmentFs, InodeAllocator
from tests.fs.memory import MemoryFs
from tests.fuse import guest as fuse
from tests.fuse.guest import Guest


class World:
    def __init__(self, *, last_cookie: int | None = None) -> None:
        allocator = InodeAllocator()
        self.inner = MemoryFs(allocator, last_cookie=last_cookie)
        self.inner.plant(b"/etc/passwd", b"root")
        self.inner.plant(b"/etc/hosts", b"inner hosts")
        self.inner.plant(b"/bin", b"a file where a virtual directory lies")
        self.inner.plant(b"/usr/lib/libc", b"libc")
        self.inner.plant(b"/plain", b"plain")
        self.fs = AugmentFs(self.inner, allocator)
        self.fs.add_directory(b"/etc", mode=0o700)
        self.fs.add_file(b"/etc/hosts", b"virtual hosts")
        self.fs.add_file(b"/etc/extra", b"extra")
        self.fs.add_file(b"/etc/secret", b"secret", one_shot=True)
        self.fs.add_directory(b"/bin")
        self.fs.add_file(b"/bin/sh", b"shell")
        self.fs.add_directory(b"/only")
        self.fs.add_directory(b"/only/virtual")
        self.guest = Guest(self.fs)


@pytest.fixture(params=[None, (1 << 63) - 1], ids=["small cookies", "ext4's last cookie"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    made = World(last_cookie=request.param)
    yield made
    assert made.guest.server.faults == 0
    made.guest.server.reset()
    assert made.inner.lookups == {}
    assert made.inner.handles == set()


def test_inner_entries_are_seen(world: World) -> None:
    for path, content in ((b"/etc/passwd", b"root"), (b"/usr/lib/libc", b"libc"), (b"/plain", b"plain")):
        assert world.guest.content(path) == content


def test_virtual_names_hide_inner_ones(world: World) -> None:
    assert world.guest.content(b"/etc/hosts") == b"virtual hosts"
    assert world.guest.content(b"/bin/sh") == b"shell"
    assert world.guest.walk(b"/bin").attr.mode == stat.S_IFDIR | 0o755


def test_a_directory_over_an_inner_one_is_the_inner_one(world: World) -> None:
    inner = world.inner.find(b"/etc")
    etc = world.guest.walk(b"/etc")
    assert (etc.nodeid, etc.attr.ino, etc.attr.mode) == (inner.ino, inner.ino, stat.S_IFDIR | 0o755)
    assert world.guest.getattr(etc.nodeid).ino == inner.ino


def listed(world: World, path: bytes, *, plus: bool, size: int = 4096) -> list[fuse.Dirent]:
    node = world.guest.walk(path).nodeid if path != b"/" else 1
    return world.guest.listing(node, plus=plus, size=size)


@pytest.mark.parametrize("size", [176, 200, 300, 4096])
@pytest.mark.parametrize("plus", [False, True])
def test_listings_show_both_without_duplicates(world: World, plus: bool, size: int) -> None:
    root = [entry.name for entry in listed(world, b"/", plus=plus, size=size)]
    assert root[:2] == [b".", b".."]
    assert sorted(root[2:]) == [b"bin", b"etc", b"only", b"plain", b"usr"]
    etc = [entry.name for entry in listed(world, b"/etc", plus=plus, size=size)]
    assert sorted(etc) == [b".", b"..", b"extra", b"hosts", b"passwd"]
    assert [entry.name for entry in listed(world, b"/bin", plus=plus, size=size)] == [b".", b"..", b"sh"]
    assert [entry.name for entry in listed(world, b"/only", plus=plus, size=size)] == [b".", b"..", b"virtual"]
    assert [entry.name for entry in listed(world, b"/only/virtual", plus=plus, size=size)] == [b".", b".."]


@pytest.mark.parametrize("plus", [False, True])
def test_numbers_in_listings_are_those_of_stat(world: World, plus: bool) -> None:
    for path in (b"/", b"/etc", b"/bin", b"/only"):
        for entry in listed(world, path, plus=plus):
            if entry.name not in (b".", b".."):
                found = world.guest.walk(path.rstrip(b"/") + b"/" + entry.name)
                assert (entry.ino, entry.kind) == (found.attr.ino, found.attr.mode >> 12), (path, entry)
                assert not plus or entry.nodeid == found.nodeid


def test_dots_are_right(world: World) -> None:
    dots = {path: [entry.ino for entry in listed(world, path, plus=False)[:2]] for path in (b"/", b"/etc", b"/only")}
    only = world.guest.walk(b"/only").attr.ino
    virtual = world.guest.walk(b"/only/virtual").attr.ino
    assert dots == {b"/": [1, 1], b"/etc": [world.inner.find(b"/etc").ino, 1], b"/only": [only, 1]}
    assert [entry.ino for entry in listed(world, b"/only/virtual", plus=False)[:2]] == [virtual, only]


def test_dots_below_a_merged_directory(world: World) -> None:
    world.fs.add_directory(b"/etc/conf.d")
    etc, conf = world.guest.walk(b"/etc").attr.ino, world.guest.walk(b"/etc/conf.d").attr.ino
    assert [entry.ino for entry in listed(world, b"/etc/conf.d", plus=False)] == [conf, etc]


def test_readdirplus_counts_what_it_tells(world: World) -> None:
    before = dict(world.inner.lookups)
    entries = listed(world, b"/", plus=True)
    told = {entry.name: entry.nodeid for entry in entries}
    assert told[b"."] == told[b".."] == 0
    assert world.inner.lookups == {**before, told[b"etc"]: 1, told[b"usr"]: 1, told[b"plain"]: 1}
    for name in (b"etc", b"usr", b"plain", b"bin", b"only"):
        world.guest.getattr(told[name])
        world.guest.forget(told[name])
        assert world.guest.call(fuse.GETATTR, told[name], bytes(16)).error == errno.ESTALE
    assert world.inner.lookups == before


@pytest.mark.parametrize("size", [176, 300])
def test_readdirplus_gives_back_what_does_not_fit(world: World, size: int) -> None:
    listed(world, b"/", plus=True, size=size)
    assert set(world.inner.lookups.values()) == {1}
    assert set(world.inner.lookups) == {world.inner.find(name).ino for name in (b"/etc", b"/usr", b"/plain")}


def test_lookups_are_counted_inward(world: World) -> None:
    etc = world.inner.find(b"/etc").ino
    for _ in range(3):
        assert world.guest.walk(b"/etc").nodeid == etc
    assert world.inner.lookups == {etc: 3}
    world.guest.walk(b"/bin")  # the inner file of that name was looked up, and given back
    assert world.inner.lookups == {etc: 3}
    world.guest.forget(etc, 2)
    assert world.inner.lookups == {etc: 1}
    world.guest.batch_forget((etc, 1), (1, 5))
    assert world.inner.lookups == {}


def test_one_shot_in_a_merged_directory_is_not_listed_but_found(world: World) -> None:
    for plus in (False, True):
        assert b"secret" not in [entry.name for entry in listed(world, b"/etc", plus=plus)]
    assert world.guest.content(b"/etc/secret") == b"secret"


def create(world: World, directory: int, name: bytes) -> int:
    body = struct.pack("<IIII", 0o102, 0o100640, 0, 0) + name + b"\0"
    return world.guest.call(fuse.CREATE, directory, body, caller=(5, 6, 7)).error


def test_a_merged_directory_takes_new_names(world: World) -> None:
    etc = world.guest.walk(b"/etc").nodeid
    assert create(world, etc, b"new") == 0
    node = world.inner.find(b"/etc/new")
    assert (node.mode, node.uid, node.gid) == (stat.S_IFREG | 0o640, 5, 6)
    assert create(world, etc, b"hosts") == errno.EEXIST
    assert world.guest.call(fuse.MKDIR, etc, struct.pack("<II", 0o755, 0) + b"sub\0").error == 0
    assert world.guest.call(fuse.RENAME, etc, struct.pack("<Q", 1) + b"new\0moved\0").error == 0
    assert world.guest.call(fuse.UNLINK, 1, b"moved\0").error == 0
    assert world.guest.call(fuse.RMDIR, etc, b"sub\0").error == 0
    assert world.guest.call(fuse.UNLINK, etc, b"passwd\0").error == 0
    assert sorted(world.inner.find(b"/etc").names) == [b"hosts"]


def test_a_merged_directory_can_be_changed(world: World) -> None:
    etc = world.guest.walk(b"/etc").nodeid
    body = struct.pack("<I4xQQQQQQIIII4xII4x", 1, *(0,) * 9, 0o40711, 0, 0)
    assert fuse.attr(world.guest.good(fuse.SETATTR, etc, body)[16:]).mode == stat.S_IFDIR | 0o711
    assert world.guest.good(fuse.SETXATTR, etc, struct.pack("<II", 1, 0) + b"user.x\0v") == b""


def test_an_inner_directory_that_was_replaced_is_found_again(world: World) -> None:
    old = world.guest.walk(b"/etc").nodeid
    del world.inner.root.names[b"etc"]
    assert world.guest.walk(b"/etc").attr.ino > 1 << 62  # purely virtual now
    new = world.inner.plant(b"/etc/passwd", b"new").parent.ino
    assert world.guest.walk(b"/etc").nodeid == new
    assert world.guest.content(b"/etc/extra") == b"extra"
    assert world.guest.lookup_error(old, b"extra") == errno.ENOENT


def test_an_error_below_is_not_taken_for_absence() -> None:
    class Broken(MemoryFs):
        def lookup(self, parent: int, name: bytes) -> object:  # type: ignore[override]  # never returns
            raise OSError(errno.EIO, "the disk is gone")

    allocator = InodeAllocator()
    fs = AugmentFs(Broken(allocator), allocator)
    fs.add_directory(b"/etc")
    assert Guest(fs).lookup_error(1, b"etc") == errno.EIO


def test_wrappers_nest() -> None:
    allocator = InodeAllocator()
    inner = AugmentFs(MemoryFs(allocator), allocator)
    inner.add_directory(b"/a")
    inner.add_file(b"/a/one", b"1")
    codes: list[int] = []
    outer = AugmentFs(inner, allocator, on_exit_code=codes.append)
    outer.add_directory(b"/a")
    outer.add_file(b"/a/two", b"2")
    guest = Guest(outer)
    assert guest.content(b"/a/one") == b"1"
    assert guest.content(b"/a/two") == b"2"
    assert guest.names(guest.walk(b"/a").nodeid) == [b".", b"..", b"one", b"two"]
    assert guest.ioctl(1, 0x7602, 3).error == 0
    assert (codes, inner.exit_code) == ([3], None)
