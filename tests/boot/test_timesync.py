"""The guest's clock follows the host's: from the first moment on, and whenever it goes wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pykrun import blob
from tests.boot.vm import Vm, finish, read_line

FUTURE, PAST = 2_000_000_000, 1_500_000_000
OFTEN = "from pykrun.supervisor import timesync; timesync.SOON = timesync.PERIOD = 0.3"
TOLERANCE = 0.1
PID1 = ("--kernel-arg", "KRUN_INIT_PID1=1")


@pytest.mark.parametrize("pid1", [False, True], ids=["init stays", "PID 1 mode"])
def test_a_clock_that_was_set_wrong_is_mended(vm: Vm, pid1: bool) -> None:
    """Forward and back, for as long as the VM runs; those back are in the guest's log."""
    vm.pykrun.prelude = OFTEN
    process = vm.start("-v", *(PID1 if pid1 else ()), "--", "/tool", "clock", str(FUTURE), str(PAST), str(FUTURE))
    read_line(process)
    for _ in range(3):
        told = int(read_line(process)) / 1e9
        assert told == pytest.approx(time.time(), abs=5)  # the line may have been on its way for a while
    result = finish(process)
    assert result.code == 0, result
    if not pid1:  # a line that came late on a busy machine sets it back a little, too
        back = [float(seconds) for seconds in re.findall(rb"the clock was set back by ([0-9.]+) s", result.err)]
        assert len([seconds for seconds in back if seconds > 1000]) == 2, result.err


@pytest.mark.parametrize("pid1", [False, True], ids=["init stays", "PID 1 mode"])
def test_terminal(vm_once: Vm, pid1: bool) -> None:
    """Its machine has other ports."""
    vm_once.pykrun.prelude = OFTEN
    result = vm_once.run("-t", *(PID1 if pid1 else ()), "--", "/tool", "clock", str(FUTURE))
    assert result.code == 0, result
    assert int(result.out.split()[1]) / 1e9 == pytest.approx(time.time(), abs=5)


@pytest.mark.parametrize("pid1", [False, True], ids=["init stays", "PID 1 mode"])
def test_the_workload_starts_with_the_hosts_time(vm: Vm, busybox: Path, pid1: bool) -> None:
    """QEMU's clock knows whole seconds only, and emulation is slow: without the host it is up to 1.4 s behind.

    On a busy machine any one run may be late; the best of a few is what the guest can do.
    """
    words = [*(PID1 if pid1 else ()), "--file", f"/bin/busybox={busybox}:0755", "--", "/bin/busybox", "sh", "-c"]
    errors = []
    while len(errors) < 4 and min(errors, default=TOLERANCE) >= TOLERANCE:
        process = vm.start(*words, "echo ready; read go; exec /tool clock", stdin=subprocess.PIPE)
        assert read_line(process) == b"ready\n"
        before = time.time()
        result = finish(process, b"go\n")
        after = time.time()
        assert (result.code, result.err) == (0, b"")
        seen = int(result.out) / 1e9
        errors.append(max(before - seen, seen - after))
    assert min(errors) < TOLERANCE, errors


@pytest.mark.parametrize("pid1", [False, True], ids=["init stays", "PID 1 mode"])
def test_a_port_of_its_own_only_where_init_does_not_stay(vm_once: Vm, busybox: Path, pid1: bool) -> None:
    """Each port costs every boot."""
    words = [*(PID1 if pid1 else ()), "--file", f"/bin/busybox={busybox}:0755", "--", "/bin/busybox", "sh", "-c"]
    result = vm_once.run(*words, "busybox cat /sys/class/virtio-ports/*/name")
    ports = ["krun-control", "krun-stdin", "krun-stdout", "krun-stderr", *(["krun-timesync"] if pid1 else [])]
    assert sorted(result.out.decode().split()) == sorted(ports)


def test_pid1_has_no_child_that_it_did_not_make(vm_once: Vm) -> None:
    result = vm_once.run(*PID1, "--", "/tool", "children")
    assert result.code == 0, result


def test_pid1_that_cannot_be_executed(vm_once: Vm) -> None:
    """The child that was to serve the clock is no hindrance."""
    result = vm_once.run(*PID1, "--", "/nowhere", limit=30)
    assert (result.code, result.out) == (127, b"")


def test_without_the_switch(vm_once: Vm, busybox: Path) -> None:
    """The host tells the time to whoever is there; this init does not care."""
    vm_once.pykrun.prelude = OFTEN
    plain = blob.build(without_parts=["timesync"])
    words = ["--file", f"/bin/busybox={busybox}:0755", "--", "/bin/busybox", "sh", "-c"]
    script = f"busybox date -s @{PAST} > /dev/null; busybox sleep 1; busybox date +%s"
    process = vm_once.start(*words, script, env={blob.OVERRIDE: str(plain.path)})
    result = finish(process)
    assert (result.code, result.err) == (0, b"")
    assert PAST < int(result.out) < PAST + 30


LEAP = """
import sys, time
sys.path.insert(0, {source!r})
from pykrun.loop import Loop
from pykrun.supervisor import timesync
timesync.SOON = timesync.PERIOD = 1000
loop, said = Loop(), []
def on_time():
    said.append(time.monotonic())
    if len(said) < len(LEAPS):
        loop.call_later(0.05, leap)
    else:
        loop.stop()
def leap():
    time.clock_settime(time.CLOCK_REALTIME, time.time() + LEAPS[len(said)])
watch = timesync.ClockWatch(loop, on_time)
watch.start()
LEAPS = [float(word) for word in sys.argv[1:]]
began = time.monotonic()
if LEAPS:
    loop.call_later(0.05, leap)
    loop.call_later(20, loop.stop)
    loop.run()
    print(*(round(at - began, 3) for at in said))
"""
FILES = """
print(sys.executable)
for module in list(sys.modules.values()):
    for name in (getattr(module, "__file__", None), getattr(module, "__cached__", None)):
        if name:
            print(name)
"""


def python_files(code: str) -> set[str]:
    """Everything that the running interpreter needs for that."""
    command = [os.path.realpath(sys.executable), "-ISB", "-c"]
    done = subprocess.run([*command, code + FILES], capture_output=True, text=True, timeout=60, check=True)
    files = {name for name in done.stdout.split("\n") if name and os.path.exists(name)}
    programs = [name for name in files if ".so" in name or name == command[0]]
    libraries = subprocess.run(["ldd", *programs], capture_output=True, text=True, timeout=60, check=True)
    return files | set(re.findall(r"(?:=> |\n\t)(/\S+)", libraries.stdout))


def test_a_leap_of_the_hosts_clock_is_told_at_once(vm_once: Vm, tmp_path: Path) -> None:
    """A clock that may be set is one in a VM: there our own code is the host."""
    source = str(Path(blob.__file__).resolve().parents[2])
    code = LEAP.format(source=source)
    options = [word for name in python_files(code) for word in ("--file", f"{name}={os.path.realpath(name)}:0755")]
    (tmp_path / "leap.py").write_text(code)
    script = ["--file", f"/leap.py={tmp_path}/leap.py", "--env", f"PYTHONHOME={sys.base_prefix}", "--"]
    command = [os.path.realpath(sys.executable), "-SB", "/leap.py", "3600", "-7200", "0.5"]
    result = vm_once.run(*options, *script, *command)
    assert result.code == 0, result
    times = [float(word) for word in result.out.split()]
    assert len(times) == 3
    assert times[-1] < 3, "the timer itself would come after a thousand seconds"
