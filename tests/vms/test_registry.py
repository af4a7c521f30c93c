"""Which VMs are listed: names, crashes, many at once, directories that cannot be trusted or written."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import time
from pathlib import Path

import pytest

from pykrun import vms
from pykrun.errors import MissingError, UsageError
from pykrun.vms.registry import SOCKET
from tests.support.processes import as_nobody
from tests.vms.conftest import Holders, heard, let_go


def names() -> list[str]:
    return [one.name for one in vms.listed()]


def test_a_vm_is_listed_for_as_long_as_it_lives(holders: Holders, runtime: Path) -> None:
    assert vms.listed() == []
    assert not (runtime / "pykrun").exists()
    process, said = holders("web")
    assert said == "listed web"
    (one,) = vms.listed()
    assert (one.name, one.pid, one.state["status"], one.state["command"]) == (
        "web",
        process.pid,
        "running",
        ["a", "b c"],
    )
    assert stat.S_IMODE((runtime / "pykrun").stat().st_mode) == 0o700
    assert stat.S_IMODE((runtime / "pykrun/web").stat().st_mode) == 0o700
    assert stat.S_IMODE((runtime / "pykrun/web/socket").lstat().st_mode) == 0o600
    let_go(process)
    assert vms.listed() == []
    assert list(runtime.iterdir()) == []


def test_a_name_that_is_made_up_is_short_and_can_be_typed(holders: Holders) -> None:
    _, said = holders()
    name = said.removeprefix("listed ")
    assert re.fullmatch("[a-z]+-[a-z]+", name)
    assert len(name) <= 13
    assert names() == [name]


@pytest.mark.parametrize("name", ["a", "0", "Web_1.2-x", "x" * 64])
def test_names_that_can_be(holders: Holders, name: str) -> None:
    assert holders(name)[1] == f"listed {name}"


@pytest.mark.parametrize("name", ["", ".", "..", ".new-1", "-x", "_a", "a/b", "a b", "x" * 65, "é", "a\n", "a\0"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be named"):
        vms.check_name(name)


def test_a_name_is_given_once(holders: Holders) -> None:
    process, _ = holders("web")
    _, said = holders("web")
    assert said.startswith(f"refused there is a VM named 'web' already, of process {process.pid}")
    assert "pykrun stop web" in said
    with pytest.raises(UsageError, match="already, of process"):
        vms.check_free("web")
    let_go(process)
    vms.check_free("web")
    assert holders("web")[1] == "listed web"


def test_what_a_killed_one_leaves_is_nobodys(holders: Holders, runtime: Path) -> None:
    process, _ = holders("web")
    process.kill()
    process.wait(30)
    assert (runtime / "pykrun/web/socket").exists()
    with pytest.raises(MissingError, match="no VM named 'web'"):
        vms.connect("web")
    assert vms.listed() == []
    assert list(runtime.iterdir()) == []


def test_a_killed_ones_name_is_free_at_once(holders: Holders) -> None:
    first, _ = holders("web")
    first.kill()
    first.wait(30)
    second, said = holders("web")
    assert said == "listed web"
    assert [one.pid for one in vms.listed()] == [second.pid]


def test_a_hundred_at_once(holders: Holders, runtime: Path) -> None:
    processes = [holders.begin() for _ in range(100)]
    said = [heard(process) for process in processes]
    assert all(one.startswith("listed ") for one in said), said
    assert sorted(one.removeprefix("listed ") for one in said) == names()
    assert {one.pid for one in vms.listed()} == {process.pid for process in processes}
    for process in processes[::2]:
        process.kill()
    for process in processes[1::2]:
        assert process.stdin is not None
        process.stdin.close()
    for process in processes:
        process.wait(30)
    assert vms.listed() == []
    assert list(runtime.iterdir()) == []


def test_one_of_many_gets_the_name(holders: Holders) -> None:
    processes = [holders.begin("web") for _ in range(20)]
    said = [heard(process) for process in processes]
    assert sorted(one.split()[0] for one in said) == ["listed"] + ["refused"] * 19
    winner = processes[said.index("listed web")]
    assert [one.pid for one in vms.listed()] == [winner.pid]


def test_many_bury_and_one_gets_the_name(holders: Holders) -> None:
    for _ in range(3):
        dead, _ = holders("web")
        dead.kill()
        dead.wait(30)
        processes = [holders.begin("web") for _ in range(10)]
        said = [heard(process) for process in processes]
        assert sorted(one.split()[0] for one in said) == ["listed"] + ["refused"] * 9, said
        let_go(processes[said.index("listed web")])


HALF = {
    "empty": (),
    "lock alone": ("lock",),
    "without a lock": ("state.json", "socket"),
    "half a state": ("lock", "state.json.new"),
}


@pytest.mark.parametrize("files", HALF.values(), ids=HALF)
def test_folders_that_were_half_written(holders: Holders, runtime: Path, files: tuple[str, ...]) -> None:
    keeper, _ = holders("other")
    folder = runtime / "pykrun" / "half"
    folder.mkdir()
    for file in files:
        (folder / file).write_text('{"half')
    assert names() == ["other"]
    assert not folder.exists()
    folder.mkdir()
    for file in files:
        (folder / file).write_text('{"half')
    assert holders("half")[1] == "listed half"
    let_go(keeper)


def test_a_folder_on_its_way_is_left_alone_for_a_minute(holders: Holders, runtime: Path) -> None:
    holders("other")
    young, old = (runtime / "pykrun" / f".new-{age}" for age in ("young", "old"))
    for folder in (young, old):
        folder.mkdir()
    (old / "state.json").write_text("{}")
    past = time.time() - 100
    os.utime(old, (past, past))
    assert names() == ["other"]
    assert young.exists()
    assert not old.exists()
    young.rmdir()


@pytest.mark.parametrize("state", ["", "{", "[]", "null", "[" * 5000, '{"pid": "x"}'])
def test_a_state_that_cannot_be_read(holders: Holders, runtime: Path, state: str) -> None:
    process, _ = holders("web")
    (runtime / "pykrun/web/state.json").write_text(state)
    (one,) = vms.listed()
    assert (one.name, one.pid) == ("web", process.pid)
    (runtime / "pykrun/web/state.json").unlink()
    os.mkfifo(runtime / "pykrun/web/state.json")
    assert names() == ["web"]


def test_something_else_of_that_name(holders: Holders, runtime: Path) -> None:
    holders("other")
    (runtime / "pykrun/web").write_text("mine")
    assert names() == ["other"]
    assert "in the way" in holders("web")[1]
    assert (runtime / "pykrun/web").read_text() == "mine"


def test_a_long_path(holders: Holders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path.joinpath(*["x" * 50] * 6)
    deep.mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    holders("web")
    with vms.connect("web"):
        pass
    assert names() == ["web"]


# -- directories that will not do ------------------------------------------------------------------------------


def refused(runtime: Path, holders: Holders, match: str) -> None:
    """A VM runs unlisted, but not under a name; what lists and finds says why."""
    assert holders()[1] == "unlisted"
    assert re.search(match, holders("web")[1])
    for look in (vms.listed, lambda: vms.connect("web")):
        with pytest.raises(UsageError, match=match):
            look()


def test_a_symbolic_link(runtime: Path, holders: Holders) -> None:
    (runtime / "elsewhere").mkdir(mode=0o700)
    (runtime / "pykrun").symlink_to("elsewhere")
    refused(runtime, holders, "is no directory")
    assert list((runtime / "elsewhere").iterdir()) == []


def test_a_file(runtime: Path, holders: Holders) -> None:
    (runtime / "pykrun").touch()
    refused(runtime, holders, "is no directory")


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_that_is_open_to_others(runtime: Path, holders: Holders, mode: int) -> None:
    (runtime / "pykrun").mkdir()
    (runtime / "pykrun").chmod(mode)
    refused(runtime, holders, "not this user's alone")


@pytest.mark.root
def test_a_directory_of_somebody_else(runtime: Path, holders: Holders) -> None:
    (runtime / "pykrun").mkdir(mode=0o700)
    os.chown(runtime / "pykrun", 65534, 65534)
    refused(runtime, holders, "not this user's alone")


@pytest.mark.root
def test_a_runtime_directory_of_somebody_else_is_not_used(runtime: Path) -> None:
    os.chown(runtime, 65534, 65534)
    assert vms.runtime_path() == "/run/pykrun"


def test_none_at_all(monkeypatch: pytest.MonkeyPatch, runtime: Path) -> None:
    for value in ("", "relative", str(runtime / "missing")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        assert vms.runtime_path() in ("/run/pykrun", f"/tmp/pykrun-vms-{os.geteuid()}")


@pytest.mark.root
def test_an_ordinary_users_is_below_tmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")

    def check() -> None:
        assert vms.runtime_path() == "/tmp/pykrun-vms-65534"

    as_nobody(check)


@pytest.mark.root
def test_a_full_file_system(runtime: Path, holders: Holders) -> None:
    """One inode, the root's: nothing can be made there."""
    from pykrun.host import linux

    linux.mount("none", str(runtime), "tmpfs", 0, "nr_inodes=1,mode=700")
    try:
        assert holders()[1] == "unlisted"
        assert "cannot be listed" in holders("web")[1]
        linux.mount("none", str(runtime), "tmpfs", linux.MS_REMOUNT, "nr_inodes=4")
        assert holders()[1] == "unlisted"
        assert vms.listed() == []
        assert list(runtime.iterdir()) == []
    finally:
        linux.unmount(str(runtime), linux.MNT_DETACH)


@pytest.mark.root
def test_a_read_only_file_system(runtime: Path, holders: Holders) -> None:
    from pykrun.host import linux

    linux.mount("none", str(runtime), "tmpfs", linux.MS_RDONLY, "mode=700")
    try:
        assert holders()[1] == "unlisted"
        assert "Read-only file system" in holders("web")[1]
        assert vms.listed() == []
    finally:
        linux.unmount(str(runtime), linux.MNT_DETACH)


def test_the_state_is_replaced_as_a_whole(runtime: Path) -> None:
    """A reader at any time finds one or the other. (Its lock would be lost to a look in this process: read by hand.)"""
    entry = vms.register("web")
    assert entry is not None
    entry.write({"status": "starting"})
    with open(runtime / "pykrun/web/state.json", "rb") as opened:
        entry.write({"status": "running", "command": ["x" * 1000]})
        assert json.loads(opened.read())["status"] == "starting"
    state = json.loads((runtime / "pykrun/web/state.json").read_bytes())
    assert (state["status"], state["name"], state["pid"], state["version"]) == ("running", "web", os.getpid(), 1)
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.connect(str(runtime / "pykrun/web" / SOCKET))
    entry.close()
    entry.close()
    assert list(runtime.iterdir()) == []
