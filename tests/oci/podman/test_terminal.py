"""`-t`: a terminal from podman's own to the guest's."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.enclave import IMAGE
from tests.support.podman import Podman


class Screen:
    """A terminal with a program on it."""

    def __init__(self, podman: Podman, *words: str, rows: int = 33, columns: int = 111) -> None:
        self.ours, theirs = pty.openpty()
        self.resize(rows, columns)
        self.seen = b""
        self.process: subprocess.Popen[bytes] = podman.start(
            *words, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        )
        os.close(theirs)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def until(self, text: str, seconds: float = 30) -> None:
        """Wait for a text, and forget what came up to it."""
        end = time.monotonic() + seconds
        while text.encode() not in self.seen:
            left = end - time.monotonic()
            assert left > 0, f"no {text!r} in {self.seen!r}"
            if select.select([self.ours], [], [], left)[0]:
                try:
                    self.seen += os.read(self.ours, 65536)
                except OSError:
                    pytest.fail(f"ended without {text!r}: {self.seen!r}")
        self.seen = self.seen.partition(text.encode())[2]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.ours)


@contextlib.contextmanager
def screen(*arguments: Any, **options: Any) -> Iterator[Screen]:
    shown = Screen(*arguments, **options)
    try:
        yield shown
    finally:
        shown.close()


def test_a_shell(podman: Podman) -> None:
    with screen(podman, "run", "--rm", "-it", IMAGE, "sh") as shown:
        shown.type("tty; stty size; echo one''word\n")
        shown.until("/dev/")
        shown.until("33 111")
        shown.until("oneword")
        shown.resize(20, 70)
        shown.type("sleep 1; stty size\n")
        shown.until("20 70")
        shown.type("exit 9\n")
        assert shown.process.wait(30) == 9


def test_interrupt(podman: Podman) -> None:
    """Ctrl-C is the terminal's, and goes to the foreground's job only."""
    with screen(podman, "run", "--rm", "-it", IMAGE, "sh") as shown:
        shown.type("echo rea''dy; sleep 100\n")
        shown.until("ready")
        time.sleep(0.5)
        shown.type("\x03")
        shown.type("echo st''ill; exit 3\n")
        shown.until("still")
        assert shown.process.wait(30) == 3


def test_without_one_here(podman: Podman) -> None:
    """-t alone: the command has a terminal, and podman passes on what comes from it."""
    result = podman("run", "--rm", "-t", IMAGE, "sh", "-c", "tty && echo line")
    lines = result.stdout.decode().split("\r\n")
    assert lines[0].startswith("/dev/")
    assert lines[1:] == ["line", ""]


def test_exec(podman: Podman) -> None:
    podman.must("run", "-d", "--name", "one", IMAGE, "sleep", "100")
    with screen(podman, "exec", "-it", "one", "sh") as shown:
        shown.type("tty; stty size\n")
        shown.until("/dev/")
        shown.until("33 111")
        shown.resize(21, 71)
        shown.type("sleep 1; stty size\n")
        shown.until("21 71")
        shown.type("exit 6\n")
        assert shown.process.wait(30) == 6
    podman.must("rm", "-f", "-t", "0", "one")


def test_attach(podman: Podman) -> None:
    """The keys that leave it running, and coming back."""
    with screen(podman, "run", "-it", "--name", "one", IMAGE, "sh") as shown:
        shown.type("echo rea''dy\n")
        shown.until("ready")
        shown.type("\x10")  # podman wants each key in a read of its own
        time.sleep(0.5)
        shown.type("\x11")
        assert shown.process.wait(30) == 0
    assert [one["State"] for one in podman.containers()] == ["running"]
    with screen(podman, "attach", "one") as shown:
        time.sleep(0.5)
        shown.type("echo ag''ain; exit 4\n")
        shown.until("again")
        shown.process.wait(30)  # attach keeps the code for itself
    assert podman.must("wait", "one") == "4"
    podman.must("rm", "one")
