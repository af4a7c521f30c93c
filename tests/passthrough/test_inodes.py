"""What the server remembers: look-up counts, and the three ways in which an inode is found again."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import time
from pathlib import Path

import pytest

from pykrun.fs.passthrough.inodes import Inode
from tests.fuse import guest as fuse
from tests.fuse.guest import dirents, io_in
from tests.passthrough.shared import Share, created, descriptors

SETATTR = struct.Struct("<IIQQQQQQIIIIIIII").pack


def inode_of(share: Share, number: int) -> Inode:
    return share.fs._inodes.get(number)


def size(share: Share, node: int) -> int:
    return share.guest.getattr(node).size


def getattr_error(share: Share, node: int) -> int:
    return share.call(fuse.GETATTR, node, bytes(16)).error


# Counting


def test_look_ups_are_counted_and_taken_back(share: Share) -> None:
    share.put("file", b"content")
    node = share.node(b"file")
    for _ in range(4):
        assert share.node(b"file") == node
    assert inode_of(share, node).lookups == 5
    share.guest.forget(node, 4)
    assert size(share, node) == 7
    share.guest.forget(node, 1)
    assert getattr_error(share, node) == errno.ESTALE
    assert len(share.fs._inodes) == 1
    assert share.node(b"file") != node, "a number is never used twice"


def test_every_operation_that_names_an_inode_counts(share: Share) -> None:
    body = struct.pack("<II", 0o755, 0)
    directory = fuse.entry_out(share.guest.good(fuse.MKDIR, 1, body + b"d\0")).nodeid
    link = fuse.entry_out(share.guest.good(fuse.SYMLINK, 1, b"l\0target\0")).nodeid
    fifo = fuse.entry_out(share.guest.good(fuse.MKNOD, 1, struct.pack("<IIII", 0o010600, 0, 0, 0) + b"p\0")).nodeid
    file, handle = created(share.create(1, b"f"))
    again = fuse.entry_out(share.guest.good(fuse.LINK, directory, struct.pack("<Q", file) + b"g\0")).nodeid
    nameless = share.guest.good(fuse.TMPFILE, 1, struct.pack("<IIII", os.O_RDWR, 0o100600, 0, 0) + b"/\0")
    other = fuse.entry_out(nameless[:128]).nodeid
    assert again == file
    counts = {node: inode_of(share, node).lookups for node in (directory, link, fifo, file, other)}
    assert counts == {directory: 1, link: 1, fifo: 1, file: 2, other: 1}
    share.guest.batch_forget((directory, 1), (link, 1), (fifo, 1), (file, 2), (other, 1))
    assert len(share.fs._inodes) == 1
    share.guest.release(file, handle)


def test_listings_with_attributes_count_what_they_tell(share: Share) -> None:
    for number in range(50):
        share.put(f"{number}", b"x" * number)
    told = share.guest.listing(1, plus=True, size=1000)
    assert all(entry.nodeid for entry in told if entry.name not in (b".", b".."))
    for entry in told:
        if entry.nodeid:
            assert size(share, entry.nodeid) == int(entry.name)
            assert inode_of(share, entry.nodeid).lookups == 1
            share.guest.forget(entry.nodeid)
    assert len(share.fs._inodes) == 1


def test_one_file_has_one_inode_whatever_its_name(share: Share) -> None:
    os.link(share.put("a"), share.folder / "b")
    (share.folder / "d").mkdir()
    os.link(share.folder / "a", share.folder / "d/c")
    assert len({share.node(b"a"), share.node(b"b"), share.node(b"d/c")}) == 1


# Without descriptors


def test_looking_takes_no_descriptors(share: Share) -> None:
    for number in range(300):
        share.put(f"d/{number}", b"12345")
    directory = share.node(b"d")
    before = descriptors()
    nodes = [share.guest.lookup(directory, b"%d" % number).nodeid for number in range(300)]
    assert [size(share, node) for node in nodes] == [5] * 300
    assert len(share.guest.names(directory)) == 302
    assert descriptors() - before <= 2  # the directory itself, and its listing


def test_pins_are_bounded_and_come_back(tmp_path: Path) -> None:
    share = Share(tmp_path, limit=120)  # 30 pins
    for number in range(200):
        share.put(f"{number}/file", b"%d" % number)
    nodes = [(share.node(b"%d" % number), b"%d" % number) for number in range(200)]
    files = [(share.guest.lookup(node, b"file").nodeid, text) for node, text in nodes]
    assert len(share.fs._inodes._pins) <= 30
    for node, text in files[::-1]:
        handle = share.guest.open(node)
        assert share.guest.read(node, handle) == text
        share.guest.release(node, handle)
        assert descriptors() - share.before < 60
    share.end()


def test_deep_trees_need_no_descriptor_each(tmp_path: Path) -> None:
    share = Share(tmp_path, limit=120)
    path = b""
    for _ in range(100):
        path += b"/d"
        os.mkdir(os.fsencode(tmp_path) + path)
    share.put("d" + "/d" * 99 + "/file", b"deep")
    node = share.node(path + b"/file")
    share.fs._inodes.give_up(1000)
    assert size(share, node) == 4
    share.fs._inodes.give_up(1000)
    handle = share.guest.open(node)
    assert share.guest.read(node, handle) == b"deep"
    share.guest.release(node, handle)
    share.end()


def test_a_number_of_the_host_is_told_apart_over_time(share: Share) -> None:
    """A file goes, and another gets its number: the guest must not take it for the first."""
    old = share.put("old", b"first")
    node, number = share.node(b"old"), old.stat().st_ino
    for _ in range(200):
        old.unlink()
        if share.put("new", b"second").stat().st_ino == number:
            break
        (share.folder / "new").rename(old)
    else:
        pytest.skip("this file system does not use numbers again soon")
    other = share.node(b"new")
    assert other != node
    assert getattr_error(share, node) == errno.ESTALE
    assert size(share, other) == 6


# What the host does meanwhile


def test_a_file_that_the_host_renames_is_looked_up_again(share: Share) -> None:
    share.put("a", b"content")
    node = share.node(b"a")
    os.rename(share.folder / "a", share.folder / "b")
    assert getattr_error(share, node) == errno.ESTALE
    assert share.call(fuse.OPEN, node, bytes(8)).error == errno.ESTALE
    assert share.node(b"b") == node, "the same file, so the same inode"
    assert size(share, node) == 7


def test_a_file_that_the_host_replaces(share: Share) -> None:
    share.put("a", b"old content")
    node = share.node(b"a")
    share.put("new", b"new")
    os.rename(share.folder / "new", share.folder / "a")
    assert share.call(fuse.OPEN, node, bytes(8)).error == errno.ESTALE
    other = share.node(b"a")
    assert other != node
    assert share.guest.content(b"a") == b"new"


def test_what_is_pinned_moves_along(share: Share) -> None:
    share.put("d/file", b"content")
    directory, node = share.node(b"d"), share.node(b"d/file")
    handle = share.guest.open(node)
    os.rename(share.folder / "d", share.folder / "away")
    os.rename(share.folder / "away/file", share.folder / "elsewhere")
    assert share.guest.read(node, handle) == b"content"
    assert size(share, node) == 7
    assert share.guest.names(directory) == [b".", b".."]
    share.create(directory, b"made")
    assert (share.folder / "away/made").exists()
    share.guest.release(node, handle)


def test_a_directory_and_its_parent_change_places_on_the_host(share: Share) -> None:
    """Hints could go round in a circle."""
    (share.folder / "a/b").mkdir(parents=True)
    a, b = share.node(b"a"), share.node(b"a/b")
    os.rename(share.folder / "a/b", share.folder / "b")
    os.rename(share.folder / "a", share.folder / "b/a")
    assert share.guest.lookup(b, b"a").nodeid == a if inode_of(share, b).fd >= 0 else True
    share.guest.call(fuse.LOOKUP, b, b"a\0")
    share.fs._inodes.give_up(1000)
    for node in (a, b):
        assert getattr_error(share, node) in (0, errno.ESTALE)
    assert share.node(b"b") == b
    assert share.node(b"b/a") == a


# What the guest does


def test_what_the_guest_removes_stays_within_its_reach(share: Share) -> None:
    share.put("file", b"content")
    (share.folder / "dir").mkdir()
    file, directory = share.node(b"file"), share.node(b"dir")
    assert share.call(fuse.UNLINK, 1, b"file\0").error == 0
    assert share.call(fuse.RMDIR, 1, b"dir\0").error == 0
    share.fs._inodes.give_up(1000)
    assert (size(share, file), share.guest.getattr(file).nlink) == (7, 0)
    assert share.guest.getattr(directory).nlink == 0
    handle = share.guest.open(file)
    assert share.guest.read(file, handle) == b"content"
    share.guest.release(file, handle)
    assert share.create(directory, b"new").error == errno.ENOENT


def test_what_a_rename_replaces_stays_within_reach(share: Share) -> None:
    share.put("a", b"new")
    share.put("b", b"older")
    old, new = share.node(b"b"), share.node(b"a")
    assert share.call(fuse.RENAME, 1, struct.pack("<Q", 1) + b"a\0b\0").error == 0
    assert (size(share, old), size(share, new)) == (5, 3)
    assert share.node(b"b") == new


def test_what_a_rename_moves_is_found_at_its_new_place(share: Share) -> None:
    share.put("a/x", b"content")
    (share.folder / "b").mkdir()
    a, b, x = share.node(b"a"), share.node(b"b"), share.node(b"a/x")
    for parent, name, new_parent, new_name in ((a, b"x", b, b"y"), (1, b"b", a, b"b"), (b, b"y", 1, b"z")):
        body = struct.pack("<Q", new_parent) + name + b"\0" + new_name + b"\0"
        assert share.call(fuse.RENAME, parent, body).error == 0
        share.fs._inodes.give_up(1000)
        assert size(share, x) == 7
    assert share.node(b"z") == x


@pytest.mark.parametrize("opcode", [fuse.RENAME, fuse.LINK])
def test_giving_up_pins_spares_those_in_use(tmp_path: Path, opcode: int) -> None:
    """Two directories take part, and reaching the second would close the first: its number would mean another."""
    share = Share(tmp_path, limit=64)  # 16 pins
    nodes = []
    for number in range(16):
        share.put(f"{number}/file", b"%d" % number)
        nodes.append(share.node(b"%d" % number))
    (tmp_path / "target").mkdir()
    (tmp_path / "target/file").write_bytes(b"another")
    for node in nodes:
        share.guest.lookup(node, b"file")
    oldest, target = nodes[0], share.node(b"target")
    assert next(iter(share.fs._inodes._pins)).ino == oldest
    assert len(share.fs._inodes._pins) == 16
    if opcode == fuse.RENAME:
        body = struct.pack("<Q", target) + b"file\0moved\0"
        assert share.call(fuse.RENAME, oldest, body).error == 0
    else:
        body = struct.pack("<Q", oldest) + b"moved\0"
        assert share.call(fuse.LINK, target, body).error == errno.EPERM  # a directory: the right file, at least
        body = struct.pack("<Q", share.guest.lookup(oldest, b"file").nodeid) + b"moved\0"
        assert share.call(fuse.LINK, target, body).error == 0
    assert (tmp_path / "target/moved").read_bytes() == b"0"
    assert (tmp_path / "target/file").read_bytes() == b"another"
    share.end()


def test_a_guest_that_forgets_nothing_cannot_hold_every_descriptor(tmp_path: Path) -> None:
    share = Share(tmp_path, limit=120)
    nodes = []
    for number in range(300):
        node, handle = created(share.create(1, b"%d" % number))
        share.guest.release(node, handle)
        assert share.call(fuse.UNLINK, 1, b"%d\0" % number).error == 0
        nodes.append(node)
        assert descriptors() - share.before < 120
    outcomes = [getattr_error(share, node) for node in nodes]
    assert outcomes[:30] == [0] * 30
    assert set(outcomes[40:]) == {errno.ESTALE}
    share.end()


def test_open_files_and_directories_are_bounded(tmp_path: Path) -> None:
    from pykrun.fs.passthrough import Options

    share = Share(tmp_path, Options(cache="never"), limit=120)  # 40 open ones
    share.put("file")
    node = share.node(b"file")
    for opcode, target in ((fuse.OPEN, node), (fuse.OPENDIR, 1)):
        share.guest.server.reset()
        share.guest.init()
        node = share.node(b"file")
        target = node if opcode == fuse.OPEN else 1
        outcomes = [share.call(opcode, target, bytes(8)).error for _ in range(60)]
        assert outcomes == [0] * 40 + [errno.ENFILE] * 20
    assert share.create(1, b"new").error == errno.ENFILE
    assert not (tmp_path / "new").exists()
    share.end()


def test_listings_in_progress_are_bounded_and_go_on(share: Share) -> None:
    for number in range(80):
        for name in range(40):
            share.put(f"{number}/{name:050d}")
    nodes = [share.node(b"%d" % number) for number in range(80)]
    assert share.guest.opendir(1) == 0, "the guest is told that it need not"
    before = descriptors()
    offsets = dict.fromkeys(nodes, 0)
    seen: dict[int, list[bytes]] = {node: [] for node in nodes}
    open_ones = set(nodes)
    while open_ones:
        for node in list(open_ones):
            body = share.guest.good(fuse.READDIR, node, io_in(0, offsets[node], 600), room=616)
            entries = list(dirents(body, plus=False))
            if not entries:
                open_ones.remove(node)
                continue
            seen[node] += [entry.name for entry in entries]
            offsets[node] = entries[-1].off
        assert descriptors() - before < 120
    for names in seen.values():
        assert len(names) == len(set(names)) == 42


def test_cookies_of_another_directory_are_only_offsets(share: Share) -> None:
    share.put("a/1")
    share.put("b/2")
    a = share.node(b"a")
    assert share.guest.opendir(1) == 0
    for offset in (1, 7, 1 << 40, (1 << 63) - 1):
        reply = share.call(fuse.READDIR, a, io_in(0, offset, 4096))
        assert reply.error in (0, errno.EINVAL)
    assert sorted(share.guest.names(a)) == [b".", b"..", b"1"]


@pytest.mark.parametrize("opcode", [fuse.READDIR, fuse.READDIRPLUS])
def test_an_error_within_a_listing_comes_after_what_was_read(
    share: Share, opcode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(600):
        share.put(f"{number:0200d}")
    assert share.guest.opendir(1) == 0
    reader = share.fs._reader
    reads = [reader.read]

    def failing(descriptor: int) -> bytes:
        if not reads:
            raise OSError(errno.EIO, "the disk is gone")
        return reads.pop()(descriptor)

    monkeypatch.setattr(reader, "read", failing)
    body = share.guest.good(opcode, 1, io_in(0, 0, 1 << 20), room=(1 << 20) + 16)
    told = list(dirents(body, plus=opcode == fuse.READDIRPLUS))
    assert 50 < len(told) < 600
    for entry in told:
        if entry.nodeid:
            share.guest.forget(entry.nodeid)
    assert share.call(opcode, 1, io_in(0, told[-1].off, 4096)).error == errno.EIO
    assert len(share.fs._inodes) == 1


@pytest.mark.root
def test_what_an_overlay_copies_up_stays_the_same(tmp_path: Path) -> None:
    """A file or directory of the lower layer that is written to is born again, under its old number."""
    lower, upper, work, top = (tmp_path / name for name in ("lower", "upper", "work", "top"))
    for folder in (lower, upper, work, top):
        folder.mkdir()
    (lower / "folder").mkdir()
    (lower / "folder/file").write_text("content")
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    mounting = ["mount", "-t", "overlay", "overlay", "-o", options, str(top)]
    if subprocess.run(mounting, capture_output=True, timeout=30).returncode:
        pytest.skip("no overlay can be mounted here")
    try:
        share = Share(top)
        try:
            folder = share.node(b"folder")
            file = share.node(b"folder/file")
            share.fs._inodes.give_up(100)
            time.sleep(0.02)
            with open(top / "folder/file", "a") as stream:
                stream.write(" and more")
            assert (upper / "folder/file").exists()
            assert size(share, file) == 16
            assert getattr_error(share, folder) == 0
            assert share.node(b"folder/file") == file
            assert share.node(b"folder") == folder
        finally:
            share.end()
    finally:
        subprocess.run(["umount", str(top)], check=True, timeout=30)
