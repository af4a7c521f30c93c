"""How a run ends: the workload's exit code, deaths by signal, and every way to fail before or around it."""

from __future__ import annotations

import json
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


def test_orphans_are_reaped(vm_once: Vm, busybox: Path) -> None:
    """PID 1 is everybody's last parent: no zombie stays, the exit code is still the workload's."""
    script = "/tool orphans 20; /bin/busybox sleep 1; /bin/busybox grep -l '^State:.Z' /proc/[0-9]*/status; exit 17"
    result = vm_once.run("--file", f"/bin/busybox={busybox}:0755", "--", "/bin/busybox", "sh", "-c", script)
    assert (result.code, result.out, result.err) == (17, b"", b"")


def test_shell_is_the_default_command(vm_once: Vm, busybox: Path) -> None:
    result = vm_once.run("--file", f"/bin/sh={busybox}:0755", stdin=b"echo $((6 * 7)); exit 3\n")
    assert (result.code, result.out, result.err) == (3, b"42\n", b"")
