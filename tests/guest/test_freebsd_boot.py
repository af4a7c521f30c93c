"""FreeBSD's init as a whole against a recording of its kernel: boot order, the workload's start and end, exit codes."""

from __future__ import annotations

import errno
import json
import posix
import signal
from pathlib import Path
from typing import Any

import pytest

from krun_init import rlimits
from krun_init.errors import Ending, InitError
from krun_init.start import Start
from krun_init.workload import Workload
from tests.guest.freebsd import Exited, Lines, Recording
from tests.guest.test_freebsd import CONSOLE, LOG, NULL, set_words

from krun_init import (  # isort: skip - after the recording, which brings the seam
    freebsd,
    freebsd_launch,
    freebsd_watch,
)

FREEBSD_LINE = 512
"""Bytes of the kernel's command line in libkrun's machines."""


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recording:
    monkeypatch.setattr(rlimits, "numbers", rlimits.FREEBSD)
    system = Recording(tmp_path)
    system.signals = [signal.SIGCHLD]
    system.children = [(100, 0)]
    return system


def boot(system: Recording, *argv: str) -> int:
    """Run PID 1 to its end: the exit code."""
    with pytest.raises(Exited) as caught:
        freebsd.Guest(["/init.krun", *argv], {}, system).run()
    code: int = caught.value.args[0]
    return code


def program_of(system: Recording, *argv: str) -> Workload:
    """What would have been started, with the same boot."""
    found = []
    guest = freebsd.Guest(["/init.krun", *argv], {}, system)
    guest.run_workload = lambda program: found.append(program) or Ending(0)  # type: ignore[assignment,func-returns-value]
    guest.boot()
    (program,) = found
    return program


def configure(system: Recording, **document: Any) -> None:
    system.disk_content = json.dumps(document).encode()


# -- order ---------------------------------------------------------------------------------------------------------


def test_boot_order(system: Recording) -> None:
    configure(system, Cmd=["a"], Cwd="/w", hostname="h")
    system.children = [(100, 7 << 8)]
    assert boot(system) == 7
    order = [name for name in system.names() if name not in ("kenv", "now", "keep", "dup2", "close")]
    assert order == [
        *("revoke", "open", "make_blocking", "setsid", "ioctl"),  # the console, then the kernel's environment
        *("setsid", "ioctl", "setlogin"),
        *("socket_ioctl", "socket_ioctl"),
        *("mkdir", "nmount", "unmount"),
        "sethostname",
        "chdir",
        *("hold_signals", "fork", "next_signal", "waitpid"),
        *("open", "make_blocking"),  # the console again, for the last words
        *("end_processes", "sync", "mounts", "exit"),
    ]
    names = system.names()
    assert names.index("ioctl") < names.index("kenv") < names.index("setlogin")
    assert system.made("sethostname") == [("h",)]
    assert system.made("chdir") == [("/w",)]
    assert system.made("ioctl") == [(0, 0x20007461, 0), (0, 0x20007461, 1)]


def test_signals_are_held_before_there_is_a_child(system: Recording) -> None:
    boot(system)
    (held,) = system.made("hold_signals")[0]
    assert {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2} <= set(held)
    assert not {signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGPIPE} & set(held)


@pytest.mark.parametrize(
    ("asked", "configured", "name"), [(b"k", None, "k"), (b"k", "c", "c"), (None, None, "localhost")]
)
def test_hostname(system: Recording, asked: bytes | None, configured: str | None, name: str) -> None:
    if asked is not None:
        system.variables["HOSTNAME"] = asked
    if configured is not None:
        configure(system, hostname=configured)
    assert boot(system) == 0
    assert system.made("sethostname") == [(name,)]


@pytest.mark.parametrize(("asked", "folder"), [(b"/asked", "/asked"), (None, "/configured")])
def test_working_directory(system: Recording, asked: bytes | None, folder: str) -> None:
    if asked is not None:
        system.variables["KRUN_WORKDIR"] = asked
    configure(system, Cwd="/configured")
    boot(system)
    assert system.made("chdir") == [(folder,)]


# -- what goes wrong before the workload runs ----------------------------------------------------------------------


def too_long(system: Recording) -> None:
    system.variables["KRUN_INIT"] = b"x" * 130


def bad_words(system: Recording) -> None:
    system.variables["KRUN_INIT_ARGV0"] = b"?"


def bad_disk(system: Recording) -> None:
    system.disk_content = b"{]"


def bad_named_file(system: Recording) -> None:
    path = Path(system.config).with_name("named")
    path.write_text('{"Env": 1}')
    system.variables["KRUN_CONFIG"] = str(path).encode()


