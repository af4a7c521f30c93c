"""Many users at once, a server that dies, disks that are full: over `pykrun mount`."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.servers import wait_until_gone
from tests.suites.conftest import Share, run, serve
from tests.support.command import wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here"),
]

WORKER = """
import os, random, sys, time
top, number, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
rand = random.Random(number)
mine = os.path.join(top, f"own{number}")
os.mkdir(mine)
kept, end, rounds = {}, time.monotonic() + seconds, 0
while time.monotonic() < end:
    rounds += 1
    name = os.path.join(mine, str(rand.randrange(20)))
    what = rand.randrange(6)
    if what < 2:
        data = rand.randbytes(rand.randrange(20000))
        with open(name, "wb") as stream:
            stream.write(data)
        kept[name] = data
    elif what == 2 and kept:
        old = rand.choice(list(kept))
        new = os.path.join(mine, f"moved{rand.randrange(20)}")
        os.rename(old, new)
        data = kept.pop(old)
        kept[new] = data
    elif what == 3 and kept:
        gone = rand.choice(list(kept))
        os.unlink(gone)
        del kept[gone]
    elif what == 4 and kept:
        one = rand.choice(list(kept))
        with open(one, "rb") as stream:
            assert stream.read() == kept[one], one
    else:  # what all fight for
        shared = os.path.join(top, "all", str(rand.randrange(8)))
        for step in (
            lambda: os.mkdir(shared), lambda: os.rmdir(shared), lambda: os.rename(shared, shared + "x"),
            lambda: os.listdir(os.path.join(top, "all")), lambda: open(shared + "f", "ab").write(b"x"),
            lambda: os.link(shared + "f", shared + "l"), lambda: os.unlink(shared + "l"), lambda: os.stat(shared),
        ):
            try:
                step()
            except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError):
                pass
            except OSError as error:
                if error.errno not in (39, 116):
                    raise
assert sorted(os.listdir(mine)) == sorted(map(os.path.basename, kept)), mine
for name, data in kept.items():
    with open(name, "rb") as stream:
        assert stream.read() == data, name
print(rounds)
"""


@pytest.mark.parametrize(("workers", "seconds"), [(20, 8), pytest.param(50, 120, marks=pytest.mark.full)])
def test_many_processes_on_one_tree(share: Share, workers: int, seconds: int) -> None:
    """Each has files of its own, which nobody else touches; and all make and remove the same names."""
    (share.target / "all").mkdir()
    started = [
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", WORKER, share.target, str(number), str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(workers)
    ]
    told = [(*process.communicate(timeout=300 + 4 * seconds), process.returncode) for process in started]
    wrong = [errors[-800:] for _, errors, code in told if code]
    assert wrong == []
    assert all(int(output) > 0 for output, _, _ in told)


def test_the_server_dies_in_the_middle_of_writes(share: Share) -> None:
    """Whoever writes gets an error, what was written is there, whole, and nothing stays mounted."""
    family = share.running.family()
    writer = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WRITER, share.target / "log"], stdout=subprocess.PIPE, text=True
    )
    wait_until(lambda: (share.source / "log").exists() and (share.source / "log").stat().st_size > 100 * 4096, 60)
    os.kill(share.running.server(), signal.SIGKILL)
    told, _ = writer.communicate(timeout=60)
    written, code = map(int, told.split())
    assert code in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENOENT, errno.EBADF)
    assert share.running.end() == 1
    assert str(share.target) not in Path("/proc/self/mountinfo").read_text()
    wait_until_gone(family)
    data = (share.source / "log").read_bytes()
    assert len(data) % 4096 == 0
    assert len(data) // 4096 in (written, written + 1)  # one may have been on its way back
    assert all(data[at : at + 8] == b"%08d" % (at // 4096) for at in range(0, len(data), 4096))


_WRITER = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
number = 0
try:
    while True:
        os.write(file, (b"%08d" % number).ljust(4096, b"."))
        number += 1
except OSError as error:
    print(number, error.errno)
"""


