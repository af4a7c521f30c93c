"""Whatever ends a run, it leaves nothing: no process, mount, socket, file, core, or changed terminal."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.boot.vm import Vm, descendants, engine_process, finish, read_line
from tests.boot.world import World
from tests.support.command import ROOT, cache_folder, wait_until
from tests.support.processes import children, still_running

GONE_WITHIN = 5.0


def allow_cores() -> None:
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


@pytest.fixture
def lonely(vm: Vm, tmp_path: Path) -> Iterator[Vm]:
    """A VM whose pykrun, for root, has the machine's shared folders for itself; they have to stay as they were."""
    if os.geteuid() != 0:
        vm.surroundings = allow_cores
        yield vm
        return
    folders = [
        ROOT,
        cache_folder(),
        Path(sys.prefix),
        Path(sys.base_prefix),
        vm.tool.parent,
        vm.pykrun.folder,
        tmp_path,
    ]
    world = World([folder for folder in folders if folder.exists()])
    try:
        vm.surroundings = lambda: world.enter(vm.folder, allow_cores)
        before = world.content()
        yield vm
        wait_until(lambda: world.content() == before, GONE_WITHIN, f"{world.content() ^ before} to go away")
    finally:
        world.close()


def start_and_wait(vm: Vm, *words: str) -> subprocess.Popen[bytes]:
    process = vm.start(*words)
    assert read_line(process) == b"ready\n"
    return process


def test_normal_end(lonely: Vm) -> None:
    secret = lonely.tool
    before = children()
    result = lonely.run("--secret", f"/secret={secret}", "--", "/tool", "exit", "3")
    assert (result.code, result.out, result.err) == (3, b"", b"")
    assert not still_running(before, 0.5)


@pytest.mark.parametrize("words", [("panic",), ("vanish", "o"), ("vanish", "b"), ("massacre",)], ids="-".join)
def test_guest_goes_down(lonely: Vm, words: tuple[str, ...]) -> None:
    result = lonely.tool_run(*words)
    assert result.code == (43 if words == ("massacre",) else 125)


def test_timeout(lonely: Vm) -> None:
    result = lonely.run("--timeout", "1", "--", "/tool", "trap", "0")
    assert result.code == 124


def interrupt(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    assert read_line(process) == b"signal 2\n"
    process.send_signal(signal.SIGINT)


@pytest.mark.parametrize(
    ("words", "end", "code"),
    [
        (("trap", "1"), lambda process: process.send_signal(signal.SIGTERM), 0),
        (("trap", "0"), interrupt, 130),
    ],
    ids=["SIGTERM", "Ctrl-C twice"],
)
def test_signals(lonely: Vm, words: tuple[str, ...], end: Callable[[subprocess.Popen[bytes]], None], code: int) -> None:
    process = start_and_wait(lonely, "--", "/tool", *words)
    end(process)
    assert finish(process, limit=30).code == code


def test_engine_is_killed(lonely: Vm) -> None:
    process = start_and_wait(lonely, "--", "/tool", "sleep", "100", "ready")
    os.kill(engine_process(process, lonely.engine).pid, signal.SIGKILL)
    result = finish(process, limit=30)
    assert (result.code, result.out) == (125, b"")
    assert result.err.startswith(b"pykrun: ")
    assert b"Traceback" not in result.err


def test_engine_is_killed_during_boot(lonely: Vm) -> None:
    process = lonely.start("--", "/tool", "sleep", "100")
    found: list[int] = []

    def look() -> bool:
        found.extend(entry.pid for entry in descendants(process.pid) if b"linux" in entry.command.split(b"\0")[0])
        found.extend(entry.pid for entry in descendants(process.pid) if b"qemu" in entry.command.split(b"\0")[0])
        return bool(found) or process.poll() is not None

    wait_until(look, 20, "the engine to start")
    os.kill(found[0], signal.SIGKILL)
    result = finish(process, limit=30)
    assert result.code == 125
    assert result.err.startswith(b"pykrun: ")
    assert b"Traceback" not in result.err


def test_pykrun_is_killed(lonely: Vm) -> None:
    process = start_and_wait(lonely, "--", "/tool", "sleep", "100", "ready")
    process.kill()
    assert finish(process, limit=30).code == -signal.SIGKILL


def test_pykrun_is_killed_during_boot(lonely: Vm) -> None:
    before = children()
    for delay in (0.02, 0.05, 0.08, 0.12, 0.2):
        process = lonely.start("--", "/tool", "sleep", "100")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay)
        process.kill()
        process.communicate(timeout=30)
        assert not still_running(before, GONE_WITHIN)


def test_every_process_of_a_vm_is_killed_in_turn(lonely: Vm) -> None:
    """The keeper and the engine take the VM with them; a helper's death may show late, but never stops the end."""
    number = 0
    while True:
        process = start_and_wait(lonely, "--", "/tool", "sleep", "100", "ready")
        below = descendants(process.pid)
        if number < len(below):
            os.kill(below[number].pid, signal.SIGKILL)
        if number > 1:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.terminate()
        result = finish(process, limit=30)
        assert result.code == 125 if number < 2 else result.code in (125, 128 + signal.SIGTERM), (number, result)
        assert b"Traceback" not in result.err
        if number >= len(below):
            break
        number += 1
    assert number >= 2


@pytest.mark.full
def test_many_runs_leave_nothing(lonely: Vm) -> None:
    before = children()
    for _ in range(10):
        assert lonely.tool_run("exit", "1").code == 1
    assert not still_running(before, 0.5)


def test_no_process_of_a_vm_may_leave_a_core_file(lonely: Vm) -> None:
    process = lonely.start("--", "/tool", "sleep", "100", stdout=subprocess.PIPE)
    wait_until(lambda: len(descendants(process.pid)) >= 2, 20, "the engine to start")
    for pid in (process.pid, *(entry.pid for entry in descendants(process.pid))):
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"Max core file size +0 ", limits)
    process.kill()
    process.communicate(timeout=30)
