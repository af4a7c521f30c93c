"""Secrets stay in one place: no forked process has them, nothing is left when they were wiped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykrun.buffers import wipe
from pykrun.errors import UsageError
from pykrun.root import Root
from pykrun.secret import read_secret
from tests.support.command import ROOT
from tests.support.memory import found_in_memory

# Prints its child's pid when it has a secret, closes the root when told to. What it looks for is not in its own memory.
HOLDER = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT / "src")!r})
from pykrun.root import Root
root = Root()
root.secret("/key", sys.argv[1])
child = os.fork()
if not child:
    signal.alarm(30)
    while True:
        signal.pause()
print(child, flush=True)
os.read(int(sys.argv[2]), 1)
root.close()
print("closed", flush=True)
os.read(int(sys.argv[2]), 1)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""


class Holder:
    """A process with a secret, and its child."""

    def __init__(self, source: str, stdin: bytes) -> None:
        read, self._go = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", HOLDER, source, str(read)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[read],
        )
        os.close(read)
        assert self.process.stdin is not None
        self.process.stdin.write(stdin)
        self.process.stdin.close()
        self.child = int(self.line())

    def line(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def go_on(self) -> None:
        os.write(self._go, b"x")

    def close(self) -> None:
        os.close(self._go)
        assert self.process.stdout is not None
        self.process.stdout.read()  # until both have ended
        self.process.stdout.close()
        self.process.wait(10)


SECRET = os.urandom(100_000).hex().encode()
PIECES = [SECRET[:48], SECRET[4096:4144], SECRET[100_000:100_048], SECRET[-48:]]


@pytest.fixture(params=["file", "pipe"])
def holder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Holder]:
    (tmp_path / "key").write_bytes(SECRET)
    holder = Holder(str(tmp_path / "key"), b"") if request.param == "file" else Holder("/dev/stdin", SECRET)
    yield holder
    holder.close()


def test_a_child_does_not_have_it_and_wiped_is_gone(holder: Holder) -> None:
    assert found_in_memory(holder.process.pid, PIECES) == set(PIECES), "the search finds nothing"
    assert found_in_memory(holder.child, PIECES) == set()
    holder.go_on()
    assert holder.line() == b"closed\n"
    assert found_in_memory(holder.process.pid, PIECES) == set()


def test_core_dumps_leave_it_out(holder: Holder) -> None:
    flags: list[list[str]] = []
    for line in Path(f"/proc/{holder.process.pid}/smaps").read_text().splitlines():
        if line.startswith("VmFlags:"):
            flags.append(line.split()[1:])
    assert any({"dd", "dc"} <= set(words) for words in flags)  # proc(5): do not include in a core dump, not in a fork


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 65536, 300_000])
def test_any_size_from_files_and_pipes(size: int, tmp_path: Path) -> None:
    content = os.urandom(size)
    (tmp_path / "key").write_bytes(content)
    with open(tmp_path / "key", "rb") as stream:
        view = read_secret(stream.fileno())
    assert (view.tobytes(), view.readonly) == (content, False)
    wipe(view)
    assert view.tobytes() == bytes(size)
    with subprocess.Popen(["cat", str(tmp_path / "key")], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert read_secret(writer.stdout.fileno()).tobytes() == content


def test_what_says_no_size_is_read_whole() -> None:
    with open("/proc/self/status", "rb") as stream:
        assert read_secret(stream.fileno()).tobytes().startswith(b"Name:")


def test_a_source_that_fails_is_named() -> None:
    with pytest.raises(UsageError, match="/proc/self/mem"):  # its first page is never there
        Root().secret("/key", "/proc/self/mem")
