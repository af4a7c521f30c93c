"""`pykrun exec`: streams, statuses, signals, terminals, and what happens when one side is gone."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pykrun.cli import exec as exec_command
from pykrun.cli.dispatch import Parser
from pykrun.errors import PykrunError
from tests.boot.vm import engine_process
from tests.cli import vms
from tests.conftest import ENGINES
from tests.support.command import Pykrun, wait_until

LIMIT = vms.LIMIT


class Machine:
    """A VM that sleeps, and `pykrun exec` in it."""

    def __init__(self, engine: str) -> None:
        self.pykrun = Pykrun()
        self.engine = engine
        self.process = vms.start(self.pykrun, engine, "exec sleep 1000", "--name", "box")

    def exec(self, *words: str, data: bytes = b"", limit: float = LIMIT) -> tuple[int, bytes, bytes]:
        done = self.pykrun(["exec", *words], stdin=data, timeout=limit)
        return done.returncode, done.stdout, done.stderr

    def start(self, *words: str, **streams: Any) -> subprocess.Popen[bytes]:
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        return self.pykrun.start(["exec", *words], **streams)

    def sleepers(self, seconds: int) -> int:
        """How many `sleep SECONDS` run in the guest."""
        _, out, _ = self.exec("box", "--", "ps", "-o", "args")
        return out.decode().splitlines().count(f"sleep {seconds}")

    def close(self) -> list[str]:
        vms.stop(self.process)
        return self.pykrun.close()


@pytest.fixture(scope="module", params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in ENGINES])
def box(request: pytest.FixtureRequest) -> Iterator[Machine]:
    machine = Machine(request.param)
    yield machine
    left = machine.close()
    assert left == []


def test_streams_and_status(box: Machine) -> None:
    assert box.exec("box", "--", "sh", "-c", "echo out; echo err >&2; exit 3") == (3, b"out\n", b"err\n")
    assert box.exec("box", "true") == (0, b"", b"")
    assert box.exec("box", "cat", data=b"hello") == (0, b"hello", b"")
    code, out, err = box.exec("box", "sh", "-c", "kill -9 $$")
    assert (code, out, err) == (137, b"", b"")


def test_many_bytes_and_exactly_these(box: Machine) -> None:
    data = os.urandom(1 << 20) * 3
    assert box.exec("box", "cat", data=data) == (0, data, b"")


def test_what_cannot_be_executed(box: Machine) -> None:
    code, out, err = box.exec("box", "--", "/bin/nothing")
    assert (code, out) == (127, b"")
    assert err.startswith(b"pykrun: ")
    assert b"/bin/nothing" in err
    assert box.exec("box", "--", "/etc/passwd")[0] == 126
    assert box.exec("box", "--", "/tmp")[0] == 126


def test_surroundings(box: Machine) -> None:
    assert (
        box.exec("-e", "A=b c", "box", "-w", "/tmp", "--", "sh", "-c", "echo $A $PATH; pwd")[1] == b"b c /bin\n/tmp\n"
    )
    assert box.exec("box", "-u", "5:6", "id")[1].startswith(b"uid=5 gid=6")
    assert box.exec("box", "-u", "5", "id")[1].startswith(b"uid=5 gid=5")
    assert box.exec("box", "-u", "ann", "id")[1].startswith(b"uid=7(ann) gid=8")
    assert box.exec("box", "--rlimit", "nofile=64:128", "--", "sh", "-c", "ulimit -Sn; ulimit -Hn")[1] == b"64\n128\n"
    code, _, err = box.exec("box", "-u", "nobody-here", "id")
    assert code == 125
    assert b"nobody-here" in err
    assert box.exec("box", "-it", "-T", "--", "echo")[0] == 127, "options may be together, and -T wins"


def test_words_as_they_are(box: Machine) -> None:
    out = box.exec("box", "--", "sh", "-c", 'for a; do echo "<$a>"; done', "-", "", "-t", "--", "a b", "é", "\udcff")[1]
    assert out == b"<>\n<-t>\n<-->\n<a b>\n<\xc3\xa9>\n<\xff>\n"


def test_many_long_words(box: Machine) -> None:
    words = ["x" * 1000] * 500
    code, out, err = box.exec("box", "--", "sh", "-c", "echo $#", "sh", *words)
    assert (code, out, err) == (0, b"500\n", b"")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nobox", "true"], 125, b"there is no VM named 'nobox' (there are box)"),
        (["box"], 125, b"there is no command"),
        ([], 125, b"required: VM"),
        (["box", "--nothing", "true"], 125, b"there is no option --nothing"),
        (["-e", "=x", "box", "true"], 125, b"--env wants"),
        (["-u", ":", "box", "true"], 125, b"a user is"),
        (["--rlimit", "files=1", "box", "true"], 125, b"--rlimit wants NAME=CUR:MAX"),
    ],
)
def test_what_makes_no_sense(box: Machine, words: list[str], code: int, said: bytes) -> None:
    status, out, err = box.exec(*words)
    assert (status, out) == (code, b"")
    assert said in err
    assert err.count(b"\n") == 1


def test_standard_streams_that_are_closed(box: Machine) -> None:
    words = ["box", "--", "sh", "-c", "cat > /tmp/x || exit 4; trap '' PIPE; echo out || exit 5"]
    process = box.start(*words, stdin=None, stdout=None, stderr=None, preexec_fn=lambda: os.closerange(0, 3))
    assert process.wait(LIMIT) == 5


def test_a_reader_that_goes_away(box: Machine) -> None:
    process = box.start("box", "--", "sh", "-c", "while echo line; do :; done; exit 7")
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(LIMIT) in (7, 141)


def test_signals_reach_the_command(box: Machine) -> None:
    for number, name in ((signal.SIGTERM, "TERM"), (signal.SIGUSR1, "USR1"), (signal.SIGINT, "INT")):
        process = box.start(
            "box", "--", "sh", "-c", f"trap 'exit 9' {name}; echo on; while :; do sleep 0.1; done", stderr=None
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"on\n"
        process.send_signal(number)
        assert process.wait(LIMIT) == 9


def test_a_second_interrupt_ends_it_whatever_it_does(box: Machine) -> None:
    process = box.start("box", "--", "sh", "-c", "trap '' INT HUP; echo on; exec sleep 4711", stderr=None)
    assert process.stdout is not None
    assert process.stdout.readline() == b"on\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT) == 130
    wait_until(lambda: box.sleepers(4711) == 0, 20)


def test_a_client_that_is_killed_takes_its_command_along(box: Machine) -> None:
    process = box.start("box", "--", "sh", "-c", "trap '' HUP; echo on; exec sleep 4712")
    assert process.stdout is not None
    assert process.stdout.readline() == b"on\n"
    assert box.sleepers(4712) == 1
    process.kill()
    process.wait(LIMIT)
    wait_until(lambda: box.sleepers(4712) == 0, 20)
    assert box.exec("box", "true")[0] == 0


def test_a_slow_reader_holds_up_nobody(box: Machine) -> None:
    slow = box.start("box", "--", "dd", "if=/dev/zero", "bs=65536", "count=100")
    assert slow.stdout is not None
    os.read(slow.stdout.fileno(), 1)
    for _ in range(3):
        assert box.exec("box", "--", "sh", "-c", "echo quick") == (0, b"quick\n", b"")
    out, _ = slow.communicate(timeout=LIMIT)
    assert len(out) == 6553600 - 1
    assert slow.returncode == 0


def test_a_hundred_at_once(box: Machine) -> None:
    count = 100 if box.engine == "uml" else 20
    running = [box.start("box", "--", "sh", "-c", f"cat; echo {number}; exit {number}") for number in range(count)]
    for number, process in enumerate(running):
        out, err = process.communicate(f"in {number} ".encode(), timeout=LIMIT)
        assert (process.returncode, out, err) == (number, f"in {number} {number}\n".encode(), b"")


WORDS = [
    ["box", "true"],
    ["box", "--", "-t"],
    ["-t", "box", "sh", "-c", "x"],
    ["box", "-T", "-i", "-e", "A=b", "--env", "C", "--env-file", "f", "--", "env"],
    ["-w", "/tmp", "-u", "a:b", "box", "id", "-u"],
    ["--rlimit", "nofile=1", "box", "--rlimit", "core=0:0", "true"],
    ["--user", "5", "box", "--workdir", "/", "--no-tty", "--tty", "pwd"],
]
UNUSUAL = [
    [],
    ["box"],
    ["box", "--"],
    ["--help"],
    ["box", "-it", "sh"],
    ["--env=A=b", "box", "sh"],
    ["box", "--debug", "sh"],
    ["-e", "-x", "box", "sh"],
    ["box", "-e"],
    ["box", "--nothing", "sh"],
]


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_usual_words_are_read_as_argparse_does(words: list[str]) -> None:
    parser = Parser(allow_abbrev=False)
    exec_command.add_arguments(parser)
    options, command = exec_command.split_words(parser, words)
    arguments = parser.parse_args(options)
    wanted = exec_command.read(words)
    assert wanted is not None
    assert wanted.command == command
    for name in ("vm", "tty", "env", "env_file", "workdir", "user", "rlimit"):
        assert getattr(wanted, name) == getattr(arguments, name), name


@pytest.mark.parametrize("words", UNUSUAL, ids=" ".join)
def test_other_words_are_left_to_argparse(words: list[str]) -> None:
    assert exec_command.read(words) is None


# -- terminals -------------------------------------------------------------------------------------------------


class Screen:
    """A terminal with `pykrun exec` on it."""

    def __init__(self, box: Machine, *words: str, rows: int = 30, columns: int = 90) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.process = box.start(*words, stdin=self.slave, stdout=self.slave, stderr=self.slave)
        self.seen = b""

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(LIMIT)
        os.close(self.master)
        os.close(self.slave)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def wait_for(self, text: bytes) -> None:
        """Read until the screen has shown it, and forget what came before its end."""
        deadline = time.monotonic() + LIMIT
        while text not in self.seen:
            poll = select.poll()
            poll.register(self.master, select.POLLIN)
            assert poll.poll(max(0, deadline - time.monotonic()) * 1000), self.seen
            self.seen += os.read(self.master, 65536)
        self.seen = self.seen.partition(text)[2]

    @property
    def is_as_before(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before


def test_a_terminal(box: Machine) -> None:
    with Screen(box, "box", "sh") as screen:
        screen.type(b"stty size; tty\n")
        screen.wait_for(b"30 90\r\n/dev/pts/")
        assert not screen.is_as_before
        screen.resize(40, 100)
        screen.process.send_signal(signal.SIGWINCH)
        screen.type(b'until [ "$(stty size)" = \'40 100\' ]; do :; done; echo re""sized; sleep 4714\n')
        screen.wait_for(b"resized\r\n")
        wait_until(lambda: box.sleepers(4714) == 1, 20)
        screen.type(b"\x03")  # a key for the command
        wait_until(lambda: box.sleepers(4714) == 0, 20)
        screen.type(b"exit 6\n")
        assert screen.process.wait(LIMIT) == 6
        assert screen.is_as_before


def test_a_terminal_is_put_back_at_any_end(box: Machine) -> None:
    for keys, number, status in ((b"\x1d\x1d\x1d", 0, 130), (b"", signal.SIGTERM, 143), (b"", signal.SIGINT, 130)):
        with Screen(box, "-t", "box", "--", "sh", "-c", "trap '' TERM INT; echo on; exec sleep 4713") as screen:
            screen.wait_for(b"on\r\n")
            assert not screen.is_as_before
            if keys:
                screen.type(keys)
            else:
                for _ in range(2):
                    screen.process.send_signal(number)
                    time.sleep(0.1)
            assert screen.process.wait(LIMIT) == status
            assert screen.is_as_before
    wait_until(lambda: box.sleepers(4713) == 0, 20)


def test_pipes_on_a_terminal(box: Machine) -> None:
    with Screen(box, "-T", "box", "--", "sh", "-c", "tty; cat; exit 4") as screen:
        screen.wait_for(b"not a tty")
        assert screen.is_as_before
        screen.type(b"line\n\x04")
        assert screen.process.wait(LIMIT) == 4
        screen.wait_for(b"line\r\nline\r\n")


def test_a_terminal_for_a_pipe(box: Machine) -> None:
    code, out, _ = box.exec("-t", "box", "--", "sh", "-c", "tty; exit 3", data=b"")
    assert code == 3
    assert out.startswith(b"/dev/pts/")


# -- ends ------------------------------------------------------------------------------------------------------


def test_the_vm_ends_first(run_pykrun: Pykrun, engine: str) -> None:
    vm = vms.start(run_pykrun, engine, "read x; exit 5", "--name", "short", stdin=subprocess.PIPE)
    process = run_pykrun.start(
        ["exec", "short", "--", "sh", "-c", "echo on; exec sleep 1000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"on\n"
    vm.communicate(b"\n", timeout=LIMIT)
    assert vm.returncode == 5
    out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out) == (137, b"")
    assert err.startswith(b"pykrun: the VM ended")


def test_the_supervisor_is_killed(run_pykrun: Pykrun, engine: str) -> None:
    vm = vms.start(run_pykrun, engine, "sleep 1000", "--name", "short")
    process = run_pykrun.start(
        ["exec", "short", "--", "sh", "-c", "echo on; exec sleep 1000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"on\n"
    vm.kill()
    vm.communicate(timeout=LIMIT)
    _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (137, b"pykrun: the VM is gone: its supervisor ended\n")
    assert run_pykrun(["ps", "--quiet"]).stdout == b""
    assert vms.run(run_pykrun, ["exec", "short", "true"]).returncode == 125


def test_the_engine_is_killed(run_pykrun: Pykrun, engine: str) -> None:
    vm = vms.start(run_pykrun, engine, "sleep 1000", "--name", "short")
    process = run_pykrun.start(
        ["exec", "short", "--", "sh", "-c", "echo on; exec sleep 1000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"on\n"
    os.kill(engine_process(vm, engine).pid, signal.SIGKILL)
    vm.communicate(timeout=LIMIT)
    assert vm.returncode == 125
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 137
    assert b"the VM ended" in err


def test_a_vm_that_still_starts_is_waited_for(run_pykrun: Pykrun, engine: str) -> None:
    program = vms.busybox()
    words = ["run", "--engine", engine, *(["--accel", "tcg"] if engine == "qemu" else []), "--name", "young"]
    vm = run_pykrun.start(
        [*words, "--file", f"/bin/sh={program}", "--", "/bin/sh", "-c", "read x"], stdin=subprocess.PIPE
    )
    wait_until(lambda: run_pykrun(["ps", "--quiet"]).stdout == b"young\n", LIMIT)
    done = run_pykrun(["exec", "young", "--", "/bin/sh", "-c", "echo here"])
    assert (done.returncode, done.stdout, done.stderr) == (0, b"here\n", b"")
    vm.communicate(b"\n", timeout=LIMIT)


@pytest.mark.qemu
def test_who_leaves_before_it_starts_leaves_nothing(run_pykrun: Pykrun) -> None:
    vm = run_pykrun.start(
        ["run", "--engine", "qemu", "--accel", "tcg", "--name", "young", "--file", f"/x={vms.busybox()}", "--", "/x"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: run_pykrun(["ps", "--quiet"]).stdout == b"young\n", LIMIT)
    with vms.visit(run_pykrun, "young") as client:
        reading, writing = os.pipe()
        client.ask("exec", [writing], process={"args": ["/x"]}, streams=[False, True, False])
        os.close(writing)
        assert client.receive(0.3) is None
    with open(reading, "rb") as stream:
        assert stream.read() == b""
    assert vm.poll() is None
    vms.stop(vm)


def test_a_vm_without_an_init_of_ours_says_so(run_pykrun: Pykrun) -> None:
    vm = vms.start(
        run_pykrun, "uml", "read x", "--name", "one", "--kernel-arg", "KRUN_INIT_PID1=1", stdin=subprocess.PIPE
    )
    done = run_pykrun(["exec", "one", "--", "true"])
    assert done.returncode == 125
    assert b"its PID 1 is not pykrun's init" in done.stderr
    vms.stop(vm)


def test_directory_of_the_workload_that_the_host_removes(run_pykrun: Pykrun, engine: str, tmp_path: Path) -> None:
    """Init is in it, too, and cannot come back there from a command's: it goes on elsewhere."""
    work = tmp_path / "work"
    work.mkdir()
    for name in ("bin", "etc", "tmp"):
        (tmp_path / name).mkdir()
    options = ("--name", "gone", "--root", str(tmp_path), "--workdir", "/work")
    process = vms.start(run_pykrun, engine, "exec sleep 1000", *options)
    try:
        work.rmdir()
        time.sleep(1.5)  # as long as the guest remembers it
        for _ in range(2):
            done = vms.run(run_pykrun, ["exec", "-w", "/tmp", "gone", "pwd"])
            assert (done.returncode, done.stdout) == (0, b"/tmp\n"), done
    finally:
        vms.stop(process)


def test_a_description_nested_too_deeply_keeps_no_descriptor(box: Machine) -> None:
    process = b'{"args":' + b"[" * 600 + b"]" * 600 + b"}"
    data = b'{"request":"exec","streams":[false,true,false],"process":' + process + b"}"
    reading, writing = os.pipe()
    with vms.visit(box.pykrun, "box") as client:
        with socket.socket(fileno=os.dup(client.fileno())) as connection:
            socket.send_fds(connection, [struct.pack("<I", len(data)) + data], [writing])
        os.close(writing)
        with pytest.raises(PykrunError):
            client.receive(LIMIT)
        ready, _, _ = select.select([reading], [], [], LIMIT)
        assert ready == [reading]
        assert os.read(reading, 1) == b""
        os.close(reading)
    assert box.exec("box", "true")[0] == 0
