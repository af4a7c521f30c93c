"""How a run ends: the workload's exit code, deaths by signal, and every way to fail before or around it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.boot.vm import Vm


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("exit", "0"), 0),
        (("exit", "1"), 1),
        (("exit", "42"), 42),
        (("exit", "255"), 255),
        (("signal", "9"), 137),
        (("signal", "11"), 139),
    ],
)
def test_exit_code_is_the_workloads(vm: Vm, words: tuple[str, str], code: int) -> None:
    result = vm.tool_run(*words)
    assert (result.code, result.out, result.err) == (code, b"", b"")


@pytest.mark.parametrize(
    ("command", "code"),
    [("/nowhere", 127), ("/plain", 126), ("/empty", 126)],
    ids=["missing", "no mode bit", "no format"],
)
def test_program_that_cannot_be_executed(vm_once: Vm, tmp_path: Path, command: str, code: int) -> None:
    source = tmp_path / "text"
    source.write_bytes(b"\x7fELF but not really\n")
    words = ["--file", f"/plain={vm_once.tool}:0644", "--file", f"/empty={source}:0755", "--", command, "argument"]
    result = vm_once.run(*words)
    assert (result.code, result.out) == (code, b"")
    assert command.encode() in result.err


def test_working_directory(vm_once: Vm, tmp_path: Path) -> None:
    missing = vm_once.tool_run("exit", "0", options=["--workdir", "/not/there"])
    assert missing.code == 125
    assert b"/not/there" in missing.err
    assert b"Traceback" not in missing.err


def good(name: str, **process: object) -> object:
    return pytest.param(json.dumps({"process": {"args": ["/tool", "exit", "0"], **process}}), id=name)


@pytest.mark.parametrize(
    "config",
    [
        pytest.param('{"Cmd": ["/tool", "exit", "0"],', id="no JSON"),
        pytest.param('["/tool", "exit", "0"]', id="no object"),
        pytest.param('{"Cmd": "/tool exit 0"}', id="argv no list"),
        good("env no strings", env=["A=1", 2]),
        good("cwd no string", cwd=["/"]),
    ],
)
def test_wrong_config_does_not_run(vm_once: Vm, tmp_path: Path, config: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(config)
    result = vm_once.run("--secret", f"/.krun_config.json={path}")
    assert (result.code, result.out) == (125, b"")
    assert b".krun_config.json" in result.err


def test_kernel_panic(vm: Vm) -> None:
    result = vm.tool_run("panic")
    assert (result.code, result.out) == (125, b"")
    assert b"sysrq triggered crash" in result.err
    assert result.err.startswith(b"pykrun: ")


def test_machine_that_vanishes(vm: Vm) -> None:
    """`b` reboots at once: nobody reported an exit code."""
    result = vm.tool_run("vanish", "b")
    assert result.code == 125
    assert result.err.startswith(b"pykrun: ")


@pytest.mark.parametrize("code", [0, 42])
def test_pid1_mode(vm: Vm, code: int) -> None:
    """The workload is PID 1 itself; its end is a kernel panic whose line has the code."""
    result = vm.tool_run("exit", str(code), options=["--kernel-arg", "KRUN_INIT_PID1=1"])
    assert (result.code, result.out) == (code, b"")


def test_pid1_mode_is_pid_1(vm: Vm) -> None:
    result = vm.run("--kernel-arg", "KRUN_INIT_PID1=1", "--", "/tool", "ops", "getpid", "getpid")
    assert (result.code, result.out) == (0, b"1 \n1 \n")


def test_background_process_does_not_hold_the_end(vm_once: Vm) -> None:
    """A process that keeps the streams open, in a session of its own, ends with the VM."""
    result = vm_once.run("--", "/tool", "orphan", "100", limit=60)
    assert (result.code, result.out, result.err) == (9, b"parent\n", b"")


@pytest.mark.parametrize("children", [600, pytest.param(10_000, marks=pytest.mark.full)])
def test_orphans_are_reaped_as_they_come(vm: Vm, children: int) -> None:
    """PID 1 is everybody's last parent: the table of processes stays small, the exit code is still the workload's."""
    result = vm.run("--", "/tool", "swarm", str(children // 2), "25", limit=300)
    assert (result.code, result.err) == (17, b"")
    most, most_zombies, left, left_zombies = (int(word) for word in result.out.split())
    assert most < 20
    assert most_zombies < 10
    assert (left, left_zombies) == (2, 0), "init and the workload"


def test_daemons_end_with_the_machine(vm: Vm) -> None:
    """Sessions of their own, every signal ignored and blocked, one stopped, one that is never the same process for
    long, one that writes without end."""
    began = time.monotonic()
    result = vm.tool_run("daemons", "12")
    assert (result.code, result.err) == (9, b"")
    assert result.out.replace(b"haunted\n", b"") == b"parent\n"
    assert time.monotonic() - began < 30


DEADLY = [number for number in range(1, 32) if number not in (17, 18, 19, 20, 21, 22, 23, 28)]
"""Whose default action is the end of the process (signal(7)); after them come the real-time ones."""

TELL_SIGNAL = """
from pykrun.cli import run
tell = run._tell
def tell_signal(plan, outcome, **options):
    tell(plan, outcome, **options)
    sys.stderr.write(f"signal {outcome.signal}")
run._tell = tell_signal
"""


@pytest.mark.parametrize(
    "numbers",
    [DEADLY[:12], DEADLY[12:], pytest.param(range(32, 65), marks=pytest.mark.full)],
    ids=["1 to 12", "13 to 31", "real-time"],
)
def test_every_deadly_signal_is_told(vm_once: Vm, numbers: Sequence[int]) -> None:
    vm_once.pykrun.prelude = TELL_SIGNAL
    for number in numbers:
        result = vm_once.tool_run("signal", str(number))
        assert (result.code, result.out, result.err) == (128 + number, b"", b"signal %d" % number)


def test_other_signals_are_no_end(vm_once: Vm) -> None:
    vm_once.pykrun.prelude = TELL_SIGNAL
    for number in (17, 18, 23, 28):
        result = vm_once.tool_run("signal", str(number))
        assert (result.code, result.err) == (70, b"signal 0")


def test_shell_is_the_default_command(vm_once: Vm, busybox: Path) -> None:
    result = vm_once.run("--file", f"/bin/sh={busybox}:0755", stdin=b"echo $((6 * 7)); exit 3\n")
    assert (result.code, result.out, result.err) == (3, b"42\n", b"")