def no_directory(system: Recording) -> None:
    system.variables["KRUN_WORKDIR"] = b"/nowhere"
    system.failures["chdir"] = errno.ENOENT


def no_hostname(system: Recording) -> None:
    system.variables["HOSTNAME"] = b"x"
    system.failures["sethostname"] = errno.EINVAL


def no_fork(system: Recording) -> None:
    system.failures["fork"] = errno.EAGAIN


def lost_child(system: Recording) -> None:
    system.failures["waitpid"] = errno.ECHILD


def surprise(system: Recording) -> None:
    system.answers["mounts"] = []
    system.variables["HOSTNAME"] = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (too_long, "kernel variable KRUN_INIT has more than 128 bytes"),
        (bad_words, "kernel variables KRUN_INIT_ARGV0 to 0: base64 comes in groups of four characters"),
        (bad_disk, "disk.json is not JSON: "),
        (bad_named_file, "named: Env must be an array, not a number"),
        (no_directory, "working directory '/nowhere': No such file or directory"),
        (no_hostname, "host name 'x': Invalid argument"),
        (no_fork, "cannot fork: Resource temporarily unavailable"),
        (lost_child, "the workload's process was lost"),
        (surprise, "internal error: TypeError"),
    ],
)
def test_failure_is_125_with_its_reason(system: Recording, spoil: Any, reason: str, capfd: Any) -> None:
    spoil(system)
    assert boot(system) == 125
    assert reason in capfd.readouterr().err
    assert system.names()[-4:] == ["end_processes", "sync", "mounts", "exit"]
    assert "execve" not in system.names()


# -- what is run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("init", "words", "configured", "kernel", "argv"),
    [
        (b"/i", ["a", "b"], ["c"], (), ["/i", "a", "b"]),
        (b"/i", None, ["c"], ("k",), ["/i", "k"]),
        (b"/i", None, None, ("-s",), ["/i"]),
        (None, ["a", "b"], ["c"], (), ["c"]),
        (None, ["a", "b"], None, ("k",), ["a", "b"]),
        (None, None, None, ("k", "l"), ["k", "l"]),
        (None, None, None, ("-s",), ["/bin/sh"]),
        (None, None, None, (), ["/bin/sh"]),
    ],
)
def test_argv(
    system: Recording,
    init: bytes | None,
    words: list[str] | None,
    configured: list[str] | None,
    kernel: tuple[str, ...],
    argv: list[str],
) -> None:
    if init is not None:
        system.variables["KRUN_INIT"] = init
    if words is not None:
        set_words(system, [word.encode() for word in words])
    if configured is not None:
        configure(system, Cmd=configured)
    assert program_of(system, *kernel).argv == argv


def test_bytes_that_are_no_text(system: Recording) -> None:
    set_words(system, [b"p\xff", b"\n"], 20)
    assert program_of(system).argv == ["p\udcff", "\n"]


def test_a_command_line_full_of_words(system: Recording) -> None:
    """Chunks of what is left of 127 bytes (sys/kern/subr_boot.c) behind their name."""
    words = [b"/bin/program", *(b"argument %d" % index for index in range(20))]
    set_words(system, words, 127 - len("KRUN_INIT_ARGV0="))
    line = " ".join(f"{name}={value.decode()}" for name, value in system.variables.items())
    assert 300 < len(line) < FREEBSD_LINE
    assert program_of(system).argv == [word.decode() for word in words]


def test_environment(system: Recording) -> None:
    system.variables = {"KRUN_HOME": b"/h", "KRUN_TERM": b"xterm", "HOSTNAME": b"n", "KRUN_INIT": b"/i"}
    configure(system, Env=["HOME=/c", "TERM=c", "A=B", "HOSTNAME=c"])
    program = program_of(system)
    assert program.env == ["HOSTNAME=n", "HOME=/h", "TERM=xterm", "A=B", f"PATH={freebsd.environment.PATH}"]


def test_limits_have_the_numbers_of_this_kernel(system: Recording) -> None:
    system.variables["KRUN_RLIMITS"] = b'"8=10:20,15:1:1,16=1:1,x"'
    configure(
        system, process={"rlimits": [limit("NOFILE"), limit("NPROC"), limit("MEMLOCK"), limit("VMEM"), limit("AS")]}
    )
    program = program_of(system)
    assert program.rlimits == [(8, 10, 20), (7, 1, 2), (6, 1, 2), (10, 1, 2), (15, 1, 1)]
    configure(system, process={"rlimits": [limit("NICE")]})
    with pytest.raises(InitError, match="'RLIMIT_NICE' is no resource limit"):
        program_of(system)


def limit(name: str) -> dict[str, Any]:
    return {"type": f"RLIMIT_{name}", "soft": 1, "hard": 2}


