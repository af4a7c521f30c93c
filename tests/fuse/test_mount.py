"""What only a real kernel can show: how few requests it sends, races, programs, and ends that are not orderly."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pykrun.fs import AugmentFs, FileSource, InodeAllocator, MemorySource, NullFs
from pykrun.fuse import Server
from pykrun.fuse.dev_fuse import Mount
from pykrun.fuse.lane import SlowLane
from pykrun.host import linux
from tests.fs.memory import MemoryFs
from tests.fuse.guest import augmented
from tests.fuse.mounts import mounted
from tests.support.command import wait_until

pytestmark = [pytest.mark.root, pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here")]


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_guest_that_knows_does_not_ask_again(tmp_path: Path) -> None:
    fs = augmented()
    fs.make_parents(b"/a/b/file")
    fs.add_file(b"/a/b/file", b"x" * 5000)
    with mounted(fs, tmp_path) as outcome:
        for _ in range(20):
            os.stat(tmp_path / "a/b/file")
            assert (tmp_path / "a/b/file").read_bytes() == b"x" * 5000
            assert os.listdir(tmp_path / "a") == ["b"]
            assert not os.path.exists(tmp_path / "a/missing")
    counts = outcome.statistics
    assert counts["LOOKUP"] == 4  # a, b, file, missing
    assert counts["READ"] == 1
    assert counts["OPEN"] == 20  # never left out: it says EACCES to writers, and ends one-shot files
    assert counts["OPENDIR"] == 1
    assert counts.get("READDIR", 0) + counts.get("READDIRPLUS", 0) <= 2
    assert "FLUSH" not in counts
    assert "RELEASEDIR" not in counts
    assert counts.get("GETATTR", 0) <= 4  # the root's once, and access times of what was read: not one a round


def test_listing_tells_attributes_too(tmp_path: Path) -> None:
    fs = augmented()
    for number in range(50):
        fs.add_file(b"/%02d" % number, b"")
    with mounted(fs, tmp_path) as outcome:
        for entry in os.scandir(tmp_path):
            entry.stat()
    # the kernel asks with attributes while names are looked at, so nearly no name costs a request of its own
    assert outcome.statistics.get("LOOKUP", 0) < 10
    assert outcome.statistics["READDIRPLUS"] >= 1


def test_large_reads_are_large(tmp_path: Path) -> None:
    fs = augmented()
    fs.add_file(b"/big", bytes(8 << 20))
    with mounted(fs, tmp_path) as outcome:
        descriptor = os.open(tmp_path / "big", os.O_RDONLY | os.O_DIRECT)
        with mmap.mmap(-1, 8 << 20) as room:
            assert os.readv(descriptor, [room]) == 8 << 20
        os.close(descriptor)
    assert outcome.statistics["READ"] == 8


@pytest.mark.parametrize("rounds", [60, pytest.param(1500, marks=pytest.mark.full)])
def test_one_shot_has_one_winner_among_threads(tmp_path: Path, rounds: int) -> None:
    fs = augmented()
    for number in range(rounds):
        fs.add_file(b"/%d" % number, b"secret", one_shot=True)
    racers = 8
    won = [[0] * rounds for _ in range(racers)]
    wrong: list[BaseException] = []
    barrier = threading.Barrier(racers)

    def race(mine: list[int]) -> None:
        try:
            for number in range(rounds):
                barrier.wait(30)
                try:
                    descriptor = os.open(tmp_path / str(number), os.O_RDONLY)
                except FileNotFoundError:
                    pass
                else:
                    mine[number] = os.read(descriptor, 100) == b"secret"
                    os.close(descriptor)
        except BaseException as error:
            wrong.append(error)
            barrier.abort()

    with mounted(fs, tmp_path):
        threads = [threading.Thread(target=race, args=(mine,)) for mine in won]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert not wrong
    assert [sum(round_) for round_ in zip(*won, strict=True)] == [1] * rounds


def test_one_shot_has_one_winner_among_processes(tmp_path: Path) -> None:
    rounds = 300
    fs = augmented()
    for number in range(rounds):
        fs.add_file(b"/%d" % number, b"secret", one_shot=True)
    script = 'i=0; while [ $i -lt 300 ]; do { read x < "$1/$i"; } 2>/dev/null; echo "$i $x"; x=; i=$((i+1)); done'
    with mounted(fs, tmp_path):
        racers = [
            subprocess.Popen(["/bin/sh", "-c", script, "sh", str(tmp_path)], stdout=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        said = [racer.communicate(timeout=60)[0].split("\n") for racer in racers]
    winners = [line.split()[0] for lines in said for line in lines if line.endswith(" secret")]
    assert sorted(winners, key=int) == [str(number) for number in range(rounds)]


def test_programs(tmp_path: Path) -> None:
    fs = augmented()
    fs.make_parents(b"/d/e/f")
    fs.add_file(b"/d/e/f", b"deep\n")
    fs.add_file(b"/d/x", b"x" * 100000, mode=0o600)
    fs.add_file(b"/secret", b"s", one_shot=True)
    mountpoint, copy = tmp_path / "m", tmp_path / "c"
    mountpoint.mkdir()
    with mounted(fs, mountpoint):
        assert run("ls", mountpoint).split() == ["d"]
        assert "d/e/f" in run("find", mountpoint)
        run("cp", "-a", mountpoint / "d", copy)
        names = run("tar", "-cf", tmp_path / "t.tar", "-C", mountpoint, ".")
        assert names == ""
        assert run("cat", mountpoint / "secret") == "s"
        assert run("stat", "-c", "%s %F %h", mountpoint / "d/x") == "100000 regular file 1\n"
    assert (copy / "e/f").read_bytes() == b"deep\n"
    assert (copy / "x").stat().st_mode & 0o777 == 0o600
    listed = run("tar", "-tvf", tmp_path / "t.tar")
    assert " link to " not in listed
    assert listed.count("\n") == 5


def test_a_one_shot_program_runs(tmp_path: Path) -> None:
    """exec opens once and reads once; afterwards the name is gone while the program still runs."""
    program = shutil.which("sleep")
    assert program is not None
    fs = augmented()
    fs.add_file(b"/once", FileSource.of_path(os.path.realpath(program)), mode=0o755, one_shot=True)
    with mounted(fs, tmp_path) as outcome:
        running = subprocess.Popen([tmp_path / "once", "0.2"])
        assert not (tmp_path / "once").exists()
        assert running.wait(10) == 0
        with pytest.raises(FileNotFoundError):
            subprocess.Popen([tmp_path / "once", "0"])
    assert outcome.statistics["OPEN"] == 1


def test_mapping_a_file(tmp_path: Path) -> None:
    fs = augmented()
    fs.add_file(b"/file", bytes(range(256)) * 64)
    with (
        mounted(fs, tmp_path),
        (tmp_path / "file").open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as area,
    ):
        assert area[:256] == bytes(range(256))
        assert area[-1] == 255


def test_writing_to_a_real_tree_below(tmp_path: Path) -> None:
    allocator = InodeAllocator()
    inner = MemoryFs(allocator)
    inner.plant(b"/etc/passwd", b"root")
    fs = AugmentFs(inner, allocator)
    fs.add_directory(b"/etc")
    fs.add_file(b"/etc/virtual", b"v")
    with mounted(fs, tmp_path) as outcome:
        etc = tmp_path / "etc"
        (etc / "new").write_bytes(b"n" * 300000)
        assert (etc / "new").read_bytes() == b"n" * 300000
        (etc / "new").rename(tmp_path / "moved")
        (etc / "link").symlink_to("virtual")
        assert (etc / "link").read_bytes() == b"v"
        os.truncate(tmp_path / "moved", 5)
        assert (tmp_path / "moved").read_bytes() == b"nnnnn"
        descriptor = os.open(tmp_path, os.O_RDWR | os.O_TMPFILE)
        os.write(descriptor, b"nameless")
        assert os.pread(descriptor, 100, 0) == b"nameless"
        os.close(descriptor)
        run("cp", tmp_path / "etc/virtual", tmp_path / "etc/copy")
        assert sorted(os.listdir(etc)) == ["copy", "link", "passwd", "virtual"]
        with pytest.raises(PermissionError):
            (etc / "virtual").unlink()
        shutil.rmtree(tmp_path / "etc", ignore_errors=True)
        assert os.listdir(etc) == ["virtual"]
    assert outcome.statistics["WRITE"] < 10  # megabyte writes


def test_a_server_that_dies_leaves_nobody_waiting(tmp_path: Path) -> None:
    mount = Mount(Server(NullFs()), str(tmp_path))
    pid = os.fork()
    if not pid:
        try:
            mount.run()
        finally:
            os._exit(1)
    os.close(mount.fileno())
    try:
        assert os.listdir(tmp_path) == []
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with pytest.raises(OSError) as caught:
            os.stat(tmp_path / "anything")
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    finally:
        linux.unmount(str(tmp_path))
    assert not os.path.ismount(tmp_path)


def test_closing_a_mount_unmounts_and_ends_the_session(tmp_path: Path) -> None:
    secret = bytearray(b"secret")
    fs = augmented()
    fs.add_file(b"/once", MemorySource(secret, wipe=True), one_shot=True)
    mount = Mount(Server(fs), str(tmp_path))
    thread = threading.Thread(target=_serve_for, args=(mount, 20))
    thread.start()
    assert run("cat", tmp_path / "once") == "secret"
    with subprocess.Popen(["sleep", "60"], cwd=tmp_path) as busy:
        mount.close()
        mount.close()
        assert not os.path.ismount(tmp_path)
        busy.kill()
    thread.join(30)
    assert secret == bytes(6)


def _serve_for(mount: Mount, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if not mount.serve():
                return
        except OSError:
            return
        time.sleep(0.001)


def test_a_mount_that_cannot_be_leaves_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path / "missing", Path("/proc/self/mounts")):
        with pytest.raises(OSError):
            Mount(Server(NullFs()), str(path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_kernel_checks_modes_and_lets_others_in() -> None:
    fs = augmented()
    fs.add_file(b"/open", b"for all", mode=0o644)
    fs.add_file(b"/closed", b"for root", mode=0o600)
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        with mounted(fs, Path(name)):
            for file, status in (("open", 0), ("closed", 1)):
                done = subprocess.run(
                    ["cat", f"{name}/{file}"], user=65534, capture_output=True, timeout=30, check=False
                )
                assert done.returncode == status
            assert (Path(name) / "closed").read_bytes() == b"for root"


def test_a_read_only_mount(tmp_path: Path) -> None:
    mount = Mount(Server(NullFs()), str(tmp_path), read_only=True)
    try:
        with open("/proc/self/mounts", encoding="utf-8") as mounts:
            (line,) = [line for line in mounts if str(tmp_path) in line]
        assert line.split()[3].startswith("ro,nosuid,nodev")
    finally:
        mount.close()


@pytest.mark.parametrize("command", ["test -f once", "cp once {copy}", "./once", "stat once", ". ./once"])
def test_what_uses_a_one_shot_file_up(tmp_path: Path, command: str) -> None:
    """As docs/filesystem.md says: whoever asks for the name uses it up, and who asks twice gets nothing."""
    mountpoint = tmp_path / "m"
    mountpoint.mkdir()
    fs = augmented()
    fs.add_file(b"/once", b"#!/bin/sh\nexit 5\n", mode=0o755, one_shot=True)
    with mounted(fs, mountpoint):
        line = command.format(copy=tmp_path / "copy")
        done = subprocess.run(["/bin/sh", "-c", line], cwd=mountpoint, capture_output=True, timeout=30, check=False)
        assert not (mountpoint / "once").exists()
    expected = {"test -f once": 0, "stat once": 0, ". ./once": 5}
    assert done.returncode == expected.get(command, done.returncode or -1)
    assert not (tmp_path / "copy").exists()


class SlowFs(MemoryFs):
    """Takes a second to bring a file to stable storage."""

    def fsync(self, ino: int, handle: Any, data_only: bool) -> None:
        time.sleep(1)


def test_a_slow_request_of_one_holds_up_no_other(tmp_path: Path) -> None:
    with mounted(SlowFs(InodeAllocator()), tmp_path) as outcome:
        file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
        slow = threading.Thread(target=os.fsync, args=(file,))
        slow.start()
        answered = 0
        while slow.is_alive():
            (tmp_path / str(answered)).touch()
            answered += 1
        os.close(file)
    assert answered > 20
    assert outcome.statistics["FSYNC"] == 1


def test_interrupted_requests_end_and_the_kernel_asks_once(tmp_path: Path) -> None:
    """No request waits for anything but a disk, so there is nothing to interrupt: the kernel is told, and stops."""
    with mounted(SlowFs(InodeAllocator()), tmp_path) as outcome:
        (tmp_path / "file").touch()
        for _ in range(3):
            with subprocess.Popen(["sync", tmp_path / "file"]) as user:
                time.sleep(0.3)
                user.send_signal(signal.SIGTERM)
                assert user.wait(30) == -signal.SIGTERM
    assert outcome.statistics["FSYNC"] == 3
    assert outcome.statistics["INTERRUPT"] == 1


def test_an_aborted_connection_ends_the_server(tmp_path: Path) -> None:
    mount = Mount(Server(NullFs()), str(tmp_path))
    try:
        assert mount.serve()
        subprocess.run(["umount", "-f", tmp_path], check=True)
        wait_until(lambda: not mount.serve())
    finally:
        mount.close()


def test_a_lane_that_is_closed_has_served_what_it_was_given() -> None:
    served: list[bytes] = []

    def answer(request: bytes) -> None:
        time.sleep(0.05)
        served.append(request)
        raise OSError(errno.ENODEV, "the mount is gone")

    lane = SlowLane(answer)
    assert lane.close()
    for number in range(5):
        lane.put(b"%d" % number)
    assert lane.close()
    assert lane.close()
    assert served == [b"%d" % number for number in range(5)]
