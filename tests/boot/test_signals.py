"""Signals and time limits: Ctrl-C, SIGTERM and --timeout."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tests.boot.vm import Result, Vm, finish, read_line

FORWARDED = [
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGINT,
    signal.SIGTERM,
]


def test_signals_reach_the_workload(vm: Vm) -> None:
    """As they are, and each once; without a terminal SIGWINCH is one of them."""
    process = vm.start("--", "/tool", "trap", str(len(FORWARDED)), "9")
    assert read_line(process) == b"ready\n"
    for number in FORWARDED[:-1]:
        process.send_signal(number)
        assert read_line(process) == b"signal %d\n" % number
    process.send_signal(FORWARDED[-1])
    result = finish(process)
    assert (result.code, result.out, result.err) == (9, b"signal %d\n" % FORWARDED[-1], b"")


def test_window_change_harms_nobody(vm_once: Vm) -> None:
    """Before there is a workload, and one that has no handler."""
    process = vm_once.start("--", "/tool", "sleep", "1", "ready")
    time.sleep(0.05)
    process.send_signal(signal.SIGWINCH)
    assert read_line(process) == b"ready\n"
    process.send_signal(signal.SIGWINCH)
    result = finish(process)
    assert (result.code, result.out, result.err) == (0, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_workload_that_does_not_care(vm_once: Vm, number: signal.Signals) -> None:
    process = vm_once.start("--", "/tool", "sleep", "100", "ready")
    assert read_line(process) == b"ready\n"
    process.send_signal(number)
    result = finish(process, limit=60)
    assert (result.code, result.out, result.err) == (128 + number, b"", b"")


def test_second_ctrl_c_ends_the_vm(vm: Vm) -> None:
    process = vm.start("--", "/tool", "trap", "0")
    assert read_line(process) == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert read_line(process) == b"signal 2\n"
    process.send_signal(signal.SIGINT)
    result = finish(process, limit=30)
    assert result.code == 128 + signal.SIGINT


def test_many_signals_do_not_confuse(vm_once: Vm) -> None:
    process = vm_once.start("--", "/tool", "trap", "3", "8")
    assert read_line(process) == b"ready\n"
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGHUP):
        process.send_signal(number)
        assert read_line(process) == b"signal %d\n" % number
    assert finish(process).code == 8


def test_sigterm_is_an_orderly_end_and_a_second_one_an_end_at_once(vm_once: Vm) -> None:
    vm_once.pykrun.prelude = "from pykrun.supervisor import vm; vm.GRACE = 100.0"
    process = vm_once.start("--", "/tool", "trap", "9")
    assert read_line(process) == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert read_line(process) == b"signal 15\n"
    process.send_signal(signal.SIGTERM)
    assert finish(process, limit=60).code == 128 + signal.SIGTERM


SHORT_GRACE = "from pykrun.supervisor import vm; vm.GRACE = 1.0"


def stop_slowly(vm: Vm, *words: str) -> Result:
    """SIGTERM to a workload that does not end by it."""
    vm.pykrun.prelude = SHORT_GRACE
    process = vm.start("--", "/tool", *words)
    assert read_line(process) == b"ready\n"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    result = finish(process)
    took = time.monotonic() - began
    assert (result.code, result.err) == (128 + signal.SIGKILL, b"")
    assert 1 <= took < 6, "the host itself would wait for six seconds, and say 143"
    return result


def test_workload_that_goes_on_after_sigterm_is_killed_when_the_grace_is_over(vm: Vm) -> None:
    assert stop_slowly(vm, "trap", "0").out == b"signal 15\n"


def test_workload_that_blocks_and_ignores_everything_is_killed(vm_once: Vm) -> None:
    assert stop_slowly(vm_once, "haunt").out == b""


def test_timeout(vm: Vm) -> None:
    """It ends the VM, whatever the workload does; what was written before still arrives."""
    seconds = 2.0 if vm.engine == "uml" else 12.0
    start = time.monotonic()
    result = vm.tool_run("trap", "0", options=["--timeout", str(seconds)])
    took = time.monotonic() - start
    assert (result.code, result.out) == (124, b"ready\n")
    assert b"Traceback" not in result.err
    assert seconds <= took < seconds + 15


def test_timeout_while_nobody_reads(vm_once: Vm) -> None:
    """A full pipe is no excuse: the limit holds."""
    seconds = 2.0 if vm_once.engine == "uml" else 12.0
    process = vm_once.start("--timeout", str(seconds), "--", "/tool", "yes")
    assert process.wait(seconds + 15) == 124
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    finish(process)


def test_second_ctrl_c_while_nobody_reads(vm_once: Vm) -> None:
    process = vm_once.start("--", "/tool", "yes")
    assert process.stdout is not None
    assert process.stdout.read(10) == b"y" * 10
    for _ in range(2):
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    assert process.wait(30) == 128 + signal.SIGINT
    process.stdout.close()
    process.stdout = None
    finish(process)


def test_timeout_during_boot(vm_once: Vm) -> None:
    result = vm_once.tool_run("exit", "0", options=["--timeout", "0.02"])
    assert result.code == 124
    assert b"Traceback" not in result.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_at_any_moment_of_the_start(vm_once: Vm, number: signal.Signals) -> None:
    """Before the workload runs, a signal ends the run without a word, and what was begun goes away."""
    for delay in (0.03, 0.06, 0.09, 0.12, 0.15, 0.2, 0.3):
        process = vm_once.start("--", "/tool", "sleep", "100")
        time.sleep(delay)
        assert process.poll() is None
        process.send_signal(number)
        result = finish(process, limit=60)
        if number == signal.SIGINT and b"KeyboardInterrupt" in result.err and b"pykrun" not in result.err:
            continue  # the interpreter itself was still starting
        assert result.code in (128 + number, -number)
        assert (result.out, result.err) == (b"", b"")


def ignore_hang_up() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_ignored_signals_stay_ignored(vm_once: Vm) -> None:
    """Under nohup a hang-up ends neither pykrun nor the workload."""
    process = vm_once.start("--", "/tool", "cat", stdin=subprocess.PIPE, prepare=ignore_hang_up)
    assert process.stdin is not None
    os.write(process.stdin.fileno(), b"ready\n")
    assert read_line(process) == b"ready\n"
    process.send_signal(signal.SIGHUP)
    result = finish(process, b"after\n")
    assert (result.code, result.out) == (0, b"after\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_pid1_mode_ends_on_a_signal(vm_once: Vm, number: int) -> None:
    """Nobody is there to hand it on."""
    process = vm_once.start("--kernel-arg", "KRUN_INIT_PID1=1", "--", "/tool", "sleep", "100", "ready")
    assert read_line(process) == b"ready\n"
    process.send_signal(number)
    result = finish(process, limit=10)
    assert result.code == 128 + number
    assert b"cannot be sent a signal" in result.err
