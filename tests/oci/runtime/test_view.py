"""The tree as the root of a mount namespace, while somebody changes what is in it."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from pykrun.host import linux
from pykrun.oci.view import show
from tests.oci.runtime.runtime import Runtime


def in_a_process(do: Callable[[], object]) -> str:
    """What it returns, or the error that it raises."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(writing, str(do()).encode())
        except OSError as error:
            os.write(writing, f"{type(error).__name__}".encode())
        except BaseException:
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("tree/proc", "stage"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "tree" / "inside").touch()
    return tmp_path / "tree"


def test_we_keep_our_root_and_others_find_the_tree(tree: Path) -> None:
    def joined() -> object:
        show(str(tree), str(tree.parent / "stage"), ["one", "two"])
        ours = os.listdir("/")
        pid = os.getpid()

        def join() -> object:
            linux.system_call("setns", os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY), linux.CLONE_NEWNS)
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            return sorted(os.listdir("/")), sorted(os.listdir("/proc")) == sorted((str(pid), "stat")), words

        return sorted(ours), in_a_process(join)

    wanted = (sorted(os.listdir("/")), str((["inside", "proc"], True, b"one\0two\0")))
    assert in_a_process(joined) == str(wanted)


@pytest.mark.parametrize("target", ["inside", ".", "/", "../../../../..", "nothing"])
def test_a_link_in_the_place_of_proc_leads_nowhere(tree: Path, target: str) -> None:
    (tree / "proc").rmdir()
    (tree / "proc").symlink_to(target)
    assert in_a_process(lambda: show(str(tree), str(tree.parent / "stage"), ["x"])).endswith("Error")
    assert sorted(os.listdir(tree)) == ["inside", "proc"]


def test_what_is_unmounted_outside_is_not_held(tree: Path) -> None:
    outside = tree.parent / "outside"
    outside.mkdir()

    def look() -> object:
        linux.unshare(linux.CLONE_NEWNS)
        for kind in (linux.MS_PRIVATE, _MS_SHARED):
            linux.mount("none", "/", None, linux.MS_REC | kind)
        linux.mount("tmpfs", str(outside), "tmpfs", 0)
        reading, writing = os.pipe()
        if (others := os.fork()) == 0:  # they stay in the namespace that we leave
            os.read(reading, 1)
            linux.system_call("umount2", os.fsencode(outside), 0)
            os._exit(0)
        show(str(tree), str(tree.parent / "stage"), ["x"])
        before = os.path.ismount(outside)
        os.write(writing, b"+")
        os.waitpid(others, 0)
        return before, os.path.ismount(outside)

    assert in_a_process(look) == "(True, False)"


_MS_SHARED = 1 << 20


def test_links_that_come_and_go(tree: Path) -> None:
    """Whatever the guest does in between, this process keeps the host's root, and nothing is made anywhere else."""
    victim = tree.parent / "victim"
    victim.mkdir()
    (tree / "swap").symlink_to(f"swap{victim}")
    names = [os.fsencode(tree / name) for name in ("proc", "swap")]
    if (swapping := os.fork()) == 0:
        try:
            while True:
                linux.system_call("renameat2", linux.AT_FDCWD, names[0], linux.AT_FDCWD, names[1], 2)
        finally:
            os._exit(1)

    def look() -> str:
        try:
            show(str(tree), str(tree.parent / "stage"), ["x"])
        except OSError:
            pass
        return str(sorted(os.listdir("/")))

    try:
        roots = {in_a_process(look) for _ in range(100)}
    finally:
        os.kill(swapping, signal.SIGKILL)
        os.waitpid(swapping, 0)
    assert roots == {str(sorted(os.listdir("/")))}
    assert list(victim.iterdir()) == []


def test_proc_of_the_tree_is_removed(runtime: Runtime) -> None:
    """With the directory the kernel takes away what is mounted there elsewhere: that is our root, which we keep."""
    runtime.create("one", runtime.bundle(script="exec sleep 600"))
    runtime.must("start", "one")
    (runtime.bundles / "one" / "rootfs" / "proc").rmdir()
    assert runtime.must("exec", "one", "echo", "here") == "here\n"
    runtime.must("pause", "one")
    assert runtime.status("one") == "paused"
    runtime.must("resume", "one")
    runtime.must("kill", "one", "TERM")
    runtime.await_status("one", "stopped")
    runtime.must("delete", "one")
