"""VMs with names: `pykrun ps`, `pykrun stop`, and the door's other requests to a VM that runs."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pykrun.errors import EngineError, UsageError
from tests.boot.vm import engine_process
from tests.cli import vms
from tests.support.command import Pykrun, wait_until
from tests.support.descriptors import open_descriptors

LIMIT = vms.LIMIT


def table(pykrun: Pykrun) -> list[list[str]]:
    done = pykrun(["ps"])
    assert (done.returncode, done.stderr) == (0, b"")
    return [line.split(maxsplit=5) for line in done.stdout.decode().splitlines()]


def test_nothing_runs(run_pykrun: Pykrun) -> None:
    assert table(run_pykrun) == [["NAME", "PID", "ENGINE", "UP", "STATUS", "COMMAND"]]
    assert run_pykrun(["ps", "--json"]).stdout == b"[]\n"
    assert run_pykrun(["ps", "-q"]).stdout == b""


def test_a_list(run_pykrun: Pykrun, engine: str) -> None:
    first = vms.start(run_pykrun, engine, "sleep 1000", "--name", "web", "--memory", "128")
    second = vms.start(run_pykrun, "uml", "sleep 1000")
    _, *rows = sorted(table(run_pykrun), key=lambda row: row[0] == "web")
    other, web = (row for row in rows if row[0] != "NAME")
    assert web[:3] == ["web", str(first.pid), engine]
    assert web[4:] == ["running", "/bin/sh -c 'echo ready; sleep 1000'"]
    assert other[1:3] == [str(second.pid), "uml"]
    facts = {one["name"]: one for one in json.loads(run_pykrun(["ps", "--json"]).stdout)}
    assert facts["web"]["memory_mib"] == 128
    assert facts["web"]["command"] == ["/bin/sh", "-c", "echo ready; sleep 1000"]
    assert 0 < time.time() - facts["web"]["started"] < LIMIT
    assert run_pykrun(["ps", "--quiet"]).stdout.decode().split() == sorted(["web", other[0]])
    vms.stop(first)
    assert [row[0] for row in table(run_pykrun)] == ["NAME", other[0]]
    vms.stop(second)


def test_stop_is_an_orderly_end(run_pykrun: Pykrun, engine: str) -> None:
    vm = vms.start(run_pykrun, engine, "while :; do sleep 0.1; done", "--name", "web", trap="'echo bye; exit 7' TERM")
    done = run_pykrun(["stop", "web"])
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    out, _ = vm.communicate(timeout=LIMIT)
    assert (vm.returncode, out) == (7, b"bye\n")


def test_stop_without_a_grace(run_pykrun: Pykrun) -> None:
    deaf = vms.start(run_pykrun, "uml", "while :; do sleep 0.1; done", "--name", "deaf", trap="'' TERM")
    begun = time.monotonic()
    assert run_pykrun(["stop", "--grace", "0", "deaf"]).returncode == 0
    assert time.monotonic() - begun < 8
    deaf.communicate(timeout=LIMIT)
    assert deaf.returncode == 137


def test_stop_of_several_and_of_none(run_pykrun: Pykrun) -> None:
    started = [vms.start(run_pykrun, "uml", "exec sleep 1000", "--name", name) for name in ("a", "b")]
    done = run_pykrun(["stop", "a", "nobody", "b"])
    assert done.returncode == 1
    assert b"there is no VM named 'nobody'" in done.stderr
    for vm in started:
        vm.communicate(timeout=LIMIT)
        assert vm.returncode == 143
    assert run_pykrun(["ps", "-q"]).stdout == b""


def test_the_same_name_twice(run_pykrun: Pykrun) -> None:
    vm = vms.start(run_pykrun, "uml", "sleep 1000", "--name", "web")
    done = run_pykrun(["run", "--name", "web", "--file", f"/x={vms.busybox()}", "--", "/x"])
    assert done.returncode == 125
    assert done.stderr.decode().startswith(f"pykrun: there is a VM named 'web' already, of process {vm.pid} (")
    assert done.stderr.count(b"\n") == 1
    vms.stop(vm)


def test_names_that_cannot_be(run_pykrun: Pykrun, tmp_path: Path) -> None:
    for name in ("", "-x", "a/b", ".hidden"):
        done = run_pykrun(["run", f"--name={name}", "--file", f"/x={vms.busybox()}", "--", "/x"])
        assert done.returncode == 125
        assert b"cannot be named" in done.stderr
    (tmp_path / "vm.toml").write_text('name = "a/b"\n')
    done = run_pykrun(["run", "--config", str(tmp_path / "vm.toml"), "--", "/x"])
    assert b"vm.toml:1: name: " in done.stderr
    (tmp_path / "vm.toml").write_text('name = "web"\n')
    assert b'name = "web"' in run_pykrun(["config", "--config", str(tmp_path / "vm.toml")]).stdout


def test_where_vms_cannot_be_listed(run_pykrun: Pykrun) -> None:
    place = run_pykrun.folder / "run" / "pykrun"
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    words = ["--file", f"/bin/true={vms.busybox()}", "--engine", "uml", "--", "/bin/true"]
    assert run_pykrun(["run", *words]).returncode == 0
    done = run_pykrun(["run", "--name", "web", *words])
    assert done.returncode == 125
    for command in (["ps"], ["exec", "web", "true"], ["stop", "web"]):
        done = run_pykrun(command)
        assert done.returncode in (1, 2, 125)
        assert b"is not this user's alone" in done.stderr
    assert list(place.iterdir()) == []
    place.rmdir()


def test_it_stands_still_and_goes_on_with_the_right_time(run_pykrun: Pykrun, engine: str) -> None:
    script = "while :; do date +%s; done"
    vm = vms.start(run_pykrun, engine, script, "--name", "web", stderr=subprocess.DEVNULL)
    assert vm.stdout is not None
    with vms.visit(run_pykrun, "web") as client:
        pid = engine_process(vm, engine).pid
        for _ in range(2):
            assert client.call("pause") == {"event": "done"}
            assert client.call("pause") == {"event": "done"}
            assert client.call("info")["status"] == "paused"
            assert table(run_pykrun)[1][4] == "paused"
            os.set_blocking(vm.stdout.fileno(), False)
            while vm.stdout.read(1 << 20):
                time.sleep(0.1)
            before = _cpu_time(pid)
            time.sleep(2)
            assert _cpu_time(pid) == before
            assert not vm.stdout.read(1)
            client.call("resume")
            assert client.call("info")["status"] == "running"
            os.set_blocking(vm.stdout.fileno(), True)
            wait_until(lambda: abs(int(vm.stdout.readline() or b"0") - time.time()) < 2, 20)  # type: ignore[union-attr]
        client.call("pause")
        waiting = run_pykrun.start(["exec", "web", "true"])
        time.sleep(0.5)
        assert waiting.poll() is None
        client.call("resume")
        assert waiting.wait(LIMIT) == 0
    vms.stop(vm)


def _cpu_time(pid: int) -> float:
    """Of a process and all below it."""
    total = 0.0
    for task in os.listdir(f"/proc/{pid}/task"):
        total += sum(map(int, Path(f"/proc/{pid}/task/{task}/stat").read_text().rpartition(")")[2].split()[11:13]))
        children = Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        total += sum(_cpu_time(int(child)) for child in children)
    return total


@pytest.mark.parametrize("way", ["stop", "SIGTERM", "end"])
def test_a_paused_vm_ends(run_pykrun: Pykrun, engine: str, way: str) -> None:
    vm = vms.start(run_pykrun, engine, "exec sleep 1000", "--name", "web")
    with vms.visit(run_pykrun, "web") as client:
        client.call("pause")
        if way == "SIGTERM":
            vm.send_signal(signal.SIGTERM)
        else:
            client.call(way)
    vm.communicate(timeout=LIMIT)
    assert vm.returncode == (137 if way == "end" else 143)


def test_signals_and_the_end_are_told(run_pykrun: Pykrun, engine: str) -> None:
    vm = vms.start(run_pykrun, engine, "while :; do sleep 0.1; done", "--name", "web", trap="'exit 9' USR1")
    with vms.visit(run_pykrun, "web") as client, vms.visit(run_pykrun, "web") as waits:
        waits.ask("wait")
        assert client.call("signal", number=int(signal.SIGUSR1)) == {"event": "done"}
        assert waits.receive(LIMIT) == {"event": "ended", "code": 9, "signal": 0, "reason": ""}
        vm.communicate(timeout=LIMIT)
        with pytest.raises(EngineError, match="the VM has ended"):
            client.call("info")


def test_descriptors_that_are_no_streams(run_pykrun: Pykrun) -> None:
    vm = vms.start(run_pykrun, "uml", "sleep 1000", "--name", "web")
    epoll = select.epoll()
    odd = [os.open("/", os.O_PATH), os.open("/", os.O_RDONLY), os.eventfd(0), os.dup(epoll.fileno()), *os.pipe()]
    epoll.close()
    for stream in odd:
        for place in range(3):
            with vms.visit(run_pykrun, "web") as client:
                streams = [number == place for number in range(3)]
                client.ask("exec", [stream], process={"args": ["/bin/ls"], "env": []}, streams=streams)
                with contextlib.suppress(UsageError):
                    assert client.receive(LIMIT)
        assert run_pykrun(["exec", "web", "true"]).returncode == 0
    for stream in odd:
        os.close(stream)
    vms.stop(vm)


def test_end_has_its_own_status(run_pykrun: Pykrun) -> None:
    before = open_descriptors()
    vm = vms.start(run_pykrun, "uml", "sleep 1000", "--name", "web")
    with vms.visit(run_pykrun, "web") as client:
        client.call("end", code=42)
    vm.communicate(timeout=LIMIT)
    assert vm.returncode == 42
    assert len(open_descriptors()) <= len(before) + 2


def test_a_hundred_vms_have_a_hundred_names(run_pykrun: Pykrun) -> None:
    """Twelve on this machine: names of a hundred processes at once are in tests/vms."""
    words = ["run", "--engine", "uml", "--memory", "64", "--file", f"/bin/sh={vms.busybox()}", "--"]
    running = [run_pykrun.start([*words, "/bin/sh", "-c", "read x"], stdin=subprocess.PIPE) for _ in range(12)]
    wait_until(lambda: len(set(run_pykrun(["ps", "-q"]).stdout.split())) == 12, LIMIT)
    for vm in running:
        vm.communicate(b"\n", timeout=LIMIT)
    assert run_pykrun(["ps", "-q"]).stdout == b""
