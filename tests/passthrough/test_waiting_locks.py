"""Locks that are waited for, over a mount: the waiting one waits, the server does not, and who is ended lets go."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pykrun.fs import FileSystem, InodeAllocator
from pykrun.fs.passthrough import Options, PassthroughFs
from tests.fuse.mounts import mounted_in_child

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no /dev/fuse here"),
]

WAITER = """
import fcntl, signal, sys

def interrupted(*_):
    raise InterruptedError

signal.signal(signal.SIGUSR1, interrupted)
file = open(sys.argv[1], "r+b")
print("waits", flush=True)
try:
    getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX)
    print("has it", flush=True)
except InterruptedError:
    print("interrupted", flush=True)
sys.stdin.read()
"""
KINDS = ("lockf", "flock")


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").write_bytes(b"content")

    def make() -> FileSystem:
        return PassthroughFs(str(source), InodeAllocator(), Options(posix_locks=True, flocks=True))

    with mounted_in_child(make, target) as outcome:
        yield source, target
    assert outcome.statistics.get("SETLKW", 0) <= 4, "tried often, counted once"


def waiter(target: Path, kind: str) -> subprocess.Popen[str]:
    """A process that waits for the lock, or will in a moment."""
    command = [sys.executable, "-I", "-S", "-c", WAITER, target / "file", kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert says(process) == "waits"
    return process


def says(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def until_it_waits(process: subprocess.Popen[str]) -> None:
    """The kernel has its request: it sleeps in fcntl or flock (their numbers on x86-64 and arm64)."""
    while Path(f"/proc/{process.pid}/syscall").read_text().split()[0] not in ("72", "73", "25", "32"):
        assert process.poll() is None


def end(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=60)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("holder", ["target", "source"])
def test_it_comes_when_it_is_released(places: tuple[Path, Path], kind: str, holder: str) -> None:
    """By another user of the mount, or by the host; meanwhile all else is served."""
    source, target = places
    lock: Callable[..., object] = getattr(fcntl, kind)
    with ((target if holder == "target" else source) / "file").open("r+b") as held:
        lock(held, fcntl.LOCK_EX)
        process = waiter(target, kind)
        until_it_waits(process)
        for number in range(20):
            (target / f"n{number}").touch()
        assert len(os.listdir(source)) == 21
        lock(held, fcntl.LOCK_UN)
        assert says(process) == "has it"
        with pytest.raises(BlockingIOError):
            lock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        end(process)
        lock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGKILL])
def test_a_signal_ends_the_wait(places: tuple[Path, Path], kind: str, number: signal.Signals) -> None:
    """And the lock that was waited for is never taken."""
    source, target = places
    lock: Callable[..., object] = getattr(fcntl, kind)
    with (source / "file").open("r+b") as held:
        lock(held, fcntl.LOCK_EX)
        process = waiter(target, kind)
        until_it_waits(process)
        process.send_signal(number)
        assert says(process) == ("interrupted" if number == signal.SIGUSR1 else "")
        lock(held, fcntl.LOCK_UN)
        os.stat(target / "file")
        lock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        end(process)


def test_each_gets_it_in_turn(places: tuple[Path, Path]) -> None:
    source, target = places
    with (source / "file").open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiters = [waiter(target, "flock") for _ in range(4)]
        for process in waiters:
            until_it_waits(process)
    left = list(waiters)
    while left:
        import select

        ready = select.select([process.stdout for process in left], [], [], 60)[0]
        (first,) = [process for process in left if process.stdout in ready]
        assert says(first) == "has it"
        end(first)
        left.remove(first)
