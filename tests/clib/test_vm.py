"""VMs that programs in C start."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.clib.library import compiled, environment, folder
from tests.support.command import Pykrun

LIMIT = 120.0
SCRIPT = 'read line; echo "out $line"; echo err >&2; exit 7'


def vm(
    pykrun: Pykrun,
    engine: str,
    *words: str | Path,
    env: dict[str, str] | None = None,
    stdin: bytes = b"hello\n",
    program: Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run the program of vm.c to its end, with nothing in its environment but what it needs."""
    process = start(pykrun, engine, *words, env=env, program=program)
    try:
        out, err = process.communicate(stdin, LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"no end within {LIMIT} s: {out[-2000:]!r} {err[-2000:]!r}") from None
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def start(
    pykrun: Pykrun, engine: str, *words: str | Path, env: dict[str, str] | None = None, program: Path | None = None
) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [program or compiled("vm.c"), *words],
        env={**environment(PYKRUN_ENGINE=engine, TMPDIR=str(pykrun.folder / "tmp")), **(env or {})},
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        cwd=pykrun.folder,
        start_new_session=True,
    )
    pykrun.adopt(process)
    return process


def test_a_shell_script(engine: str, run_pykrun: Pykrun, shell_root: Path) -> None:
    done = vm(run_pykrun, engine, "plain", shell_root, SCRIPT)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out hello\n", b"err\n")


@pytest.mark.parametrize("way", ["thread", "fork"])
def test_from_a_thread_and_after_fork(way: str, engine_once: str, run_pykrun: Pykrun, shell_root: Path) -> None:
    done = vm(run_pykrun, engine_once, way, shell_root, SCRIPT)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out hello\n", b"err\n")


@pytest.mark.root
def test_after_chroot(engine_once: str, run_pykrun: Pykrun, shell_root: Path) -> None:
    """There is no Python, no engine_once and no device there."""
    done = vm(run_pykrun, engine_once, "chroot", shell_root, "cat /marker; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"from the root\n", b"err\n")


@pytest.mark.parametrize("way", ["plain", "thread"])
def test_loaded_and_hidden(way: str, engine_once: str, run_pykrun: Pykrun, shell_root: Path) -> None:
    program = compiled("vm.c", "-DLOADED", linked=False)
    done = vm(run_pykrun, engine_once, folder() / "libkrun.so.1", way, shell_root, SCRIPT, program=program)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out hello\n", b"err\n")


def test_hostile_variables_of_python(engine_once: str, run_pykrun: Pykrun, shell_root: Path, tmp_path: Path) -> None:
    for name in ("os", "json", "signal", "pykrun", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("import os\nos._exit(77)\n")
    hostile = {"PYTHONHOME": str(tmp_path), "PYTHONPATH": str(tmp_path), "PYTHONINSPECT": "1"}
    done = vm(run_pykrun, engine_once, "plain", shell_root, SCRIPT, env=hostile)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out hello\n", b"err\n")


def test_an_environment_of_200_variables(engine_once: str, run_pykrun: Pykrun, shell_root: Path) -> None:
    """envp is NULL: the guest sees what the host's program has, whatever is in it."""
    values = [
        '"double"',
        "'single'",
        "ä ö ü \u65e5\u672c \U0001f600",
        "line\nbreak",
        "back\\slash $HOME `x`",
        "-- =",
        "",
    ]
    many = {f"VARIABLE_{number}": f"{values[number % len(values)]}{number}" for number in range(200)}
    done = vm(run_pykrun, engine_once, "plain", shell_root, "cat /proc/self/environ", env=many)
    assert done.returncode == 0, done.stderr
    seen = dict(entry.split("=", 1) for entry in done.stdout.decode().split("\0") if entry)
    assert {name: seen.get(name) for name in many} == many


def test_a_root_in_memory(engine: str, run_pykrun: Pykrun, shell_root: Path) -> None:
    done = vm(run_pykrun, engine, "memory", shell_root / "bin/busybox", "echo /*; exit 4")
    assert (done.returncode, done.stderr) == (4, b"")
    assert done.stdout.split() == [b"/bin", b"/dev", b"/proc", b"/sys"]


def test_a_kernel_of_the_callers(engine: str, run_pykrun: Pykrun, shell_root: Path) -> None:
    from pykrun import engine as engines

    image = engines.choose(engine).kernel().image
    words = "panic=-1 quiet lsm=capability my.word=1" + (" console=ttyS0 reboot=t" if engine == "qemu" else "")
    done = vm(run_pykrun, engine, "kernel", shell_root, "cat /proc/cmdline; exit 5", str(image), words)
    assert done.returncode == 5, done
    assert b"my.word=1" in done.stdout


TRAP = "trap 'echo trapped; exit 3' TERM; echo ready; while :; do sleep 1; done"


def wait_for(process: subprocess.Popen[bytes], word: bytes) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == word


def test_signals_reach_the_workload(engine_once: str, run_pykrun: Pykrun, shell_root: Path) -> None:
    process = start(run_pykrun, engine_once, "plain", shell_root, TRAP)
    wait_for(process, b"ready")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out) == (3, b"trapped\n"), err  # a shell may say that its child was terminated, too


def test_the_programs_own_handler_stays(engine_once: str, run_pykrun: Pykrun, shell_root: Path) -> None:
    """It was installed after the library was loaded, behind Python's back."""
    process = start(run_pykrun, engine_once, "own-handler", shell_root, "echo ready; read line; exit 6")
    wait_for(process, b"ready")
    process.send_signal(signal.SIGTERM)
    wait_for(process, b"handled")
    out, err = process.communicate(b"go on\n", LIMIT)
    assert (process.returncode, out, err) == (6, b"", b"")


def test_a_killed_program_takes_its_vm_along(engine_once: str, run_pykrun: Pykrun, shell_root: Path) -> None:
    """That nothing is left is what every test is checked for."""
    process = start(run_pykrun, engine_once, "plain", shell_root, TRAP)
    wait_for(process, b"ready")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=LIMIT)
    assert process.returncode == -signal.SIGKILL
