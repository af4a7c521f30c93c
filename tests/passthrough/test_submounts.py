"""Other file systems of the host below the shared folder: inodes are told apart, and the guest learns of each."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykrun.fs import InodeAllocator
from pykrun.fs.passthrough import Options, PassthroughFs
from pykrun.host import linux
from tests.fuse import guest as fuse
from tests.fuse.mounts import mounted
from tests.passthrough.shared import Share

SUBMOUNT = 1
pytestmark = pytest.mark.root


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A folder with a memory file system in `other`, and `here` to be seen in `there` too."""
    folder = tmp_path / "tree"
    for name in ("other", "here/sub", "there", "one-file", "plain"):
        (folder / name).mkdir(parents=True)
    (folder / "here/file").write_bytes(b"here")
    linux.mount("none", str(folder / "other"), "tmpfs")
    (folder / "other/file").write_bytes(b"other")
    (folder / "other/dir").mkdir()
    linux.mount(str(folder / "here"), str(folder / "there"), None, linux.MS_BIND)
    yield folder
    for name in ("other", "there"):
        linux.unmount(str(folder / name), linux.MNT_DETACH)


def test_where_another_begins_is_told(tree: Path) -> None:
    share = Share(tree)
    flags = {name: share.guest.lookup(1, name).attr.flags for name in (b"other", b"there", b"here", b"plain")}
    assert flags == {b"other": SUBMOUNT, b"there": SUBMOUNT, b"here": 0, b"plain": 0}
    other = share.node(b"other")
    assert share.guest.lookup(other, b"dir").attr.flags == 0
    assert share.guest.content(b"other/file") == b"other"
    told = {entry.name: entry.nodeid for entry in share.guest.listing(1, plus=True)}
    assert told[b"other"] == other
    share.end()


def test_the_same_folder_in_two_places_is_two(tree: Path) -> None:
    share = Share(tree)
    assert share.node(b"here") != share.node(b"there")
    assert share.node(b"here/file") != share.node(b"there/file")
    assert share.guest.content(b"there/file") == b"here"
    share.end()


def test_not_told_unless_wanted(tree: Path) -> None:
    share = Share(tree, Options(submounts=False))
    assert share.guest.lookup(1, b"other").attr.flags == 0
    share.end()


def test_links_and_renames_end_at_the_border(tree: Path) -> None:
    share = Share(tree)
    other, file = share.node(b"other"), share.node(b"here/file")
    here = share.node(b"here")
    assert share.call(fuse.LINK, other, struct.pack("<Q", file) + b"new\0").error == errno.EXDEV
    assert share.call(fuse.RENAME, here, struct.pack("<Q", other) + b"file\0new\0").error == errno.EXDEV
    assert share.call(fuse.RMDIR, 1, b"other\0").error == errno.EBUSY
    share.end()


@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here")
def test_programs_go_through(tree: Path, tmp_path: Path) -> None:
    """Linux makes mounts of them for virtio-fs only: over /dev/fuse all have one device number."""
    target = tmp_path / "target"
    target.mkdir()
    with mounted(PassthroughFs(str(tree), InodeAllocator()), target):
        assert (target / "other/file").read_bytes() == b"other"
        (target / "other/new").write_bytes(b"new")
        assert sorted(os.listdir(target / "other")) == ["dir", "file", "new"]
        assert (target / "there/file").read_bytes() == b"here"
        with pytest.raises(OSError, match="cross-device"):
            os.rename(target / "other/new", target / "new")
    assert (tree / "other/new").read_bytes() == b"new"
