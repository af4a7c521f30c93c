"""Cache policies: what the guest is told that it may keep, how few requests follow, and that changes are seen."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykrun.fs import InodeAllocator
from pykrun.fs.passthrough import CACHES, Cache, Options, PassthroughFs
from tests.fuse import guest as fuse
from tests.fuse.mounts import Outcome, mounted
from tests.passthrough.shared import Share, created

DIRECT_IO, KEEP_CACHE, NOFLUSH = 1, 2, 32
DAY = 86400


def open_flags(share: Share, node: int, flags: int = os.O_RDONLY) -> int:
    body = share.guest.good(fuse.OPEN, node, struct.pack("<II", flags, 0))
    handle, told, _ = struct.unpack("<QII", body)
    share.guest.release(node, handle)
    return int(told)


# What is told


@pytest.mark.parametrize(("cache", "seconds"), [("auto", 1), ("always", DAY), ("never", 0)])
def test_timeouts(tmp_path: Path, cache: str, seconds: int) -> None:
    share = Share(tmp_path, Options(cache=cache))
    share.put("file")
    found = share.guest.lookup(1, b"file")
    assert (found.entry_valid, found.attr_valid) == (seconds, seconds)
    assert struct.unpack_from("<Q", share.guest.good(fuse.GETATTR, 1, bytes(16)))[0] == seconds
    missing = fuse.entry_out(share.guest.good(fuse.LOOKUP, 1, b"missing\0"))
    assert (missing.nodeid, missing.entry_valid) == (0, seconds)
    assert (share.guest.opendir(1) == 0) == (cache != "never")
    share.end()


def test_a_policy_of_ones_own(tmp_path: Path) -> None:
    share = Share(tmp_path, Options(cache=Cache(0.25, 2.5, 0.0, listings=False, data="always")))
    share.put("file")
    body = share.guest.good(fuse.LOOKUP, 1, b"file\0")
    assert struct.unpack_from("<QQII", body, 16) == (0, 2, 250_000_000, 500_000_000)
    share.end()


def test_there_is_no_other_policy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="auto, always, never"):
        Share(tmp_path, Options(cache="sometimes"))
    assert set(CACHES) == {"auto", "always", "never"}


@pytest.mark.parametrize(("cache", "flags"), [("always", KEEP_CACHE), ("never", DIRECT_IO)])
def test_what_may_be_kept_of_a_file(tmp_path: Path, cache: str, flags: int) -> None:
    share = Share(tmp_path, Options(cache=cache))
    share.put("file", b"content")
    assert open_flags(share, share.node(b"file")) & ~NOFLUSH == flags
    share.end()


def settled(path: Path) -> None:
    """Wait until the clock of change times has ticked."""
    while time.time_ns() - path.stat().st_ctime_ns < 50_000_000:
        time.sleep(0.01)


def test_pages_are_good_as_long_as_the_file_is_unchanged(share: Share) -> None:
    target = share.put("file", b"content")
    node = share.node(b"file")
    settled(target)
    assert open_flags(share, node) & KEEP_CACHE == 0, "nothing is known of the first open"
    assert open_flags(share, node) & KEEP_CACHE
    assert open_flags(share, node) & KEEP_CACHE
    status = target.stat()
    target.write_bytes(b"CONTENT")
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))  # size and time of modification as before
    settled(target)
    assert open_flags(share, node) & KEEP_CACHE == 0
    assert open_flags(share, node) & KEEP_CACHE


def test_a_change_within_one_tick_is_not_missed(share: Share) -> None:
    """The time of change may be the same after a second change: it is believed only when it is old enough."""
    target = share.put("file", b"1")
    node = share.node(b"file")
    for _ in range(20):
        target.write_bytes(b"2")
        first, second = open_flags(share, node), open_flags(share, node)
        if time.time_ns() - target.stat().st_ctime_ns < 15_000_000:
            assert (first | second) & KEEP_CACHE == 0


@pytest.mark.parametrize("remote", [False, True])
def test_flush_is_left_out_unless_locks_need_it(tmp_path: Path, remote: bool) -> None:
    share = Share(tmp_path, Options(posix_locks=remote))
    share.put("file")
    assert bool(open_flags(share, share.node(b"file")) & NOFLUSH) != remote
    share.end()


def test_collected_writes_need_a_file_that_can_be_read(tmp_path: Path) -> None:
    share = Share(tmp_path, Options(writeback=True))
    share.put("file", b"content")
    node = share.node(b"file")
    handle = share.guest.open(node, os.O_WRONLY | os.O_APPEND)
    assert share.guest.read(node, handle) == b"content"
    assert share.guest.write(node, handle, 0, b"C").error == 0
    assert (tmp_path / "file").read_bytes() == b"Content"
    made, other = created(share.create(1, b"new", os.O_WRONLY))
    assert share.guest.read(made, other) == b""
    share.end()


def test_direct_input_and_output_is_the_hosts_only_where_asked_for(tmp_path: Path) -> None:
    for direct in (False, True):
        share = Share(tmp_path, Options(direct_io=direct))
        share.put("file")
        node = share.node(b"file")
        handle = share.guest.open(node, os.O_RDONLY | os.O_DIRECT)
        import fcntl

        opened = share.guest.server._session.files[handle][1].fd
        assert bool(fcntl.fcntl(opened, fcntl.F_GETFL) & os.O_DIRECT) == direct
        share.end()


# What a kernel makes of it

needs_fuse = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here")


class Mounted:
    def __init__(self, source: Path, target: Path, outcome: Outcome) -> None:
        self.source = source
        self.target = target
        self.outcome = outcome


@pytest.fixture
def mount(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Mounted]:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "a/b").mkdir(parents=True)
    target.mkdir()
    (source / "a/b/file").write_bytes(b"content")
    settled(source / "a/b/file")
    with mounted(PassthroughFs(str(source), InodeAllocator(), Options(cache=request.param)), target) as outcome:
        yield Mounted(source, target, outcome)


def cache(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("mount", [name], indirect=True)


@needs_fuse
@pytest.mark.root
@pytest.mark.parametrize("cache", ["auto", "always"])
def test_a_guest_that_knows_does_not_ask_again(tmp_path: Path, cache: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "a/b").mkdir(parents=True)
    target.mkdir()
    (source / "a/b/file").write_bytes(b"content")
    settled(source / "a/b/file")
    with mounted(PassthroughFs(str(source), InodeAllocator(), Options(cache=cache)), target) as outcome:
        start = time.monotonic()
        while time.monotonic() - start < 0.4:
            os.stat(target / "a/b/file")
            assert (target / "a/b/file").read_bytes() == b"content"
            assert os.listdir(target / "a") == ["b"]
            assert not os.path.exists(target / "a/missing")
    counts = outcome.statistics
    assert counts["LOOKUP"] <= 8
    assert counts["READ"] <= 3, "a second open keeps the pages"
    assert counts.get("READDIR", 0) + counts.get("READDIRPLUS", 0) <= 4
    assert counts["OPENDIR"] == 1, "directories need not be opened"
    assert "FLUSH" not in counts
    assert "RELEASEDIR" not in counts
    assert counts["OPEN"] > 5


@needs_fuse
@pytest.mark.root
@cache("auto")
def test_changes_on_the_host_are_seen_within_a_second(mount: Mounted) -> None:
    file = mount.target / "a/b/file"
    assert file.read_bytes() == b"content"
    assert os.listdir(mount.target / "a/b") == ["file"]
    assert not (mount.target / "a/b/new").exists()
    (mount.source / "a/b/file").write_bytes(b"changed now")
    (mount.source / "a/b/new").write_bytes(b"new")
    time.sleep(1.1)
    assert file.read_bytes() == b"changed now"
    assert file.stat().st_size == 11
    assert (mount.target / "a/b/new").read_bytes() == b"new"
    assert sorted(os.listdir(mount.target / "a/b")) == ["file", "new"]
    os.rename(mount.source / "a/b/new", mount.source / "a/b/file")
    (mount.source / "a/b/other").mkdir()
    time.sleep(1.1)
    assert file.read_bytes() == b"new"
    assert sorted(os.listdir(mount.target / "a/b")) == ["file", "other"]


@needs_fuse
@pytest.mark.root
@cache("auto")
def test_an_open_sees_the_newest_data_at_once(mount: Mounted) -> None:
    """Of the same size, so that no attribute gives it away."""
    for number in range(30):
        text = b"number %04d" % number
        (mount.source / "a/b/file").write_bytes(text)
        assert (mount.target / "a/b/file").read_bytes()[:11] == text


@needs_fuse
@pytest.mark.root
@cache("never")
def test_never_means_at_once(mount: Mounted) -> None:
    for number in range(20):
        (mount.source / "a/b/file").write_bytes(b"x" * number)
        (mount.source / f"a/b/{number}").touch()
        assert (mount.target / "a/b/file").stat().st_size == number
        assert (mount.target / "a/b/file").read_bytes() == b"x" * number
        assert len(os.listdir(mount.target / "a/b")) == number + 2
        (mount.source / f"a/b/gone{number}").touch()
        assert (mount.target / f"a/b/gone{number}").exists()
        os.unlink(mount.source / f"a/b/gone{number}")
        assert not (mount.target / f"a/b/gone{number}").exists()


@needs_fuse
@pytest.mark.root
@cache("auto")
def test_the_host_replaces_what_the_guest_knows(mount: Mounted) -> None:
    """ESTALE from the server is healed by the kernel: programs do not see it."""
    file = mount.target / "a/b/file"
    for number in range(50):
        (mount.source / "a/b/next").write_bytes(b"%d" % number)
        os.rename(mount.source / "a/b/next", mount.source / "a/b/file")
        assert file.read_bytes() in (b"%d" % number, b"%d" % (number - 1))
        file.chmod(0o600)
        file.touch()
        with file.open("ab") as stream:
            stream.write(b"")
        os.rename(mount.source / "a", mount.source / "c")
        os.rename(mount.source / "c", mount.source / "a")
        assert os.listdir(mount.target / "a/b") == ["file"]


@needs_fuse
@pytest.mark.root
@cache("auto")
def test_the_host_makes_what_the_guest_believes_missing(mount: Mounted) -> None:
    """CREATE of a name that is there is ESTALE, upon which the kernel looks again and opens it, if the caller may."""
    for number in range(10):
        path = mount.target / f"a/{number}"
        assert not path.exists()
        (mount.source / f"a/{number}").write_bytes(b"from the host")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        assert os.read(descriptor, 100) == b"from the host"
        os.close(descriptor)
        assert not (mount.target / f"a/x{number}").exists()
        os.symlink("b/file", mount.source / f"a/x{number}")
        descriptor = os.open(mount.target / f"a/x{number}", os.O_RDONLY | os.O_CREAT)
        assert os.read(descriptor, 100) == b"content"
        os.close(descriptor)
