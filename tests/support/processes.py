"""Which processes belong to this test run: all of its descendants, since it adopts its orphans."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

NOBODY = 65534

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, so that none is out of sight."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def children() -> set[int]:
    """The pids of our direct children, ended ones that nobody waited for included."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(int(pid) for pid in (task / "children").read_text().split())
        except FileNotFoundError:  # the thread ended meanwhile
            continue
    return found


def describe(pid: int) -> str:
    """The pid, state and command line of a process, for a message."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return f"{pid} (just gone)"
    return f"{pid} [{state}] {command[:200]}"


def still_running(known: set[int], grace: float) -> list[int]:
    """The children not in `known` that are still there after `grace` seconds; those that ended are waited for."""
    end_of_grace = time.monotonic() + grace
    while True:
        left = [pid for pid in sorted(children() - known) if not _reap(pid)]
        if not left or time.monotonic() > end_of_grace:
            return left
        time.sleep(0.02)


def end(pids: list[int]) -> None:
    """Kill and wait for our children `pids`."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def become_nobody() -> None:
    """Give up being root, for good."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def as_nobody(function: Callable[[], object]) -> None:
    """Call a function in a child that is nobody; what it raises becomes an AssertionError with its traceback."""

    def changed() -> None:
        become_nobody()
        function()

    in_child(changed)


def in_child(function: Callable[[], object]) -> None:
    """Call a function in a child; what it raises becomes an AssertionError with its traceback."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        failure = ""
        try:
            os.close(reading)
            function()
        except BaseException:
            failure = traceback.format_exc()
        finally:
            os.write(writing, failure.encode()[-60000:])
            os._exit(1 if failure else 0)
    os.close(writing)
    with open(reading, "rb") as stream:
        failure = stream.read().decode(errors="replace")
    status = os.waitpid(pid, 0)[1]
    assert not failure, failure
    assert status == 0


def _reap(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