def test_linux_keeps_its_numbers() -> None:
    assert rlimits.LINUX["RLIMIT_NOFILE"] == 7
    assert "RLIMIT_VMEM" not in rlimits.LINUX


# -- how it starts -------------------------------------------------------------------------------------------------


def workload(**process: Any) -> Workload:
    """A program with everything that a configuration can ask for."""
    from krun_init import config, workload

    conf = config.parse("c", json.dumps({"process": {"args": ["p", "q"], **process}}).encode(), Lines())
    return workload.compose({}, [], {"PATH": "/a:/b", "K": "V=W"}, Start(), conf, Lines())


def child(system: Recording, program: Workload) -> tuple[int, list[str]]:
    """What the child does: its exit code and what it says."""
    system.answers["fork"] = 0
    system.failures.setdefault("execve", errno.ENOENT)
    log = Lines()
    with pytest.raises(Exited) as caught:
        freebsd_launch.spawn(system, program, log)
    return caught.value.args[0], log.lines


def test_child_step_by_step(tmp_path: Path) -> None:
    system = Recording(tmp_path, {0: "revoked", 1: "revoked", 2: "revoked"})
    program = workload(
        user={"uid": 1, "gid": 2, "additionalGids": [3, 4], "umask": 63},
        rlimits=[limit("CORE")],
        noNewPrivileges=True,
    )
    child(system, program)
    environment = {"PATH": "/a:/b", "K": "V=W"}
    assert system.calls == [
        ("fork",),
        ("revoke", CONSOLE),  # the console again, in place of the redirects to ports
        ("open", CONSOLE, posix.O_RDWR | posix.O_NONBLOCK),
        ("make_blocking", 3),
        ("setsid",),
        ("ioctl", 3, 0x20007461, 0),
        *(("dup2", 3, 0), ("dup2", 3, 1), ("dup2", 3, 2), ("close", 3)),
        ("umask", 63),
        ("setrlimit", 4, 1, 2),
        ("setgroups", [2, 3, 4]),
        ("setresgid", 2, 2, 2),
        ("setresuid", 1, 1, 1),
        ("no_new_privs",),
        ("release_signals",),
        ("execve", "/a/p", ["p", "q"], environment),
        ("execve", "/b/p", ["p", "q"], environment),
        ("exit", 127),
    ]
    assert system.streams == [CONSOLE] * 3


def test_child_without_console_has_a_process_group(system: Recording) -> None:
    system.failures["open", CONSOLE] = errno.ENXIO
    child(system, workload())
    assert system.made("setpgid") == [(0, 0)]
    assert system.names().index("setpgid") < system.names().index("execve")
    assert system.streams == [NULL, LOG, LOG]


def test_child_that_keeps_what_it_has(system: Recording) -> None:
    child(system, workload())
    assert not {"umask", "setrlimit", "setgroups", "setresgid", "setresuid", "no_new_privs"} & set(system.names())
    assert "setpgid" not in system.names()


@pytest.mark.parametrize(
    ("step", "number", "reason"),
    [
        ("setrlimit", errno.EPERM, "RLIMIT_CORE soft 1, hard unlimited: Operation not permitted"),
        ("setgroups", errno.EINVAL, "user: Invalid argument"),
        ("setresgid", errno.EPERM, "user: Operation not permitted"),
        ("setresuid", errno.EAGAIN, "user: Resource temporarily unavailable"),
        ("no_new_privs", errno.EINVAL, "noNewPrivileges: Invalid argument"),
    ],
)
def test_child_says_which_step_failed(system: Recording, step: str, number: int, reason: str) -> None:
    system.failures[step] = number
    core = {"type": "RLIMIT_CORE", "soft": 1, "hard": rlimits.INFINITY}
    assert child(system, workload(rlimits=[core], user={"uid": 1}, noNewPrivileges=True)) == (
        125,
        [f"cannot start 'p': {reason}"],
    )
    assert "execve" not in system.names()


def test_child_never_goes_on_as_init(system: Recording) -> None:
    system.failures["open"] = errno.ENXIO
    system.failures["setpgid"] = errno.EPERM
    code, lines = child(system, workload())
    assert code == 125
    assert lines[0].startswith("internal error: PermissionError")


@pytest.mark.parametrize(
    ("failures", "code", "reason", "tried"),
    [
        ({"execve": errno.ENOENT}, 127, "No such file or directory", 2),
        ({"execve": errno.EACCES}, 126, "Permission denied", 2),
        ({"execve": errno.ENOEXEC}, 126, "Exec format error", 1),
        ({"execve": errno.ENOTDIR}, 127, "No such file or directory", 2),
        ({("execve", "/a/p"): errno.EACCES, "execve": errno.ENOENT}, 126, "Permission denied", 2),
        ({("execve", "/a/p"): errno.ENOENT, "execve": errno.ENOEXEC}, 126, "Exec format error", 2),
    ],
)
def test_program_that_cannot_be_executed(system: Recording, failures: Any, code: int, reason: str, tried: int) -> None:
    system.failures |= failures
    assert child(system, workload()) == (code, [f"Couldn't execute 'p': {reason}"])
    assert [path for path, *_rest in system.made("execve")] == ["/a/p", "/b/p"][:tried]


