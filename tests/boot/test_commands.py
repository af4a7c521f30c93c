"""Further commands in running VMs: `VirtualMachine.commands` down to processes of the guest, on each engine."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.boot.commands import Piped, Session, Terminal
from tests.boot.vm import Vm, finish

OPTIONS = ("--root", "/", "--read-only", "--timeout", "100", "--env", "OWN=workload", "--workdir", "/usr")


@pytest.fixture
def session(vm: Vm) -> Iterator[Session]:
    """A VM of this machine's programs whose own command waits."""
    with Session(vm, *OPTIONS, "--", "/bin/sleep", "1000") as session:
        session.wait_for("reached", "started")
        yield session


@pytest.fixture
def session_once(vm_once: Vm) -> Iterator[Session]:
    """The same, for what no engine changes."""
    with Session(vm_once, *OPTIONS, "--", "/bin/sleep", "1000") as session:
        session.wait_for("reached", "started")
        yield session


def shell(script: str) -> tuple[str, str, str]:
    return "/bin/sh", "-c", script


def test_streams_codes_and_attributes(session_once: Session) -> None:
    """Three streams apart, exit codes, signals, failures; and what a command has from the workload or for itself."""
    result = session_once.run(*shell("cat; echo err >&2; exit 42"), stdin=b"in\xff\0")
    assert (result.code, result.out, result.err) == (42, b"in\xff\0", b"err\n")
    assert session_once.run(*shell("kill -11 $$")).code == 139
    missing = session_once.run("/not/there")
    assert (missing.code, missing.err) == (127, b"Couldn't execute '/not/there': No such file or directory")
    assert session_once.run("/etc/passwd").code == 126
    assert b"working directory '/not/there'" in session_once.run("/bin/true", cwd="/not/there").err
    assert session_once.run(*shell('echo "$OWN $(pwd) $(id -u)"')).out == b"workload /usr 0\n"
    own = session_once.run(
        *shell('echo "$OWN $MINE $(pwd) $(id -un):$(id -g) $(ulimit -n) $HOME"'),
        env=["MINE=1"],
        cwd="/proc/..",
        user={"username": "nobody:7"},
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 40, "hard": 50}],
    )
    assert own.out == b" 1 / nobody:7 40 /nonexistent\n"
    assert session_once.end().code == 143


def test_bytes_are_exact(session: Session) -> None:
    """Tens of megabytes both ways at once, while another command does the same."""
    data = os.urandom(12 << 20)
    twins = [Piped(session, "/bin/cat") for _ in range(2)]
    quick = Piped(session, *shell("sha256sum"))
    quick.feed(data)
    for twin in twins:
        twin.feed(b"", end=False)
    import threading

    feeders = [threading.Thread(target=twin.feed, args=(data,)) for twin in twins]
    for feeder in feeders:
        feeder.start()
    for twin in twins:
        result = twin.finish(100)
        assert (result.code, result.err) == (0, b"")
        assert hashlib.sha256(result.out).digest() == hashlib.sha256(data).digest()
    for feeder in feeders:
        feeder.join()
    assert quick.finish().out.split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert session.end().code == 143


def test_slow_reader_holds_up_nobody_else(session: Session) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    slow = session.start(*shell("yes | head -c 3000000"), streams=(None, writer, None))
    os.close(writer)
    time.sleep(0.5)
    assert session.run("/bin/echo", "quick").out == b"quick\n"
    assert ["ended", slow] not in [event[:2] for event in session.events]
    received = hashlib.sha256()
    while data := os.read(reader, 65536):
        received.update(data)
    os.close(reader)
    assert session.wait(slow) == (0, 0, "")
    assert received.digest() == hashlib.sha256(b"y\n" * 1_500_000).digest()
    assert session.end().code == 143


def test_reader_that_goes_away(session_once: Session) -> None:
    """It gets EPIPE, as in a pipe here; and who feeds one that does not read hears of that."""
    reader, writer = os.pipe()
    number = session_once.start("/usr/bin/yes", streams=(None, writer, None))
    os.close(writer)
    assert os.read(reader, 2) == b"y\n"
    os.close(reader)
    assert session_once.wait(number) == (141, 13, "")
    command = Piped(session_once, *shell("exec <&-; echo closed; sleep 0.5"))
    command.feed(bytes(1 << 20))
    assert command.finish().out == b"closed\n"
    assert session_once.end().code == 143


def test_background_child_does_not_hold_it_up(session_once: Session) -> None:
    began = time.monotonic()
    result = session_once.run(*shell("(sleep 100; echo late) & echo early"))
    assert (result.code, result.out) == (0, b"early\n")
    assert time.monotonic() - began < 30
    assert session_once.end().code == 143


def test_signals(session_once: Session) -> None:
    command = Piped(session_once, *shell("trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.1; done"))
    session_once.wait_for("started", command.number)
    while not command.out[0]:
        time.sleep(0.01)
    session_once.say("signal", command.number, int(signal.SIGUSR1))
    os.close(command.stdin)
    result = command.finish()
    assert (result.code, result.out) == (3, b"ready\ngot\n")
    session_once.say("signal", command.number, int(signal.SIGKILL))
    assert session_once.end().code == 143


