"""Whatever is killed, and whenever: the state says so, delete cleans, and no process is left (conftest looks)."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from pykrun.oci.state import Container, take
from tests.oci.runtime.runtime import KILL, Runtime
from tests.support.command import wait_until

SLEEP = "exec sleep 600"


def family(pid: int) -> list[int]:
    """A process' descendants."""
    found: list[int] = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += [int(child), *family(int(child))]
    return found


def test_who_has_the_lock_is_killed(tmp_path: Path) -> None:
    """And nobody when it is free, whoever has the pid then."""
    container = Container(str(tmp_path), "one")
    lock = container.make()
    container.kill()
    if (pid := os.fork()) == 0:
        try:
            take(lock)
            time.sleep(60)
        finally:
            os._exit(1)
    wait_until(lambda: container.supervisor() == pid, 20, "the lock")
    container.kill()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == KILL
    container.kill()
    os.close(lock)


def test_the_supervisor_created(each: Runtime) -> None:
    each.create("one", each.bundle(script=SLEEP))
    pid = each.state("one")["pid"]
    others = family(pid)
    os.kill(pid, signal.SIGKILL)
    assert each.reap(pid) == KILL
    assert each.status("one") == "stopped"
    assert each.refused("start", "one") == "cannot start a container that has stopped"
    wait_until(lambda: not any(os.path.exists(f"/proc/{other}/exe") for other in others), 20, "the others' end")
    each.must("delete", "one")


def test_the_supervisor_running(each: Runtime) -> None:
    each.create("one", each.bundle(script=SLEEP))
    each.must("start", "one")
    pid = each.state("one")["pid"]
    command = each.start_command("exec", "one", "sleep", "600", stdin=-3, stdout=-3, stderr=-3)
    wait_until(lambda: "sleep" in each.must("ps", "one"), 20, "the command")
    os.kill(pid, signal.SIGKILL)
    assert each.reap(pid) == KILL
    assert command.wait(30) == 137
    assert each.status("one") == "stopped"
    each.must("delete", "one")


def test_any_other_process(each: Runtime) -> None:
    """The engine, a server: the container ends, and its supervisor says why."""
    for index in range(3):
        out = each.bundles / "out"
        each.names.append("one")
        with out.open("wb") as file:
            command = each.start_command(
                "create", "-b", each.bundle(script=SLEEP), "one", stdin=-3, stdout=file, stderr=file
            )
            assert command.wait(60) == 0
        each.must("start", "one")
        pid = each.state("one")["pid"]
        others = family(pid)
        if index >= len(others):
            break
        os.kill(others[index], signal.SIGKILL)
        assert each.reap(pid) in (125, 137)
        assert "pykrun-oci: " in out.read_text()
        assert each.status("one") == "stopped"
        each.must("delete", "one")


@pytest.mark.parametrize("delay", [0.0, *(0.02 + 0.004 * step for step in range(12)), 0.1, 0.15, 0.2, 0.3])
def test_the_creator(runtime: Runtime, delay: float) -> None:
    """Killed at any time: there is a container, or none, and the id can be used again."""
    bundle = runtime.bundle(script=SLEEP)
    runtime.names.append("one")
    command = runtime.start_command("create", "--bundle", bundle, "one", stdin=-3, stdout=-3, stderr=-3)
    time.sleep(delay)
    command.kill()
    command.wait()
    folder = runtime.root / "one"

    def is_settled() -> bool:
        listed = runtime.must("list", "-q").split()
        return not listed or runtime.status("one") in ("created", "stopped")

    wait_until(is_settled, 30, "an end or a container")
    if folder.exists():
        runtime.must("delete", "--force", "one")
    runtime.create("one", bundle)
    runtime.must("start", "one")


def test_the_creator_interrupted(runtime: Runtime) -> None:
    """Ctrl-C: no traceback, and nothing left."""
    runtime.names.append("one")
    errors = runtime.bundles / "errors"
    with errors.open("wb") as file:
        command = runtime.start_command(
            "create", "--bundle", runtime.bundle(script=SLEEP), "one", stdin=-3, stdout=-3, stderr=file
        )
    wait_until((runtime.root / "one" / "lock").exists, 20, "a beginning")
    command.send_signal(signal.SIGINT)
    assert command.wait(30) == 130
    assert errors.read_text() == ""
    assert not (runtime.root / "one").exists()


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.06, 0.1])
def test_the_starter(runtime: Runtime, delay: float) -> None:
    runtime.create("one", runtime.bundle(script=SLEEP))
    command = runtime.start_command("start", "one", stderr=-3)
    time.sleep(delay)
    command.kill()
    command.wait()
    wait_until(lambda: runtime.status("one") in ("created", "running"), 20, "a state")
    time.sleep(0.3)
    if runtime.status("one") == "created":
        runtime.must("start", "one")
    assert runtime.status("one") == "running"


def test_delete_by_force_at_once(runtime: Runtime) -> None:
    for _ in range(3):
        runtime.create("one", runtime.bundle(script=SLEEP))
        runtime.must("delete", "--force", "one")
        runtime.create("one", runtime.bundle(script=SLEEP))
        runtime.must("start", "one")
        runtime.must("delete", "--force", "one")
    assert runtime.refused("state", "one").startswith("container does not exist")


def test_what_was_left_half_made_is_in_nobodys_way(runtime: Runtime) -> None:
    """Its creator and its supervisor were killed before there was a container."""
    bundle = runtime.bundle(script=SLEEP)
    folder = runtime.root / "one"
    folder.mkdir(parents=True)
    assert "already exists" in runtime.refused("create", "--bundle", bundle, "one"), "somebody may be about to make it"
    os.utime(folder, (0, 0))
    runtime.create("one", bundle)
    runtime.must("delete", "one")
    folder.mkdir()
    (folder / "lock").touch()
    (folder / "root").mkdir()
    (folder / "state.json").write_text('{"id": "one", "status": "creating", "bundle": "/nowhere", "pykrun": {}}')
    runtime.create("one", bundle)
    assert runtime.status("one") == "created"
