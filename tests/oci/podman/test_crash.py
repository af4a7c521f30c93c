"""kill -9 of each part at each stage: podman sees an end, `rm -f` works, nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import wait_until
from tests.support.enclave import IMAGE
from tests.support.podman import Podman
from tests.support.processes import children


def descendants(pid: int) -> list[int]:
    """The processes below one, the nearest first."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            below = [int(word) for word in (task / "children").read_text().split()]
            found += below
            for one in below:
                found += descendants(one)
    except OSError:
        pass
    return found


def program(pid: int) -> str:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)"))
    except OSError:
        return ""


def conmon(podman: Podman, name: str) -> int:
    """Conmon's pid."""
    return int(podman.inspect(name)["State"]["ConmonPid"])


def supervisor(podman: Podman, name: str) -> int:
    return podman.pid(name)


def engine(podman: Podman, name: str) -> int:
    """The virtual machine itself: what runs the guest's code."""
    below = descendants(podman.pid(name))
    engines = [pid for pid in below if any(word in program(pid) for word in ("linux", "qemu", "vmlinux"))]
    assert engines, [(pid, program(pid)) for pid in below]
    return engines[0]


def ended(pid: int) -> bool:
    """Whether a process is gone. What of it was ours to wait for is waited for."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def remove(podman: Podman, name: str, orphans: list[int]) -> None:
    """`rm -f`, with somebody who waits for orphans meanwhile, as PID 1 of a machine would."""
    process = podman.start("rm", "-f", "-t", "0", name, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until(lambda: list(map(ended, orphans)) and process.poll() is not None, 30, "the removal")
    with process.stderr as errors:
        assert process.returncode == 0, errors.read()


VICTIMS: list[Callable[[Podman, str], int]] = [conmon, supervisor, engine]


def create(podman: Podman) -> str:
    """Created: the VM waits for its start."""
    name = podman.must("create", IMAGE, "sleep", "100")
    podman.must("init", name)
    return name


def run(podman: Podman) -> str:
    return podman.must("run", "-d", IMAGE, "sleep", "100")


def run_and_exec(podman: Podman) -> str:
    name = run(podman)
    podman.must("exec", "-d", name, "sleep", "50")
    return name


def run_on_a_network(podman: Podman) -> str:
    return podman.must("run", "-d", "--network=bridge", "-p", "127.0.0.1:8070:80", IMAGE, "sleep", "100")


STAGES: list[Callable[[Podman], str]] = [create, run, run_and_exec, run_on_a_network]


@pytest.mark.parametrize("victim", VICTIMS, ids=lambda one: str(one.__name__))
@pytest.mark.parametrize("stage", STAGES, ids=lambda one: str(one.__name__))
def test_kill(ours: Podman, stage: Callable[[Podman], str], victim: Callable[[Podman, str], int]) -> None:
    name = stage(ours)
    if stage is create and victim is engine and not descendants(ours.pid(name)):
        ours.must("rm", "-f", "-t", "0", name)
        pytest.skip("there is no engine before the start")
    watcher, represents = conmon(ours, name), ours.pid(name)
    below = descendants(represents)
    pid = victim(ours, name)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: ended(pid), 10, "its end")
    if victim is not conmon and stage is not create:  # podman looks after started ones only
        wait_until(lambda: ended(watcher), 20, "conmon's end")
        state = ours.inspect(name)["State"]
        assert state["Status"] in ("exited", "stopped")
        assert state["ExitCode"] != 0
    remove(ours, name, [pid, represents, watcher, *below])
    wait_until(lambda: all(map(ended, [watcher, *below])), 10, "everybody's end")
    ours.delete_forgotten()


@pytest.mark.parametrize("delay", [0.05, 0.1, 0.2, 0.3, 0.5])
def test_kill_of_podman_while_it_starts(ours: Podman, delay: float) -> None:
    """What it has not written down yet nobody asks to end: conmon and a VM that waits for its start, as with crun."""
    process = ours.start("run", "--name=hasty", IMAGE, "sleep", "100", stdout=subprocess.DEVNULL)
    time.sleep(delay)
    process.kill()
    process.wait()
    time.sleep(0.5)  # a runtime that was creating it goes on
    ours("rm", "-f", "-t", "0", "hasty")
    ours.delete_forgotten()
    for pid in children():
        if program(pid) == "conmon":
            wait_until(lambda: ended(pid), 10, "conmon's end")  # noqa: B023
    assert not ours.containers("--all")


def test_the_next_one_is_none_the_worse(ours: Podman) -> None:
    name = run(ours)
    os.kill(supervisor(ours, name), signal.SIGKILL)
    wait_until(lambda: ours.inspect(name)["State"]["Status"] == "exited", 20)
    ours.must("start", name)
    assert ours.must("exec", name, "echo", "again") == "again"
    ours.must("rm", "-f", "-t", "0", name)