def test_abandoned(session_once: Session) -> None:
    """HUP ends most, KILL the others."""
    polite = Piped(session_once, *shell("trap 'exit 5' HUP; trap '' PIPE; echo; while :; do sleep 0.1; done"))
    deaf = Piped(session_once, *shell("trap '' HUP PIPE; echo; while :; do sleep 0.1; done"))
    for command in (polite, deaf):
        while not command.out[0]:
            time.sleep(0.01)
        session_once.say("abandon", command.number)
        os.close(command.stdin)
    assert polite.finish().code == 5
    assert deaf.finish().code == 137
    assert session_once.end().code == 143


def test_terminal(session: Session) -> None:
    """Its size, its changes, its keys, its end."""
    terminal = Terminal(session, *shell("tty; stty size; cat"), consoleSize={"height": 33, "width": 111})
    terminal.see(b"33 111\r\n")  # whole, or the echo comes in between
    terminal.type(b"line\r")
    terminal.see(b"line\r\nline\r\n")
    terminal.end_input()
    assert session.wait(terminal.number) == (0, 0, "")
    assert terminal.rest().startswith(b"/dev/pts/")
    terminal = Terminal(session, *shell("trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done"))
    terminal.see(b"ready\r\n")
    session.say("resize", terminal.number, 50, 100)
    terminal.see(b"50 100\r\n")
    terminal.type(b"\x03")
    assert session.wait(terminal.number)[:2] == (130, 2)
    assert terminal.rest().endswith(b"^C")
    assert session.end().code == 143


def test_two_hundred_at_once(session: Session) -> None:
    commands = [Piped(session, *shell(f"read word; echo $word {index}; exit {index}")) for index in range(200)]
    for command in commands:
        session.wait_for("started", command.number)
    for command in commands:
        command.feed(f"word{command.number}\n".encode())
    for index, command in enumerate(commands):
        result = command.finish()
        assert (result.code, result.out) == (index, f"word{command.number} {index}\n".encode())
    assert session.end(100).code == 143


def test_end_of_the_vm_is_the_end_of_all(session_once: Session) -> None:
    """The workload ends; then a VM is ended from outside: each command hears why."""
    commands = [
        Piped(session_once, *shell("echo; sleep 1000")),
        Piped(session_once, *shell("trap '' HUP TERM; echo; sleep 1000")),
    ]
    for command in commands:
        while not command.out[0]:
            time.sleep(0.01)
    assert session_once.end().code == 143
    for command in commands:
        os.close(command.stdin)
        result = command.finish()
        assert (result.code, result.err) == (137, b"the VM ended: its own command has")


def test_vm_that_is_ended(session: Session) -> None:
    command = Piped(session, *shell("echo; sleep 1000"))
    while not command.out[0]:
        time.sleep(0.01)
    session.say("vm", "end", 7)
    assert finish(session.process).code == 7
    os.close(command.stdin)
    assert command.finish().err == b"the VM ended before the command did"


def test_workload_is_untouched(vm: Vm) -> None:
    """Its streams are its own, whatever comes and goes beside it."""
    with Session(vm, *OPTIONS, "--", *shell("head -c 20000000 /dev/zero | cat; echo err >&2; exit 4")) as session:
        session.wait_for("reached", "started")
        others = [Piped(session, "/bin/echo", str(index)) for index in range(5)]
        result = finish(session.process)
        assert (result.code, len(result.out), result.err) == (4, 20_000_000, b"err\n")
        for other in others:
            os.close(other.stdin)
            assert other.finish().code in (0, 125, 137)


def test_beside_a_workload_with_a_terminal(vm_once: Vm) -> None:
    """It has the console, a command has pipes or a terminal of its own."""
    master, terminal = os.openpty()
    with Session(vm_once, *OPTIONS, "-t", "--", "/bin/cat", stdin=terminal, stdout=terminal) as session:
        session.wait_for("reached", "started")
        assert session.run(*shell("tty; cat"), stdin=b"x").out == b"not a tty\nx"
        other = Terminal(session, "/usr/bin/tty")
        assert session.wait(other.number) == (0, 0, "")
        assert other.rest().startswith(b"/dev/pts/")
        os.write(master, b"\x04")
        assert finish(session.process).code == 0
    os.close(master)
    os.close(terminal)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kernel-arg", "KRUN_INIT_PID1=1"), "its own is PID 1 itself"),
    ],
)
def test_where_there_can_be_none(vm_once: Vm, words: tuple[str, ...], said: str) -> None:
    with Session(vm_once, *OPTIONS, *words, "--", *shell("echo up; sleep 1000")) as session:
        assert session.process.stdout is not None
        session.process.stdout.readline()
        assert said in session.wait_for("refused", session.start("/bin/true", streams=(None, None, None)))[2]
        session.say("vm", "end", 0)
        assert finish(session.process).code == 0


def test_before_the_workload_has_started(vm_once: Vm) -> None:
    with Session(vm_once, *OPTIONS, "--", "/bin/sleep", "1000") as session:
        session.wait_for("reached", "served")
        number = session.start("/bin/true", streams=(None, None, None))
        assert "not started" in session.wait_for("refused", number)[2]
        session.wait_for("reached", "started")
        assert session.end().code == 143
