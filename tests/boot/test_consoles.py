"""Consoles, named ports and serial lines beside those of the workload, from both sides."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pty
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.boot import planned
from tests.boot.vm import Vm, finish
from tests.support.command import Pykrun

SHELL = """set -e
b=/bin/busybox
port() {
    for d in /sys/class/virtio-ports/*; do
        if [ "$($b cat $d/name 2>/dev/null)" = "$1" ]; then echo /dev/${d##*/}; fi
    done
}
"""
"""`port NAME` prints the device of a port."""


def sh(vm: Vm, fields: str, script: str, busybox: Path, **more: object) -> tuple[int, bytes, bytes]:
    words = ["--file", f"/bin/busybox={busybox}:0755", "--", "/bin/busybox", "sh", "-c", SHELL + script]
    result = planned.run(vm, fields, *words, **more)  # type: ignore[arg-type]
    return result.code, result.out, result.err


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    try:
        yield read, write
    finally:
        for fd in (read, write):
            try:
                os.close(fd)
            except OSError:
                pass


def read_all(fd: int) -> bytes:
    """What is in a pipe whose writers here are closed."""
    with os.fdopen(os.dup(fd), "rb") as file:
        return file.read()


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Our side and the guest's side of a terminal of 33 lines of 99 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def test_everything_at_once(vm: Vm, busybox: Path, tmp_path: Path, terminal: tuple[int, int]) -> None:
    """hvc0 into a file, a terminal as hvc1, a second device with a port each way, both ways, and a serial line."""
    ours, theirs = terminal
    before = termios.tcgetattr(theirs)
    given = os.urandom(300_000)
    (tmp_path / "given").write_bytes(given)
    source = os.open(tmp_path / "given", os.O_RDONLY)
    output = tmp_path / "console"
    os.write(ours, b"typed\r")
    with (
        pipe() as (log, log_end),
        pipe() as (serial, serial_end),
        pipe() as (answers, answer_end),
        pipe() as (ask, asker),
    ):
        os.write(asker, b"question\n")
        fields = f"""
            console=True,
            console_output={str(output)!r},
            consoles=(
                Console(ports=(
                    ConsolePort(name="screen", console=True, input={theirs}, output={theirs}, terminal=True),
                )),
                Console(ports=(
                    ConsolePort(name="log, all", output={log_end}),
                    ConsolePort(name="given", input={source}),
                    ConsolePort(name="talk", input={ask}, output={answer_end}),
                )),
            ),
            serials=(Serial(output={serial_end}),),
        """
        script = """
            echo to-hvc0 >/dev/hvc0
            exec 5<>/dev/hvc1
            $b stty size <&5 || :
            $b stty raw -echo <&5
            $b head -c 6 <&5 | $b tr '\\r' '\\n'
            echo to-hvc1 >&5
            echo to-serial >/dev/ttyS0
            $b cat "$(port given)" | $b md5sum
            exec 6<>"$(port talk)"
            read line <&6
            echo "answer to $line" >&6
            i=0; while [ $i -lt 200 ]; do echo "line $i"; i=$((i+1)); done >"$(port 'log, all')"
            $b sleep 0.2
        """
        fds = (theirs, source, log_end, serial_end, answer_end, ask)
        code, out, err = sh(vm, fields, script, busybox, pass_fds=fds)
        for fd in (log_end, serial_end, answer_end):
            os.close(fd)
        if vm.engine == "qemu":  # its device knows no sizes
            err = err.replace(b"stty: standard input\n", b"")
        assert (code, err) == (0, b"")
        lines = out.splitlines()
        if vm.engine == "uml":
            assert lines.pop(0) == b"33 99"
        assert lines[-2:] == [b"typed", hashlib.md5(given).hexdigest().encode() + b"  -"]
        assert read_all(log) == b"".join(b"line %d\n" % number for number in range(200))
        assert b"to-serial" in read_all(serial)
        assert read_all(answers) == b"answer to question\n"
    os.close(source)
    assert b"to-hvc0" in output.read_bytes()
    assert b"to-hvc1" in os.read(ours, 4096)
    assert termios.tcgetattr(theirs) == before, "as it was before"


def test_dead_readers_hold_nobody_up(vm: Vm, busybox: Path) -> None:
    """A port, a console and a serial line that nobody reads: the others work, the guest runs, the run ends."""
    with pipe() as (_dead, dead_end), pipe() as (log, log_end):
        os.set_blocking(dead_end, False)
        while True:  # there is no room left
            try:
                os.write(dead_end, bytes(4096))
            except BlockingIOError:
                break
        os.set_blocking(dead_end, True)
        fields = f"""
            consoles=(
                Console(ports=(
                    ConsolePort(console=True, output={dead_end}),
                    ConsolePort(name="dead", output={dead_end}),
                    ConsolePort(name="log", output={log_end}),
                )),
            ),
            serials=(Serial(output={dead_end}),),
        """
        script = """
            $b stty -F /dev/hvc0 raw
            $b head -c 100000 /dev/zero >/dev/hvc0
            ($b head -c 300000 /dev/zero >"$(port dead)") &
            echo much >/dev/ttyS0
            echo through >"$(port log)"
            echo said
            $b sleep 0.2
        """
        before = time.monotonic()
        code, out, err = sh(vm, fields, script, busybox, pass_fds=(dead_end, log_end))
        took = time.monotonic() - before
        assert (code, out, err) == (0, b"said\n", b"")
        os.close(log_end)
        assert read_all(log) == b"through\n"
        assert took < 45, f"the end waited for a dead reader: {took} s"


def test_a_slow_reader_gets_everything(vm_once: Vm, busybox: Path) -> None:
    with pipe() as (slow, slow_end):
        fields = f"consoles=(Console(ports=(ConsolePort(name='slow', output={slow_end}),)),)"
        script = '$b head -c 1000000 /dev/zero | $b tr "\\0" x >"$(port slow)"; read end; echo $end'
        words = ["--file", f"/bin/busybox={busybox}:0755", "--", "/bin/busybox", "sh", "-c", SHELL + script]
        process = planned.start(vm_once, fields, *words, pass_fds=(slow_end,), stdin=subprocess.PIPE)
        assert process.stdin is not None
        os.close(slow_end)
        got = b""
        while len(got) < 1_000_000 and (chunk := os.read(slow, 5000)):
            got += chunk
            time.sleep(0.001)
        result = finish(process, b"done\n")
        assert (result.code, result.out, result.err) == (0, b"done\n", b"")
        assert got == b"x" * 1_000_000


def test_console_output_has_the_kernels_words(vm_once: Vm, tmp_path: Path) -> None:
    """Only those that the kernel says anyway."""
    path = tmp_path / "console"
    path.write_text("old")
    fields = f"console_output={str(path)!r}"
    words = ["--kernel-arg", "loglevel=7", "--", "/tool", "exit", "3"]
    result = planned.run(vm_once, fields, *words)
    assert (result.code, result.err) == (3, b"")
    assert not path.read_bytes().startswith(b"old")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("consoles=(Console(ports=()),)", b"0 ports"),
        ("consoles=(Console(ports=(ConsolePort(),)),)", b"needs a name"),
        ("consoles=(Console(ports=(ConsolePort(name='krun-control'),)),)", b"two ports"),
        ("consoles=(Console(ports=(ConsolePort(name='x' * 65),)),)", b"64 bytes"),
        ("consoles=(Console(ports=(ConsolePort(name='a', input=99),)),)", b"descriptor 99"),
        ("consoles=(Console(ports=(ConsolePort(console=True),) * 16),)", b"at most 15"),
        ("consoles=(Console(ports=(ConsolePort(console=True),)),) * 9", b"at most 8"),
        ("console_output='/no/where'", b"cannot write"),
        ("console_output='a', boot_log='b'", b"one file"),
    ],
)
@pytest.mark.uml
def test_what_cannot_be(tool: Path, run_pykrun: Pykrun, fields: str, words: bytes) -> None:
    result = planned.run(Vm("uml", tool, run_pykrun), fields, "--", "/tool", "exit", "0")
    assert result.code == 125
    assert words in result.err


def test_another_architecture_has_no_further_serial_line() -> None:
    from pykrun.engine import Engine

    assert Engine("qemu", "tcg", Path("/x"), 1, 96, "aarch64").max_serials == 0
    assert Engine("qemu", "tcg", Path("/x"), 1, 96, "x86_64").max_serials == 3


def test_stand_ins_for_serial_lines(vm_once: Vm, busybox: Path) -> None:
    """More than the engine has: virtio consoles take their place, and it is said."""
    with pipe() as (last, last_end):
        most = 8 if vm_once.engine == "uml" else 3
        fields = f"serials=(Serial(),) * {most} + (Serial(output={last_end}),)"
        code, out, err = sh(vm_once, fields, "echo here >/dev/hvc0; $b sleep 0.2", busybox, pass_fds=(last_end,))
        os.close(last_end)
        assert (code, out) == (0, b"")
        assert b"stand in" in err
        assert read_all(last) == b"here\r\n"
