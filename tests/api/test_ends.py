"""However the caller ends, and however many VMs there were: nothing is left. The check itself is every test's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pykrun
from pykrun import PIPE, MicroVM, Root
from tests.api.conftest import LIMIT
from tests.support.command import ROOT, wait_until
from tests.support.descriptors import open_descriptors
from tests.support.processes import children

Box = Callable[[], Root]
pytestmark = pytest.mark.uml

PRELUDE = """
import asyncio, os, sys, threading, pykrun
from pathlib import Path
from pykrun import aio
root = pykrun.Root().file("/bin/sh", Path(sys.argv[1]), mode=0o755)
options = {"root": root, "engine": "uml", "stdin": pykrun.DEVNULL}
command = ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do :; done"]
def start():
    vm = pykrun.MicroVM(command, stdout=pykrun.PIPE, **options)
    assert vm.stdout.readline() == b"ready\\n"
    return vm
"""


def caller(busybox: Path, program: str, *, warn: str = "error") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-W", warn, "-c", PRELUDE + program, str(busybox)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize(
    ("program", "code", "words"),
    [
        pytest.param("vm = start()", 0, b"", id="end"),
        pytest.param("vm = start(); sys.exit(3)", 3, b"", id="exit"),
        pytest.param("vm = start(); os._exit(4)", 4, b"", id="at once"),
        pytest.param("vm = start(); raise KeyError('mine')", 1, b"KeyError: 'mine'", id="exception"),
        pytest.param(
            "t = threading.Thread(target=lambda: pykrun.run(command, **options), daemon=True); t.start(); start()",
            0,
            b"",
            id="thread",
        ),
        pytest.param(
            "async def main():\n await aio.MicroVM(command, **options)\nasyncio.run(main())", 0, b"", id="asyncio"
        ),
        pytest.param("vm = start(); os.kill(os.getpid(), 9)", -9, b"", id="killed"),
    ],
)
def test_a_caller_that_ends_with_a_vm_running(busybox: Path, program: str, code: int, words: bytes) -> None:
    process = caller(busybox, program, warn="ignore")
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == code, err
    assert words in err
    if not words:
        assert err == b""
    assert out in (b"", b"ready\n", b"ready\nready\n")


def test_ctrl_c_ends_the_vm_and_is_the_callers_exception(busybox: Path) -> None:
    program = """
import signal
vm = start()
threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    with vm:
        vm.wait()
except KeyboardInterrupt:
    assert vm.exit_code == 137
    print("interrupted", flush=True)
threading.Timer(3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    pykrun.run(command, **options)
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert not os.path.exists(f"/proc/{vm.pid}")
"""
    out, err = caller(busybox, program).communicate(timeout=LIMIT)
    assert (out, err) == (b"interrupted\ninterrupted\n", b"")


def test_supervisors_that_are_killed(box: Box) -> None:
    vms = [MicroVM(["/bin/sleep", "1000"], root=box(), engine="uml", stdin=PIPE, stdout=PIPE) for _ in range(3)]
    for vm in vms:
        os.kill(vm.pid, signal.SIGKILL)
    for vm in vms:
        with pytest.raises(pykrun.EngineError):
            vm.communicate(timeout=LIMIT)


def test_a_caller_without_standard_streams(busybox: Path, tmp_path: Path) -> None:
    program = """
for number in range(3):
    os.close(number)
result = pykrun.run(["/bin/sh", "-c", "echo out; echo err >&2; cat"], root=root, engine="uml", input=b"in")
with pykrun.MicroVM(["/bin/sh", "-c", "echo lost; cat"], root=root, engine="uml") as vm:
    code = vm.wait()
Path(sys.argv[2]).write_bytes(result.stdout + result.stderr + str(code).encode())
"""
    target = tmp_path / "out"
    command = [sys.executable, "-c", PRELUDE + program, str(busybox), str(target)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, timeout=LIMIT, check=False)
    assert done.returncode == 0
    assert target.read_bytes().startswith(b"out\ninerr\n")


def many_at_once(box: Box, count: int) -> None:
    """Start them all, see that all run at the same time, end them."""
    root = box()
    vms: list[MicroVM] = []
    try:
        for _ in range(count):
            vms.append(
                MicroVM(
                    ["/bin/sh", "-c", "echo ready; cat"], root=root, engine="uml", memory=64, stdin=PIPE, stdout=PIPE
                )
            )
        for vm in vms:
            assert vm.stdout is not None
            assert vm.stdout.readline() == b"ready\n"
        assert [vm.poll() for vm in vms] == [None] * count
        for number, vm in enumerate(vms):
            assert vm.communicate(b"%d" % number, timeout=LIMIT * 4) == (b"%d" % number, None)
            assert vm.exit_code == 0
    finally:
        for vm in vms:
            vm.kill()
        for vm in vms:
            vm.communicate()


@pytest.mark.parametrize("count", [8, pytest.param(50, marks=pytest.mark.full)])
def test_many_at_once(box: Box, count: int) -> None:
    before, threads, descriptors = children(), threading.active_count(), open_descriptors()
    many_at_once(box, count)
    wait_until(lambda: threading.active_count() == threads, LIMIT, "the end of the threads")
    assert open_descriptors() == descriptors
    assert children() == before


@pytest.mark.full
def test_many_in_turn(box: Box) -> None:
    root = box()

    def one() -> None:
        result = pykrun.run(["/bin/sh", "-c", "echo x"], root=root, engine="uml", memory=64, timeout=LIMIT)
        assert result.stdout == b"x\n"

    one()
    before, threads, descriptors = children(), threading.active_count(), open_descriptors()
    begun = time.monotonic()
    for _ in range(200):
        one()
    print(f"200 VMs in turn: {time.monotonic() - begun:.1f} s")
    wait_until(lambda: threading.active_count() == threads, LIMIT, "the end of the threads")
    assert open_descriptors() == descriptors
    assert children() == before
