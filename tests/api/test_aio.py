"""pykrun.aio: the same for asyncio."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from pykrun import EngineError, Root, UsageError, aio
from tests.api.conftest import LIMIT

Box = Callable[[], Root]
pytestmark = pytest.mark.uml
LOOP = "while :; do sleep 0.1; done"


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """As asyncio.run, bounded, and with its complaints as failures: also of futures that nobody looked at."""
    complaints: list[str] = []

    async def bounded() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
        return await asyncio.wait_for(coroutine, LIMIT)

    result = asyncio.run(bounded())
    assert not complaints
    return result


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_run(box: Box) -> None:
    command = ["/bin/sh", "-c", "cat; echo err >&2; exit 3"]
    result = run(aio.run(command, root=box(), engine="uml", input="ü\n", text=True))
    assert (result.exit_code, result.stdout, result.stderr) == (3, "ü\n", "err\n")
    with pytest.raises(subprocess.CalledProcessError):
        run(aio.run(["/bin/missing"], root=box(), engine="uml", check=True))
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run(aio.run(["/bin/sh", "-c", "echo so far; exec sleep 1000"], root=box(), engine="uml", timeout=5))
    assert caught.value.stdout == b"so far\n"
    with pytest.raises(UsageError, match="no option 'colour'"):
        run(aio.run(["/x"], colour="red"))
    with pytest.raises(UsageError, match="/does/not/exist"):
        run(aio.run(["/x"], root="/does/not/exist"))


def test_several_at_once(box: Box) -> None:
    async def all_of_them() -> list[Any]:
        root = box()
        return await asyncio.gather(
            *(aio.run(["/bin/sh", "-c", f"exit {number}"], root=root, engine="uml", memory=64) for number in range(6))
        )

    assert [result.exit_code for result in run(all_of_them())] == list(range(6))


def test_a_conversation_and_its_end(box: Box) -> None:
    async def talk() -> aio.MicroVM:
        script = "while read line; do echo got $line; done; exit 5"
        async with aio.MicroVM(
            ["/bin/sh", "-c", script], root=box(), engine="uml", stdin=aio.PIPE, stdout=aio.PIPE
        ) as vm:
            assert vm.stdin is not None
            assert vm.stdout is not None
            assert vm.stderr is None
            vm.stdin.write(b"one\n")
            await vm.stdin.drain()
            assert await vm.stdout.readline() == b"got one\n"
            assert vm.exit_code is None
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(vm.wait(), 0.01)
            vm.stdin.close()
            await vm.stdin.wait_closed()
            assert await vm.stdout.read() == b""
            assert await vm.wait() == vm.exit_code == (await vm.result()).exit_code == 5
        return vm

    assert is_gone(run(talk()).pid)


def test_communicate_lines_and_signals(box: Box) -> None:
    async def talk() -> None:
        async with aio.MicroVM(["/bin/cat"], root=box(), engine="uml", stdin=aio.PIPE, stdout=aio.PIPE) as vm:
            assert await vm.communicate(b"x" * 300_000) == (b"x" * 300_000, None)

        lines: asyncio.Queue[str] = asyncio.Queue()
        boot: list[str] = []
        script = f"trap 'echo usr1; exit 9' USR1; echo ready; {LOOP}"
        async with aio.MicroVM(
            ["/bin/sh", "-c", script],
            root=box(),
            engine="uml",
            stdin=aio.DEVNULL,
            text=True,
            on_stdout=lines.put_nowait,
            on_boot=boot.append,
        ) as vm:
            assert await lines.get() == "ready\n"
            vm.send_signal(signal.SIGUSR1)
            assert await lines.get() == "usr1\n"
            assert await vm.wait() == 9
        assert any("Linux version" in line for line in boot)

    run(talk())


def test_the_end_of_the_block_is_an_orderly_end(box: Box) -> None:
    async def stopped() -> tuple[int | None, bytes]:
        script = f"trap 'echo cleaned; exit 3' TERM; echo ready; {LOOP}"
        async with aio.MicroVM(
            ["/bin/sh", "-c", script], root=box(), engine="uml", stdin=aio.DEVNULL, stdout=aio.PIPE
        ) as vm:
            assert vm.stdout is not None
            assert await vm.stdout.readline() == b"ready\n"
            rest = asyncio.ensure_future(vm.stdout.read())
        return vm.exit_code, await rest

    assert run(stopped()) == (3, b"cleaned\n")


def test_cancelling_ends_the_vm(box: Box) -> None:
    pids: list[int] = []

    async def block() -> None:
        async with aio.MicroVM(["/bin/sh", "-c", f"trap '' TERM; {LOOP}"], root=box(), engine="uml") as vm:
            pids.append(vm.pid)
            await asyncio.sleep(1000)

    async def cancelled(coroutine: Coroutine[Any, Any, Any], after: float) -> None:
        task = asyncio.ensure_future(coroutine)
        await asyncio.sleep(after)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(cancelled(block(), 4))
    assert pids
    assert is_gone(pids[0])
    for after in (0, 0.05, 2):  # that nothing is left is every test's check
        run(cancelled(aio.run(["/bin/sleep", "1000"], root=box(), engine="uml"), after))
        run(cancelled(block(), after))


def test_a_supervisor_that_is_killed_is_an_error(box: Box) -> None:
    async def killed() -> None:
        async with aio.MicroVM(["/bin/sleep", "1000"], root=box(), engine="uml", stdin=aio.DEVNULL) as vm:
            os.kill(vm.pid, signal.SIGKILL)
            with pytest.raises(EngineError):
                await vm.wait()
            with pytest.raises(EngineError):
                assert vm.exit_code

    run(killed())


def test_what_cannot_be(box: Box) -> None:
    async def wrong() -> None:
        vm = aio.MicroVM(["/bin/cat"], root=box(), engine="uml", stdin=aio.DEVNULL)
        with pytest.raises(UsageError, match="was not started"):
            vm.kill()
        await vm
        with pytest.raises(UsageError, match="a signal is a number from 1 to 64"):
            vm.send_signal(-1)
        with pytest.raises(UsageError, match="grace is a number of seconds"):
            vm.stop(-1.0)
        with pytest.raises(UsageError, match="started already"):
            await vm
        with pytest.raises(UsageError, match="input needs stdin=PIPE"):
            await vm.communicate(b"x")
        assert await vm.wait() == 0
        with pytest.raises(UsageError, match="/does/not/exist"):
            await aio.MicroVM(["/x"], root="/does/not/exist", stdin=aio.PIPE, stdout=aio.PIPE)

    run(wrong())


def test_a_loop_that_ends_before_the_vm(box: Box) -> None:
    async def start() -> aio.MicroVM:
        return await aio.MicroVM(["/bin/sleep", "1000"], root=box(), engine="uml", stdin=aio.DEVNULL, on_boot=print)

    vm = asyncio.run(start())
    vm.kill()

    async def end() -> int:
        return await vm.wait()

    assert run(end()) == 137
