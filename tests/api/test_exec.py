"""`MicroVM.exec` and its asyncio face: a further command with the shape of `pykrun.run`."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pykrun
from pykrun import EngineError, MicroVM, Root, UsageError, aio
from tests.api.conftest import LIMIT
from tests.support.command import LAUNCH

Box = Callable[[], Root]
SLEEP = ["/bin/sleep", "1000"]


def options(engine: str, box: Box) -> dict[str, Any]:
    more = {"accel": "tcg"} if engine == "qemu" else {}
    root = box().file("/etc/passwd", "root:x:0:0::/:/bin/sh\nann:x:7:8::/:/bin/sh\n").tmpfs("/tmp")
    return {"root": root, "engine": engine, "env": {"PATH": "/bin", "A": "workload"}, **more}


def test_streams_texts_and_codes(engine: str, box: Box) -> None:
    with MicroVM(SLEEP, **options(engine, box)) as vm:
        done = vm.exec(["sh", "-c", "echo out; echo err >&2; exit 3"], text=True)
        assert (done.exit_code, done.signal, done.stdout, done.stderr, done.reason) == (3, 0, "out\n", "err\n", "")
        assert list(done.timing) == ["started", "ended"]
        assert 0 < done.timing["started"] < done.timing["ended"] < LIMIT
        data = os.urandom(300000)
        assert vm.exec(["cat"], input=data).stdout == data
        assert vm.exec(["cat"]).stdout == b"", "no input unless said otherwise"
        killed = vm.exec(["sh", "-c", "kill -USR1 $$"])
        assert (killed.exit_code, killed.signal) == (128 + signal.SIGUSR1, signal.SIGUSR1)
        with pytest.raises(subprocess.CalledProcessError) as failed:
            vm.exec(["sh", "-c", "echo why >&2; exit 4"], check=True)
        assert (failed.value.returncode, failed.value.stderr) == (4, b"why\n")
        assert vm.exec(["nothing"]).exit_code == 127
        assert vm.exec(["/etc/passwd"]).exit_code == 126
        assert vm.poll() is None


def test_surroundings(engine: str, box: Box) -> None:
    with MicroVM(SLEEP, **options(engine, box)) as vm:

        def shell(script: str, **more: Any) -> str:
            return str(vm.exec(["sh", "-c", script], text=True, check=True, **more).stdout)

        assert shell("echo $A $B") == "workload\n"
        assert shell("echo $A $B", env={"B": "b c", "A": ""}) == "b c\n"
        assert shell("pwd", workdir="/tmp") == "/tmp\n"
        assert shell("id", user=5).startswith("uid=5 gid=5")
        assert shell("id", user=(5, 6)).startswith("uid=5 gid=6")
        assert shell("id", user="ann").startswith("uid=7(ann) gid=8")
        assert shell("ulimit -Sn; ulimit -Hn", rlimits={"nofile": (64, 128)}) == "64\n128\n"
        assert shell("ulimit -c", rlimits={"core": (resource.RLIM_INFINITY,) * 2}) == "unlimited\n"
        with pytest.raises(UsageError, match="no resource limit 'files'"):
            shell("true", rlimits={"files": (1, 1)})
        assert vm.exec(["sh", "-c", "test -t 0 && test -t 1 && test -t 2"], tty=True).exit_code == 0
        with pytest.raises(EngineError, match="nobody-here"):
            shell("id", user="nobody-here")


def test_files_and_descriptors(box: Box, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"from a file")
    with (
        MicroVM(SLEEP, **options("uml", box)) as vm,
        open(tmp_path / "in", "rb") as source,
        open(tmp_path / "out", "wb") as target,
    ):
        done = vm.exec(["sh", "-c", "cat; echo err >&2"], stdin=source, stdout=target, stderr=pykrun.STDOUT)
        assert (done.stdout, done.stderr) == (None, None)
        assert sorted((tmp_path / "out").read_bytes().splitlines()) == [b"from a fileerr"]
        assert vm.exec(["echo"], stdout=pykrun.DEVNULL, stderr=pykrun.DEVNULL).stdout is None


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("echo", {}),
        ([], {}),
        (["echo", "a\0"], {}),
        (["echo"], {"env": {"A": 1}}),
        (["echo"], {"env": {"A=": "1"}}),
        (["echo"], {"user": "a:b:c"}),
        (["echo"], {"input": b"x", "stdin": 0}),
        (["echo"], {"encoding": "nothing"}),
        (["echo"], {"stdout": "file"}),
    ],
)
def test_what_cannot_be(box: Box, command: Any, more: dict[str, Any]) -> None:
    with MicroVM(SLEEP, **options("uml", box)) as vm, pytest.raises(UsageError):
        vm.exec(command, **more)


def test_a_timeout_kills_only_that_command(engine: str, box: Box) -> None:
    with MicroVM(SLEEP, **options(engine, box)) as vm:
        vm.exec(["sh", "-c", ":"])
        begun = time.monotonic()
        with pytest.raises(subprocess.TimeoutExpired) as expired:
            vm.exec(["sh", "-c", "trap '' TERM HUP; echo so far; exec sleep 4711"], timeout=0.7, text=True)
        assert time.monotonic() - begun < 8
        assert (expired.value.stdout, expired.value.timeout) == ("so far\n", 0.7)
        assert "4711" not in str(vm.exec(["sh", "-c", "cat /proc/[0-9]*/cmdline"]).stdout)
        assert vm.poll() is None


def test_it_waits_until_the_workload_runs(engine: str, box: Box) -> None:
    with MicroVM(SLEEP, **options(engine, box)) as vm:
        assert vm.exec(["sh", "-c", "echo early"]).stdout == b"early\n"


def test_a_hundred_at_once(box: Box) -> None:
    with MicroVM(SLEEP, **options("uml", box)) as vm:
        found: dict[int, Any] = {}

        def one(number: int) -> None:
            found[number] = vm.exec(["sh", "-c", f"cat; exit {number}"], input=b"x" * 1000 * number)

        threads = [threading.Thread(target=one, args=(number,)) for number in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        assert {number: (done.exit_code, len(done.stdout)) for number, done in found.items()} == {
            number: (number, number * 1000) for number in range(100)
        }


def test_a_vm_that_ends_first_has_killed_it(engine: str, box: Box) -> None:
    with MicroVM(["/bin/sh", "-c", "read x"], stdin=pykrun.PIPE, **options(engine, box)) as vm:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(vm.exec(["sh", "-c", "echo on; exec sleep 1000"])))
        thread.start()
        time.sleep(3)
        assert vm.stdin is not None
        vm.stdin.write(b"\n")
        vm.stdin.close()
        thread.join(LIMIT)
        (done,) = found
        assert (done.exit_code, done.signal, done.stdout) == (137, 9, b"on\n")
        assert done.reason.startswith("the VM ended")
        assert vm.wait(LIMIT) == 0
    with pytest.raises(EngineError, match="the VM has ended"):
        vm.exec(["echo"])


def test_a_supervisor_that_is_killed(box: Box) -> None:
    vm = MicroVM(SLEEP, **options("uml", box))
    vm.exec(["sh", "-c", ":"])
    threading.Timer(0.5, os.kill, (vm.pid, signal.SIGKILL)).start()
    with pytest.raises(EngineError, match="its supervisor ended"):
        vm.exec(["sleep", "1000"])
    with pytest.raises(EngineError):
        vm.wait(LIMIT)


def test_names(box: Box) -> None:
    with MicroVM(SLEEP, name="api-vm", **options("uml", box)) as vm, MicroVM(SLEEP, **options("uml", box)) as other:
        assert vm.name == "api-vm"
        assert other.name not in ("", "api-vm")
        with pytest.raises(UsageError, match=f"'api-vm' already, of process {vm.pid}"):
            MicroVM(SLEEP, name="api-vm", **options("uml", box))
    for name in ("a/b", "", 5):
        with pytest.raises(UsageError):
            MicroVM(SLEEP, name=name, **options("uml", box))  # type: ignore[arg-type]


def test_where_vms_cannot_be_listed_it_works_all_the_same(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pykrun").symlink_to("/tmp")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with MicroVM(SLEEP, **options("uml", box)) as vm:
        assert vm.name == ""
        assert vm.exec(["sh", "-c", "echo here"]).stdout == b"here\n"
    with pytest.raises(UsageError, match="is no directory"):
        MicroVM(SLEEP, name="web", **options("uml", box))


def test_a_function_that_is_called_with_lines_cannot_wait(box: Box) -> None:
    found: list[BaseException] = []

    def on_line(_line: str) -> None:
        try:
            vm.exec(["echo"])
        except UsageError as error:
            found.append(error)
        vm.stop()

    vm = MicroVM(["/bin/sh", "-c", "sleep 0.5; echo; sleep 1000"], on_stdout=on_line, **options("uml", box))
    vm.wait(LIMIT)
    assert len(found) == 1


# -- asyncio ---------------------------------------------------------------------------------------------------


def test_asyncio(engine: str, box: Box) -> None:
    async def main() -> None:
        async with aio.MicroVM(SLEEP, name=f"aio-{engine}", **options(engine, box)) as vm:
            assert vm.name == f"aio-{engine}"
            done = await vm.exec(["sh", "-c", "cat; echo err >&2; exit 3"], input="é", text=True)
            assert (done.exit_code, done.stdout, done.stderr) == (3, "é", "err\n")
            many = await asyncio.gather(*(vm.exec(["sh", "-c", f"exit {number}"]) for number in range(20)))
            assert [one.exit_code for one in many] == list(range(20))
            with pytest.raises(subprocess.CalledProcessError):
                await vm.exec(["sh", "-c", "exit 1"], check=True)
            with pytest.raises(subprocess.TimeoutExpired) as expired:
                await vm.exec(["sh", "-c", "echo so far; exec sleep 4711"], timeout=1)
            assert expired.value.stdout == b"so far\n"
            task = asyncio.create_task(vm.exec(["sleep", "4712"]))
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            left = (await vm.exec(["sh", "-c", "cat /proc/[0-9]*/cmdline"])).stdout
            assert b"471" not in left.replace(b"cat /proc/", b"")
            assert vm.exit_code is None

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_asyncio_when_the_vm_ends_first(box: Box) -> None:
    async def main() -> None:
        async with aio.MicroVM(SLEEP, **options("uml", box)) as vm:
            task = asyncio.create_task(vm.exec(["sleep", "1000"]))
            await asyncio.sleep(0.5)
            vm.stop()
            done = await task
            assert (done.exit_code, done.signal) == (137, 9)
            await vm.wait()
            with pytest.raises(EngineError, match="has ended"):
                await vm.exec(["echo"])

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_the_command_line_reaches_it(box: Box) -> None:
    with MicroVM(SLEEP, **options("uml", box)) as vm:
        command = [sys.executable, "-I", "-S", "-c", LAUNCH, "exec", vm.name, "--", "sh", "-c", "echo $A"]
        done = subprocess.run(command, capture_output=True, timeout=LIMIT, check=True)
        assert done.stdout == b"workload\n"