@pytest.mark.parametrize(("name", "code"), [("/x/y", 126), ("", 127)])
def test_program_that_is_not_looked_for(system: Recording, name: str, code: int) -> None:
    system.failures["execve"] = errno.ENOTDIR
    program = workload()
    program.argv = [name]
    assert child(system, program)[0] == code
    assert [path for path, *_rest in system.made("execve")] == ([name] if name else [])


# -- as PID 1 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"1", b"1x"])
def test_workload_as_pid_1(system: Recording, value: bytes, capfd: Any) -> None:
    system.variables |= {"KRUN_INIT_PID1": value, "KRUN_INIT": b"/i"}
    system.failures["execve"] = errno.ENOENT
    assert boot(system) == 127
    assert "fork" not in system.names()
    assert "hold_signals" not in system.names()
    assert len(system.made("revoke")) == 1
    assert [path for path, *_rest in system.made("execve")] == ["/i"]
    assert "Couldn't execute '/i': No such file or directory" in capfd.readouterr().err
    assert system.names()[-1] == "exit"


@pytest.mark.parametrize("value", [b"0", b"", b"01"])
def test_workload_as_a_child(system: Recording, value: bytes) -> None:
    system.variables["KRUN_INIT_PID1"] = value
    boot(system)
    assert "fork" in system.names()


# -- while it runs -------------------------------------------------------------------------------------------------


def watch(system: Recording, *signals: int) -> Ending:
    system.signals = list(signals)
    return freebsd_watch.Watch(system, 100, 10.0).run()


@pytest.mark.parametrize(
    ("status", "code", "number"), [(0, 0, 0), (7 << 8, 7, 0), (15, 143, 15), (9 | 0x80, 137, 9), (255 << 8, 255, 0)]
)
def test_exit_codes(system: Recording, status: int, code: int, number: int) -> None:
    system.children = [(99, 1), (100, status)]
    ending = watch(system, signal.SIGCHLD)
    assert (ending.code, ending.signal, ending.reason) == (code, number, "")


def test_orphans_are_buried(system: Recording) -> None:
    system.children = [(5, 0), (6, 0), (0, 0), (7, 0), (100, 0), (8, 0)]
    assert watch(system, signal.SIGCHLD, signal.SIGCHLD).code == 0
    assert system.children == [(8, 0)]


def test_signals_are_passed_on(system: Recording) -> None:
    watch(system, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD)
    assert system.made("killpg") == [(100, signal.SIGHUP), (100, signal.SIGQUIT)]


def test_workload_that_has_no_group_yet(system: Recording) -> None:
    system.failures["killpg"] = errno.ESRCH
    watch(system, signal.SIGHUP, signal.SIGCHLD)
    assert system.made("kill") == [(100, signal.SIGHUP)]
    system.failures["kill"] = errno.ESRCH
    system.children = [(100, 0)]
    watch(system, signal.SIGHUP, signal.SIGCHLD)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_stop(system: Recording, number: int) -> None:
    system.children = [(100, 15)]
    assert watch(system, number, signal.SIGCHLD).code == 143
    assert system.made("killpg") == [(100, signal.SIGTERM)]


def test_stop_of_a_workload_that_does_not_want_to(system: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(pid: int, number: int) -> None:
        if number == signal.SIGKILL:
            system.signals.append(signal.SIGCHLD)

    monkeypatch.setattr(Recording, "_on_killpg", lambda self, pid, number: die(pid, number), raising=False)
    system.children = [(100, 9)]
    assert watch(system, signal.SIGTERM).code == 137
    assert system.made("killpg") == [(100, signal.SIGTERM), (100, signal.SIGKILL)]
    assert system.answers["now"] == 10.0


def test_asking_again_does_not_give_more_time(system: Recording) -> None:
    """Whoever sends signal after signal cannot put off the KILL either."""
    watcher = freebsd_watch.Watch(system, 100, 10.0)
    system.signals = []
    watcher._stop()
    system.answers["now"] = 9.0
    watcher._stop()
    system.answers["now"] = 10.0
    system.signals = [signal.SIGHUP, signal.SIGCHLD]
    watcher.run()
    assert (100, signal.SIGKILL) in system.made("killpg")