@pytest.fixture(params=["tmpfs", "ext4"])
def small(request: pytest.FixtureRequest, top: Path) -> Iterator[Share]:
    """A share of 8 MiB."""
    source = top / "source"
    if request.param == "tmpfs":
        run(["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=200", "none", source], top)
    else:
        with (top / "image").open("wb") as stream:
            stream.truncate(8 << 20)
        run(["mke2fs", "-q", "-t", "ext4", "-N", "200", "-O", "^has_journal", top / "image"], top)
        done = subprocess.run(["mount", "-o", "loop", top / "image", source], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("no loop devices here")
    try:
        yield from serve(source, top / "target")
    finally:
        run(["umount", "-l", source], top)


def filled(file: int) -> int:
    """Write until there is no room; return how much was written."""
    written = 0
    while True:
        try:
            written += os.write(file, b"b" * 65536)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return written


def make_files(folder: Path, number: int) -> None:
    for name in range(number):
        (folder / f"n{name}").touch()


def test_a_full_disk(small: Share) -> None:
    """ENOSPC for every call that needs room; what was there stays whole; and room comes back."""
    (small.target / "kept").write_bytes(b"k" * 100_000)
    file = os.open(small.target / "big", os.O_RDWR | os.O_CREAT)
    written = filled(file)
    assert os.fstat(file).st_size == written == (small.source / "big").stat().st_size
    with pytest.raises(OSError, match="No space left"):
        os.posix_fallocate(file, 0, 64 << 20)
    assert (small.target / "kept").read_bytes() == b"k" * 100_000
    found = os.statvfs(small.target)
    assert found.f_bavail * found.f_frsize < 65536
    os.ftruncate(file, 0)
    assert os.pwrite(file, b"again", 0) == 5
    os.close(file)
    with pytest.raises(OSError, match="No space left"):
        make_files(small.target, 300)
    with pytest.raises(OSError, match="No space left"):
        os.mkdir(small.target / "directory")
    os.unlink(small.target / "n0")
    # The host has its inode back when the kernel has told the server to forget it, a moment later.
    wait_until(
        lambda: (
            not subprocess.run(["mkdir", small.target / "directory"], stderr=subprocess.DEVNULL, check=False).returncode
        )
    )


@pytest.mark.parametrize("number", [20_000, pytest.param(200_000, marks=pytest.mark.full)])
def test_a_directory_of_many(share: Share, number: int) -> None:
    """Listed whole, with attributes too, and again while a tenth of it goes."""
    folder = share.source / "many"
    folder.mkdir()
    for name in range(number):
        os.close(os.open(folder / str(name), os.O_CREAT | os.O_WRONLY))
    many = share.target / "many"
    assert sorted(map(int, os.listdir(many))) == list(range(number))
    with os.scandir(many) as entries:
        assert sum(entry.stat(follow_symlinks=False).st_size == 0 for entry in entries) == number
    seen = []
    with os.scandir(many) as entries:
        for position, entry in enumerate(entries):
            seen.append(int(entry.name))
            if position % 10 == 9:
                os.unlink(many / entry.name)
    assert len(seen) == len(set(seen)) == number
    assert len(os.listdir(folder)) == len(os.listdir(many)) == number - number // 10


def test_a_thousand_deep(share: Share) -> None:
    """Far longer a path than one call takes; descriptors of ours are not what it costs."""
    place = os.open(share.target, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(1000):
        os.mkdir("directory", dir_fd=place)
        below = os.open("directory", os.O_RDONLY | os.O_DIRECTORY, dir_fd=place)
        os.close(place)
        place = below
    file = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=place)
    assert os.write(file, b"deep") == 4
    os.close(file)
    for _ in range(1000):
        above = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=place)
        os.close(place)
        place = above
    assert os.path.samestat(os.fstat(place), os.stat(share.target))
    os.close(place)
    assert run(["find", ".", "-name", "file", "-size", "4c"], share.source).count("directory/") == 1000
    run(["rm", "-r", "directory"], share.target)
    assert os.listdir(share.source) == []


def test_what_the_host_changes_while_it_is_cached(share: Share) -> None:
    """Policy auto: all of it after its second at the latest."""
    (share.source / "file").write_bytes(b"one")
    (share.source / "gone").touch()
    assert (share.target / "file").read_bytes() == b"one"
    assert not (share.target / "new").exists()
    assert sorted(os.listdir(share.target)) == ["file", "gone"]
    (share.source / "file").write_bytes(b"another")
    time.sleep(1.3)
    assert (share.target / "file").read_bytes() == b"another"
    (share.source / "new").touch()
    (share.source / "gone").unlink()
    (share.source / "file").chmod(0o600)
    (share.source / "other").write_bytes(b"replaced")
    (share.source / "other").rename(share.source / "file")
    time.sleep(1.3)
    assert (share.target / "new").exists()
    assert not (share.target / "gone").exists()
    assert (share.target / "file").read_bytes() == b"replaced"
    assert sorted(os.listdir(share.target)) == ["file", "new"]
