"""The native seam on the host: what the child of `spawn` gets, and how its failures come back."""

from __future__ import annotations

import errno
import fcntl
import os
import posix
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from krun_init import _linux, processes, relay, session, watch
from krun_init.control import Control
from krun_init.loop import Loop
from krun_init.main import main
from krun_init.relay import Input, Output
from krun_init.version import VERSION
from pykrun import version
from tests.guest.machine import BUSYBOX, frame
from tests.support.processes import children

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            pass


def run(command: list[str], pipe: tuple[int, int], **options: Any) -> tuple[str, int]:
    """Spawn busybox with its output in the pipe: the output and the wait status's exit code."""
    options.setdefault("streams", (-1, pipe[1], -1))
    pid = _linux.spawn([BUSYBOX], command, options.pop("env", []), **options)
    os.close(pipe[1])
    output = b""
    while data := os.read(pipe[0], 65536):
        output += data
    return output.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_child_has_only_its_streams(pipe: tuple[int, int], tmp_path: Path) -> None:
    leaked = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(leaked, True)
    output, code = run(["ls", "-1", "/proc/self/fd"], pipe)
    os.close(leaked)
    assert (sorted(output.split()), code) == (["0", "1", "2", "3"], 0)  # 3 is the listing of the folder itself


def test_signals_are_default_and_unblocked(pipe: tuple[int, int]) -> None:
    old = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        output, _code = run(["cat", "/proc/self/status"], pipe)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    status = dict(line.split(":\t", 1) for line in output.splitlines() if ":\t" in line)
    assert status["SigBlk"] == "0" * 16
    assert not int(status["SigIgn"], 16) & 1 << signal.SIGPIPE - 1


def test_own_group_and_own_session(pipe: tuple[int, int]) -> None:
    output, _code = run(["cat", "/proc/self/stat"], pipe)
    pid, _name, _state, _parent, group, session, *_rest = output.split()
    assert (group, session) == (pid, str(os.getsid(0)))


def test_own_session(pipe: tuple[int, int]) -> None:
    output, _code = run(["cat", "/proc/self/stat"], pipe, session=1)
    pid, _name, _state, _parent, group, session, *_rest = output.split()
    assert group == session == pid


@pytest.mark.parametrize(
    ("options", "step", "number"),
    [
        ({"rlimits": [(4, 0, 0), (7, 2, 1)]}, "rlimits", errno.EINVAL),
        ({"streams": (-1, 1000, -1)}, "streams", errno.EBADF),
        ({"session": 1, "terminal": 1000}, "session", errno.EBADF),
    ],
)
def test_failing_step_is_named_and_nobody_is_left(options: dict[str, Any], step: str, number: int) -> None:
    before = children()  # of other tests: we are the parent of every orphan (tests/conftest.py)
    with pytest.raises(OSError, match=step) as caught:
        _linux.spawn([BUSYBOX], ["true"], [], **options)
    assert (caught.value.filename, caught.value.errno) == (step, number)
    assert caught.value.filename2 == (1 if step == "rlimits" else None)  # which of them
    assert children() <= before


