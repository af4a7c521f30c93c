"""pykrun.MicroVM: subprocess.Popen, in a VM."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import pykrun
from pykrun import DEVNULL, PIPE, STDOUT, EngineError, MicroVM, Root, UsageError
from tests.api.conftest import LIMIT
from tests.support.command import wait_until

Box = Callable[[], Root]
pytestmark = pytest.mark.uml
READY = "echo ready; "


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_conversation_and_its_end(box: Box) -> None:
    script = "while read line; do echo got $line; done; exit 5"
    with MicroVM(["/bin/sh", "-c", script], root=box(), engine="uml", stdin=PIPE, stdout=PIPE, text=True) as vm:
        assert vm.stdin is not None
        assert vm.stdout is not None
        assert vm.stderr is None
        for word in ("one", "zwei ü"):
            vm.stdin.write(f"{word}\n")
            vm.stdin.flush()
            assert vm.stdout.readline() == f"got {word}\n"
        assert vm.poll() is None
        assert vm.exit_code is None
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            vm.wait(0.01)
        assert (caught.value.cmd, caught.value.timeout) == (list(vm.args), 0.01)
        vm.stdin.close()  # a pipe closed halfway: the other direction goes on
        assert vm.stdout.read() == ""
        assert vm.wait(LIMIT) == vm.poll() == vm.exit_code == vm.result().exit_code == 5
    assert is_gone(vm.pid)


def test_communicate_again_after_a_timeout(box: Box) -> None:
    script = "head -n 1; echo err >&2; sleep 3; cat"
    with MicroVM(
        ["/bin/sh", "-c", script], root=box(), engine="uml", stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True
    ) as vm:
        with pytest.raises(subprocess.TimeoutExpired):
            vm.communicate("first\n" + "more\n" * 30000, timeout=0.01)
        with pytest.raises(UsageError, match="has its input already"):
            vm.communicate("again")
        out, err = vm.communicate(timeout=LIMIT)
    assert out.replace("more\n", "") == "first\n"  # what head has read ahead is head's
    assert err == "err\n"


def test_communicate_knows_what_was_read_ahead(box: Box) -> None:
    script = "echo one; echo two; echo three"
    with MicroVM(["/bin/sh", "-c", script], root=box(), engine="uml", stdin=DEVNULL, stdout=PIPE) as vm:
        vm.wait(LIMIT)
        assert vm.stdout is not None
        assert vm.stdout.readline() == b"one\n"
        assert vm.communicate() == (b"two\nthree\n", None)
        assert vm.communicate() == (b"two\nthree\n", None)


def test_signals(box: Box) -> None:
    script = "trap 'echo usr1; exit 9' USR1; echo ready; while :; do sleep 0.1; done"
    with MicroVM(["/bin/sh", "-c", script], root=box(), engine="uml", stdin=DEVNULL, stdout=PIPE) as vm:
        assert vm.stdout is not None
        assert vm.stdout.readline() == b"ready\n"
        vm.send_signal(signal.SIGUSR1)
        assert vm.stdout.read() == b"usr1\n"
        assert vm.wait(LIMIT) == 9
        vm.send_signal(signal.SIGUSR1)  # to what has ended: nothing, as with Popen
        vm.stop()
        vm.kill()


def test_terminate_is_a_signal_that_can_be_the_end(box: Box) -> None:
    with MicroVM(["/bin/sleep", "1000"], root=box(), engine="uml", stdin=DEVNULL) as vm:
        vm.terminate()
        vm.wait(LIMIT)
        assert (vm.result().exit_code, vm.result().signal) == (143, 15)


def test_stop_lets_the_command_clean_up_and_kill_does_not(box: Box) -> None:
    script = "trap 'echo cleaned; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    outputs = []
    for end in (MicroVM.stop, MicroVM.kill):
        with MicroVM(["/bin/sh", "-c", script], root=box(), engine="uml", stdin=DEVNULL, stdout=PIPE) as vm:
            assert vm.stdout is not None
            assert vm.stdout.readline() == b"ready\n"
            end(vm)
            outputs.append((vm.wait(LIMIT), vm.stdout.read()))
    assert outputs == [(0, b"cleaned\n"), (137, b"")]


def test_what_is_no_signal_or_grace_is_refused_and_the_vm_goes_on(box: Box) -> None:
    with MicroVM(["/bin/cat"], root=box(), engine="uml", stdin=PIPE, stdout=PIPE) as vm:
        for number in (-1, 0, 65, 1 << 40, "9", True, None):
            with pytest.raises(UsageError, match="a signal is a number from 1 to 64"):
                vm.send_signal(number)  # type: ignore[arg-type]
        for grace in (-1.0, math.nan, "5", b"5"):
            with pytest.raises(UsageError, match="grace is a number of seconds"):
                vm.stop(grace)  # type: ignore[arg-type]
        out, _ = vm.communicate(b"it goes on")
        assert (out, vm.exit_code) == (b"it goes on", 0)


def test_a_grace_may_be_as_long_as_you_like(box: Box) -> None:
    script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    with MicroVM(["/bin/sh", "-c", script], root=box(), engine="uml", stdin=DEVNULL, stdout=PIPE) as vm:
        assert vm.stdout is not None
        assert vm.stdout.readline() == b"ready\n"
        vm.stop(math.inf)
        assert vm.wait(LIMIT) == 3


def test_the_end_of_the_block_is_an_orderly_end(box: Box) -> None:
    script = "trap 'echo cleaned; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    lines: list[str] = []
    ready = threading.Event()

    def on_line(line: str) -> None:
        lines.append(line)
        ready.set()

    with MicroVM(
        ["/bin/sh", "-c", script], root=box(), engine="uml", stdin=DEVNULL, text=True, on_stdout=on_line
    ) as vm:
        assert ready.wait(LIMIT)
        assert vm.stdout is None
    assert lines == ["ready\n", "cleaned\n"]
    assert vm.exit_code == 3


def test_a_block_that_raises_ends_the_vm_at_once(box: Box) -> None:
    script = "trap '' TERM; while :; do sleep 0.1; done"
    with (
        pytest.raises(ZeroDivisionError),
        MicroVM(["/bin/sh", "-c", script], root=box(), engine="uml", stdin=DEVNULL) as vm,
    ):
        raise ZeroDivisionError
    assert vm.exit_code == 137
    assert is_gone(vm.pid)


def test_a_block_that_raises_does_not_wait_for_who_reads_the_input(box: Box) -> None:
    vm = MicroVM(["/bin/sh", "-c", "echo; sleep 1000"], root=box(), engine="uml", stdin=PIPE, stdout=PIPE)
    assert vm.stdin is not None
    assert vm.stdout is not None
    assert vm.stdout.readline() == b"\n"
    fill(vm.stdin.fileno())
    vm.stdin.write(b"x" * 100)
    begun, guard = time.monotonic(), threading.Timer(10, vm.kill)
    guard.start()
    with pytest.raises(ZeroDivisionError), vm:
        raise ZeroDivisionError
    assert time.monotonic() - begun < 9, "it waited"
    guard.cancel()
    assert vm.exit_code == 137


def fill(pipe: int) -> None:
    """Write until nobody takes any more."""
    os.set_blocking(pipe, False)
    last = time.monotonic()
    while time.monotonic() - last < 1:
        try:
            os.write(pipe, bytes(4096))
            last = time.monotonic()
        except BlockingIOError:
            time.sleep(0.02)
    os.set_blocking(pipe, True)


def test_lines_and_the_boot_log_come_to_functions(box: Box) -> None:
    boot: list[str] = []
    out: list[str] = []
    err: list[str] = []
    with MicroVM(
        ["/bin/sh", "-c", "echo one; printf 'two\\r\\nrest'; echo err >&2"],
        root=box(),
        engine="uml",
        stdin=DEVNULL,
        text=True,
        on_stdout=out.append,
        on_stderr=err.append,
        on_boot=boot.append,
    ) as vm:
        vm.wait(LIMIT)
    assert (out, err) == (["one\n", "two\n", "rest"], ["err\n"])
    assert any("Linux version" in line for line in boot)
    assert all(line.endswith("\n") for line in boot)


def test_a_function_that_raises_is_told_and_the_rest_goes_on(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_type))
    lines: list[bytes] = []

    def on_line(line: bytes) -> None:
        lines.append(line)
        if len(lines) == 1:
            raise KeyError("mine")
        vm.wait()

    script = "echo one; sleep 0.3; echo two"
    with MicroVM(["/bin/sh", "-c", script], root=box(), engine="uml", stdin=DEVNULL, on_stdout=on_line) as vm:
        assert vm.wait(LIMIT) == 0
    assert lines == [b"one\n", b"two\n"]
    assert told == [KeyError, UsageError]  # it cannot wait for what waits for it


def test_a_supervisor_that_is_killed_is_an_error(box: Box) -> None:
    vm = MicroVM(["/bin/sleep", "1000"], root=box(), engine="uml", stdin=DEVNULL)
    os.kill(vm.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="supervisor"):
        vm.wait(LIMIT)
    with pytest.raises(EngineError):
        vm.poll()


def test_the_end_of_a_block_does_not_swallow_that_there_was_no_vm(box: Box) -> None:
    def block() -> None:
        script = "echo; sleep 1000"
        with MicroVM(["/bin/sh", "-c", script], root=box(), engine="uml", stdin=DEVNULL, stdout=PIPE) as vm:
            assert vm.stdout is not None
            vm.stdout.readline()
            os.kill(vm.pid, signal.SIGKILL)
            assert vm.stdout.read() == b""

    with pytest.raises(EngineError):
        block()


def test_a_forgotten_vm_is_warned_of(box: Box) -> None:
    def forget() -> None:
        pids.append(MicroVM(["/bin/sleep", "1000"], root=box(), engine="uml", stdin=DEVNULL).pid)

    pids: list[int] = []
    with pytest.warns(ResourceWarning, match="still running"):
        forget()
    pid = pids[0]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(pid), LIMIT, "the end of the supervisor")


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not both"):
        MicroVM(["/x"], stdout=DEVNULL, on_stdout=print)
    with pytest.raises(UsageError, match="not both"):
        MicroVM(["/x"], boot_log=tmp_path / "log", on_boot=print)
    with pytest.raises(UsageError, match="/does/not/exist"):
        MicroVM(["/x"], root="/does/not/exist", stdin=PIPE, stdout=PIPE, on_boot=print)
    with pytest.raises(UsageError, match="stderr cannot be 'x'"):
        MicroVM(["/x"], stdin=PIPE, stdout=PIPE, stderr="x")  # type: ignore[arg-type]


def test_input_without_a_pipe(box: Box) -> None:
    with MicroVM(["/bin/cat"], root=box(), engine="uml", stdin=DEVNULL) as vm:
        with pytest.raises(UsageError, match="input needs stdin=PIPE"):
            vm.communicate(b"x")
        vm.wait(LIMIT)


def test_a_fork_of_the_caller_neither_keeps_nor_ends_the_vm(box: Box) -> None:
    script = "while read line; do echo $line; done; echo end"
    with MicroVM(["/bin/sh", "-c", script], root=box(), engine="uml", stdin=PIPE, stdout=PIPE, stderr=STDOUT) as vm:
        assert vm.stdin is not None
        assert vm.stdout is not None
        pid = os.fork()
        if not pid:
            code = 1
            try:
                vm.wait(1)
            except EngineError as error:
                code = 0 if "belongs to the process that started it" in str(error) else 2
            finally:
                vm.kill()  # which is not ours to kill
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        vm.stdin.write(b"alive\n")
        vm.stdin.flush()
        assert vm.stdout.readline() == b"alive\n"

        # A child that lives on does not keep the VM from ending with this process' connection to it.
        reads, writes = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(writes)
            for stream in (vm.stdin, vm.stdout):
                os.close(stream.fileno())
            os.read(reads, 1)
            os._exit(0)
        os.close(reads)
        try:
            assert vm.communicate(timeout=LIMIT) == (b"end\n", None)
            assert vm.wait() == 0
        finally:
            os.close(writes)
            os.waitpid(pid, 0)


def test_threads_have_vms_of_their_own(box: Box) -> None:
    codes: dict[int, bytes | str | None] = {}

    def one(number: int) -> None:
        script = f"cat; echo {number}"
        result = pykrun.run(
            ["/bin/sh", "-c", script], root=root, engine="uml", input=b"%d " % number, timeout=LIMIT, memory=64
        )
        codes[number] = result.stdout

    root = box()
    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert codes == {number: b"%d %d\n" % (number, number) for number in range(8)}


def test_one_vm_from_several_threads(box: Box) -> None:
    with MicroVM(["/bin/cat"], root=box(), engine="uml", stdin=PIPE, stdout=PIPE) as vm:
        codes: list[int] = []
        threads = [threading.Thread(target=lambda: codes.append(vm.wait(LIMIT))) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        vm.kill()
        for thread in threads:
            thread.join(LIMIT)
    assert codes == [137] * 3
