"""A terminal of the host becomes the guest's: size, keys, job control, and back as it was."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boot.vm import LIMIT, Vm, engine_process


class Terminal:
    """A pseudo-terminal whose slave side pykrun gets, as its controlling terminal."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.seen = b""
        self.process: subprocess.Popen[bytes]
        self.resize(33, 101)
        self.settings = termios.tcgetattr(self.slave)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def start(self, vm: Vm, *words: str) -> subprocess.Popen[bytes]:
        def take() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        side = self.slave
        self.process = vm.start(*words, stdin=side, stdout=side, stderr=side, prepare=take)
        return self.process

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def expect(self, pattern: bytes, limit: float = LIMIT) -> re.Match[bytes]:
        """Read until the pattern appears, and forget everything up to its end."""
        end = time.monotonic() + limit
        while (match := re.search(pattern, self.seen)) is None:
            left = end - time.monotonic()
            ended = self.process.poll() is not None
            if select.select([self.master], [], [], 0 if ended else max(0.0, min(left, 0.2)))[0]:
                self.seen += os.read(self.master, 65536)
            else:
                assert left > 0, f"no {pattern!r} in {self.seen!r}"
                assert not ended, f"the end ({self.process.returncode}) before {pattern!r}: {self.seen!r}"
        self.seen = self.seen[match.end() :]
        return match

    def rest(self) -> bytes:
        """What else was written."""
        while select.select([self.master], [], [], 0.1)[0]:
            self.seen += os.read(self.master, 65536)
        return self.seen

    def wait(self, limit: float = LIMIT) -> int:
        """The exit code; whoever does not end in time shows what it wrote last."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"hung after {limit} s, last words: {self.rest()!r}") from None

    def close(self) -> None:
        for fd in (self.master, self.slave):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    result = Terminal()
    yield result
    result.close()


@pytest.mark.parametrize("option", [["-t"], []], ids=["asked", "by default"])
def test_terminal(vm: Vm, terminal: Terminal, option: list[str]) -> None:
    terminal.start(vm, *option, "--", "/tool", "tty")
    terminal.expect(rb"isatty 1 1 1\r\n")
    terminal.expect(rb"leader 1 foreground 1\r\n")
    terminal.expect(rb"window 0 33 101\r\n")
    terminal.expect(rb"ready\r\n")
    terminal.type(b"hello\r")
    terminal.expect(rb"hello\r\n")  # the guest's echo, once
    terminal.expect(rb"line hello\r\n")
    terminal.resize(40, 120)
    terminal.expect(rb"resize 0 40 120\r\n")
    terminal.type(b"\x03")
    terminal.expect(rb"interrupt\r\n")
    terminal.type(b"quit\r")
    assert terminal.wait() == 5
    assert terminal.rest() == b"quit\r\n"
    assert termios.tcgetattr(terminal.slave) == terminal.settings


def test_end_of_file_key(vm_once: Vm, terminal: Terminal) -> None:
    terminal.start(vm_once, "--", "/tool", "tty")
    terminal.expect(rb"ready\r\n")
    terminal.type(b"\x04")
    assert terminal.wait() == 3


def test_no_terminal_when_told(vm_once: Vm, terminal: Terminal) -> None:
    terminal.start(vm_once, "-T", "--", "/tool", "tty")
    terminal.expect(rb"isatty 0 0 0\r\n")
    terminal.expect(rb"ready\r\n")
    terminal.type(b"quit\n")
    assert terminal.wait() == 5
    assert termios.tcgetattr(terminal.slave) == terminal.settings


def test_job_control(vm: Vm, terminal: Terminal, busybox: Path) -> None:
    """A shell finds its terminal: Ctrl-C and Ctrl-Z are for the job, not for the shell."""
    files = ["--file", f"/bin/busybox={busybox}:0755", "--env", "PS1=[prompt] "]
    terminal.start(vm, "-t", *files, "--", "/bin/busybox", "sh", "-i")
    first = terminal.expect(rb"(?s)(.*)\[prompt\] ")
    assert b"can't access tty" not in first[1]
    terminal.type(b"echo flags=$-\r")
    assert b"m" in terminal.expect(rb"flags=([a-z]+)\r\n")[1]
    terminal.expect(rb"\[prompt\] ")
    terminal.type(b"/tool sleep 100 going\r")
    terminal.expect(rb"\ngoing\r\n")
    terminal.type(b"\x03")
    terminal.expect(rb"\[prompt\] ")
    terminal.type(b"echo status=$?\r")
    terminal.expect(rb"status=130\r\n")
    terminal.expect(rb"\[prompt\] ")
    terminal.type(b"/tool sleep 100 going\r")
    terminal.expect(rb"\ngoing\r\n")
    terminal.type(b"\x1a")
    terminal.expect(rb"Stopped")
    terminal.expect(rb"\[prompt\] ")
    terminal.type(b"kill -9 %1\r")
    for _ in range(50):  # the shell tells of jobs before it prompts, and refuses to go while one is stopped
        if b"Killed" in terminal.rest():
            break
        terminal.type(b"\r")
        time.sleep(0.3)
    terminal.expect(rb"Killed", 1)
    terminal.type(b"exit 7\r")
    assert terminal.wait() == 7
    assert termios.tcgetattr(terminal.slave) == terminal.settings


def test_terminal_is_restored_after_a_timeout(vm: Vm, terminal: Terminal) -> None:
    seconds = "2" if vm.engine == "uml" else "12"
    terminal.start(vm, "--timeout", seconds, "--", "/tool", "tty")
    terminal.expect(rb"ready\r\n")
    assert termios.tcgetattr(terminal.slave) != terminal.settings, "it was never raw"
    assert terminal.wait() == 124
    assert termios.tcgetattr(terminal.slave) == terminal.settings


@pytest.mark.parametrize("how", ["engine killed", "SIGTERM", "panic"])
def test_terminal_is_restored(vm: Vm, terminal: Terminal, how: str) -> None:
    words = ["panic"] if how == "panic" else ["sleep", "100", "ready"]
    process = terminal.start(vm, "--", "/tool", *words)
    if how != "panic":
        terminal.expect(rb"ready\r\n")
    if how == "engine killed":
        os.kill(engine_process(process, vm.engine).pid, signal.SIGKILL)
    elif how == "SIGTERM":
        process.terminate()
    assert terminal.wait() == (128 + signal.SIGTERM if how == "SIGTERM" else 125)
    assert termios.tcgetattr(terminal.slave) == terminal.settings


def test_terminal_hangs_up(vm: Vm, terminal: Terminal) -> None:
    """The window is closed: the workload gets SIGHUP and the VM ends."""
    terminal.start(vm, "--", "/tool", "sleep", "100", "ready")
    terminal.expect(rb"ready\r\n")
    os.close(terminal.slave)
    os.close(terminal.master)
    terminal.master = terminal.slave = -1
    assert terminal.wait() == 128 + signal.SIGHUP


def test_a_slow_terminal_loses_nothing(vm: Vm, terminal: Terminal, busybox: Path) -> None:
    """QEMU drops what a console's socket does not take at once: somebody has to keep it."""
    lines = 40_000
    process = terminal.start(vm, f"--file=/b/busybox={busybox}:0755", "--", "/b/busybox", "seq", "1", str(lines))
    select.select([terminal.master], [], [], LIMIT)  # a busy machine boots slowly
    time.sleep(4)
    seen = bytearray()
    while select.select([terminal.master], [], [], 0 if process.poll() is not None else 1)[0]:
        seen += os.read(terminal.master, 65536)
    assert terminal.wait() == 0
    assert seen.split() == [b"%d" % number for number in range(1, lines + 1)]


def test_interrupt_during_boot_and_the_escape(vm: Vm, terminal: Terminal) -> None:
    """Until the workload runs the keys are ours; then Ctrl-] three times within a second ends whatever ignores all."""
    process = terminal.start(vm, "--", "/tool", "sleep", "100")
    time.sleep(0.04)
    terminal.type(b"\x03")
    assert process.wait(LIMIT) in (128 + signal.SIGINT, -signal.SIGINT)
    process = terminal.start(vm, "--", "/tool", "trap", "9")
    terminal.expect(rb"ready")
    terminal.type(b"\x1d\x1d\x1d")
    assert terminal.wait() == 130
    assert b"ended by" in terminal.rest()