@pytest.mark.parametrize(
    "arguments",
    [
        (["/x"], ["a\0b"], []),
        (["/x"], [1], []),
        (["/x"], 5, []),
        (5, ["a"], []),
    ],
)
def test_arguments_are_checked(arguments: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        _linux.spawn(*arguments)


@pytest.mark.parametrize(
    "options",
    [
        {"streams": (0, 1, 2)},
        {"streams": (3, 4)},
        {"rlimits": [7]},
        {"rlimits": [(7, 1)]},
        {"groups": ["x"]},
        {"groups": 5},
        {"capabilities": (1, 2)},
        {"capabilities": [1, 2, 3, 4, 5]},
        {"nonsense": 1},
    ],
)
def test_options_are_checked(options: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        _linux.spawn([BUSYBOX], ["true"], [], **options)


def test_many_and_long_arguments(pipe: tuple[int, int]) -> None:
    words = [str(number) for number in range(20_000)]
    output, _code = run(["sh", "-c", 'echo $# ${#1} "$A"', "sh", "x" * 100_000, *words], pipe, env=[b"A=b"])
    assert output == "20001 100000 b\n"


def test_unblock_signals() -> None:
    script = (
        "import posix, sys; sys.path.insert(0, sys.argv[1]); from tests.guest import seam; from pathlib import Path;"
        "seam.load(Path(sys.argv[2])); from krun_init import _linux; _linux.signalfd(0);"
        "posix.kill(posix.getpid(), 10); posix.write(1, b'blocked'); _linux.unblock_signals(); posix.write(1, b'never')"
    )
    where = [str(SOURCE.parent), str(Path(_linux.__file__ or ""))]
    done = subprocess.run(
        [sys.executable, "-c", script, *where],
        capture_output=True,
        timeout=20,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert (done.stdout, done.returncode) == (b"blocked", -signal.SIGUSR1), done.stderr


def test_filter_of_a_socket() -> None:
    """Classic BPF: of what comes, only datagrams that begin with an A."""
    code = b"".join(
        struct.pack("=HBBI", *step) for step in ((0x30, 0, 0, 0), (0x15, 0, 1, 65), (6, 0, 0, 0xFFFF), (6, 0, 0, 0))
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        _linux.attach_filter(ours.fileno(), code)
        for data in (b"B", b"AB", b"", b"BA", b"A"):
            try:
                theirs.send(data)
            except PermissionError:  # this family tells the sender
                pass
        assert [ours.recv(9), ours.recv(9)] == [b"AB", b"A"]
        with pytest.raises(BlockingIOError):
            ours.recv(9, socket.MSG_DONTWAIT)
        with pytest.raises(OSError, match="Invalid argument"):
            _linux.attach_filter(ours.fileno(), code[:-1])
        with pytest.raises(OSError, match="Invalid argument"):
            _linux.attach_filter(ours.fileno(), b"")


def test_signalfd_reports_what_is_asked_for_only() -> None:
    script = (
        "import sys, os, signal; sys.path[:0] = [sys.argv[1], sys.argv[2]];"
        "from tests.guest import seam; from pathlib import Path; seam.load(Path(sys.argv[3]));"
        "from krun_init import _linux, watch; fd = _linux.signalfd(watch.REPORTED);"
        "[os.kill(os.getpid(), n) for n in (signal.SIGPIPE, signal.SIGHUP, signal.SIGTERM, signal.SIGRTMAX)];"
        "data = os.read(fd, 4096); print(sorted(data[::128]), os.get_inheritable(fd), os.get_blocking(fd))"
    )
    from tests.guest.conftest import LIBRARY

    arguments = [str(SOURCE), str(SOURCE.parent), str(LIBRARY)]
    result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=20)
    assert result.stdout == "[1, 15, 64] False False\n", result.stderr


def test_filesystem_type() -> None:
    fd = os.open("/proc", os.O_RDONLY)
    assert _linux.filesystem_type(fd) == 0x9FA0  # PROC_SUPER_MAGIC
    os.close(fd)


def test_reported_signals() -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGWINCH, signal.SIGUSR1):
        assert watch.REPORTED >> number - 1 & 1
    for number in (signal.SIGPIPE, signal.SIGKILL, signal.SIGSEGV, signal.SIGTTOU):
        assert not watch.REPORTED >> number - 1 & 1


def test_nobody_left_to_end() -> None:
    processes.end_all()


# -- the relay's corners, without a machine ------------------------------------------------------------------------


def test_pipe_of_the_users_own() -> None:
    ends = relay.make_pipe(None)
    assert [os.get_inheritable(end) for end in ends] == [False, False]
    for end in ends:
        os.close(end)


def test_output_without_splice_and_with_it_is_the_same(pipe: tuple[int, int], tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    for may_splice in (False, True):
        (tmp_path / "data").write_bytes(data)
        loop, target = Loop(), os.pipe()
        os.set_blocking(target[1], False)
        reader, writer = os.pipe()
        asked: list[bool] = []
        output = Output(loop, reader, target[1], _answer(may_splice, asked))
        child = subprocess.Popen([BUSYBOX, "cat", str(tmp_path / "data")], stdout=writer)
        os.close(writer)
        os.set_blocking(target[0], False)
        received = bytearray()
        loop.add(target[0], 1, _collect(target[0], received))
        while len(received) < len(data):
            loop.turn()
        while not output.closed:
            loop.turn()
        child.wait(10)
        assert received == data
        assert output.count == len(data)
        assert asked == [may_splice]
        for fd in target:
            os.close(fd)


def _answer(answer: bool, asked: list[bool]) -> Callable[[], bool]:
    def ask() -> bool:
        asked.append(answer)
        return answer

    return ask


def _collect(fd: int, into: bytearray) -> Callable[[int], None]:
    return lambda _events: into.extend(os.read(fd, 1 << 20))


def test_drain_takes_what_is_there_and_no_more(pipe: tuple[int, int]) -> None:
    loop, target = Loop(), os.pipe()
    reader, writer = os.pipe()
    output = Output(loop, reader, target[1], lambda: False)
    os.write(writer, b"x" * 5000)
    output.close_after_drain()
    os.write(writer, b"late")
    while not output.closed:
        loop.turn()
    assert output.count == 5000
    assert os.read(target[0], 10_000) == b"x" * 5000
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"nobody")
    for fd in (writer, *target):
        os.close(fd)


def test_input_ends_after_the_last_byte_only() -> None:
    loop, port, target = Loop(), os.pipe(), os.pipe()
    os.set_blocking(port[0], False)
    closed: list[int] = []
    stream = Input(loop, port[0], target[1], lambda: closed.append(1))
    stream.end(6)
    os.write(port[1], b"abc")
    loop.turn()
    os.set_blocking(target[0], False)
    assert os.read(target[0], 10) == b"abc"
    with pytest.raises(BlockingIOError):
        os.read(target[0], 10)
    os.write(port[1], b"def")
    loop.turn()
    assert os.read(target[0], 10) == b"def"
    assert os.read(target[0], 10) == b""
    assert closed == []
    for fd in (*port, target[0]):
        os.close(fd)


def test_input_waits_for_a_slow_workload() -> None:
    loop, port, target = Loop(), os.pipe(), os.pipe()
    fcntl.fcntl(port[1], 1031, 1 << 20)
    os.set_blocking(port[0], False)
    data = os.urandom(900_000)
    os.write(port[1], data)
    stream = Input(loop, port[0], target[1], lambda: None)
    stream.end(len(data))
    received = b""
    os.set_blocking(target[0], False)
    loop.add(target[0], 1, lambda _events: None)
    while len(received) < len(data):
        loop.turn()
        try:
            received += os.read(target[0], 10_000)
        except BlockingIOError:
            pass
    assert received == data
    assert stream.count == len(data)
    assert os.read(target[0], 1) == b""
    for fd in (*port, target[0]):
        os.close(fd)


# -- the watch's corners, without a machine -------------------------------------------------------------------------


def test_stop_reaches_a_workload_that_left_its_group() -> None:
    script = "import os, time; os.setpgid(0, os.getpgid(os.getppid())); print('left', flush=True); time.sleep(60)"
    command = [sys.executable, "-I", "-S", "-c", script]
    child = subprocess.Popen(command, process_group=0, stdout=subprocess.PIPE, text=True)
    reader, writer = os.pipe()
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "left\n"
        watched = watch.Watch(Loop(), reader, None, 5)
        watched._pid = child.pid
        watched._stop(60)
        assert child.wait(30) == -signal.SIGTERM
    finally:
        child.kill()
        child.communicate()
        os.close(reader)
        os.close(writer)


def test_terminal_is_drained_before_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing shows from outside when a pseudo-terminal is drained, so this listens in."""
    steps: list[str] = []
    drain = session.drain

    def drained(terminal: int) -> None:
        steps.append(f"drain {terminal}, counts out: {_has_frame(ours, 0x03)}")
        drain(terminal)

    monkeypatch.setattr(session, "drain", drained)
    ours, theirs = socket.socketpair()
    ours.sendall(frame(0x108, b"\1"))  # CLOSE of a stream that the relay does not have: fine
    theirs.setblocking(False)
    primary, secondary = os.openpty()
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    control = Control(theirs.detach())
    watched = watch.Watch(Loop(), reader, control, 5)
    watched.terminal = secondary
    child = _linux.spawn([BUSYBOX], ["sh", "-c", "sleep 5 & exit 3"], [])
    os.write(writer, bytes([signal.SIGCHLD]) + bytes(127))
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    watched._overdue = True  # nobody answers
    try:
        assert watched.run(child).code == 3
        assert steps == [f"drain {secondary}, counts out: False"]
        assert _has_frame(ours, 0x03)
    finally:
        os.killpg(child, signal.SIGKILL)
        control.close()
        ours.close()
        for fd in (primary, secondary, reader, writer):
            os.close(fd)


def _has_frame(end: socket.socket, kind: int) -> bool:
    data = end.recv(4096, socket.MSG_PEEK)
    while data:
        length, found, _reserved, _process = struct.unpack_from("<IHHI", data)
        if found == kind:
            return True
        data = data[12 + length :]
    return False


# -- not PID 1 -----------------------------------------------------------------------------------------------------


def test_version_is_pykruns() -> None:
    assert version.VERSION == VERSION


@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), ([], 125), (["--version", "x"], 125), (["sh"], 125)])
def test_anywhere_else_it_refuses(
    words: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert posix.getpid() != 1, "as PID 1 of a container the tests would end it"
    monkeypatch.setattr(sys, "argv", ["init.krun", *words])
    assert main() == code
    captured = capfd.readouterr()
    assert captured.out.startswith(f"krun_init {VERSION}" if code == 0 else "")
    assert ("refused" in captured.err) == (code != 0)
