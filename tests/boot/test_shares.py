"""Directories of the host as the guest's root and as volumes, on both engines, through their own sandboxed servers."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from tests.boot import images
from tests.boot.vm import Vm, descendants, finish, read_line

pytestmark = pytest.mark.root


@pytest.fixture
def tree(tmp_path: Path, busybox: Path) -> Path:
    """A root with a shell, a marker, and a link on the way to a folder."""
    tree = images.tree(tmp_path / "tree", busybox)
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "lib").symlink_to("usr/lib")
    (tree / "usr/lib/own").write_text("own\n")
    return tree


def shell(script: str, *options: str | Path) -> list[str]:
    return [*map(str, options), "--", "/bin/sh", "-c", script]


def test_the_directory_is_the_root(vm: Vm, tree: Path) -> None:
    script = "cat /marker; echo written > /new; mkdir -p /deep/er; ls -d /proc/self /sys/class; exit 42"
    result = vm.run(*shell(script, "--root", tree))
    assert (result.code, result.err) == (42, b"")
    assert result.out == b"from the disk\n/proc/self\n/sys/class\n"
    assert (tree / "new").read_text() == "written\n"
    assert (tree / "deep/er").is_dir()
    assert not (tree / "dev").exists()  # the kernel's folders are virtual


def test_nothing_of_it_changes_when_it_is_read_only(vm: Vm, tree: Path) -> None:
    before = sorted(os.walk(tree))
    script = "cat /marker; echo x > /new; rm /marker; echo x >> /marker; mkdir /deep; ls /marker"
    result = vm.run(*shell(script, "--root", tree, "--read-only"))
    assert (result.code, result.out) == (0, b"from the disk\n/marker\n")
    assert result.err.count(b"Read-only file system") == 4
    assert sorted(os.walk(tree)) == before


def test_the_hosts_own_root(vm: Vm) -> None:
    """The everyday use: this machine's programs, without a way to change anything."""
    result = vm.run("--root", "/", "--read-only", "--", "/bin/sh", "-c", "uname -r; cat /etc/hostname; touch /x")
    lines = result.out.decode().splitlines()
    assert lines[0] != os.uname().release
    assert lines[1] == Path("/etc/hostname").read_text().strip()
    assert result.code != 0
    assert not Path("/x").exists()


def test_ids_and_modes_arrive_on_the_host(vm_once: Vm, tree: Path) -> None:
    result = vm_once.run(
        *shell(
            "umask 027; echo x > /world/new; mkdir /world/dir", "--root", tree, "--dir", "/unused", "-u", "1234:5678"
        )
    )
    assert result.code != 0  # nobody gave that user a place
    (tree / "world").mkdir(mode=0o777)
    (tree / "world").chmod(0o777)
    assert vm_once.run(*shell("umask 027; echo x > /world/new", "--root", tree, "-u", "1234:5678")).code == 0
    found = (tree / "world/new").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 5678, 0o640)


def test_virtual_files_lie_over_the_directory(vm: Vm, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    options = [
        "--root",
        tree,
        "--text",
        "/marker=over",
        "--text",
        "/lib/more=more",
        "--secret",
        f"/key={tmp_path / 'key'}",
    ]
    script = "cat /marker /lib/own /lib/more; ls /lib; cat /key; cat /key; readlink /lib || ls -ld /lib"
    result = vm.run(*shell(script, *options))
    assert result.out.startswith(b"over" + b"own\n" + b"more" + b"more\nown\nsecret\n"), result
    assert b"/key" in result.err
    assert (tree / "marker").read_text() == "from the disk\n"
    assert not (tree / "key").exists()
    assert not (tree / "usr/lib/more").exists()


def test_volumes(vm: Vm, tree: Path, tmp_path: Path) -> None:
    for name in ("data", "fixed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(f"{name}\n")
    options = ["--root", tree, "--read-only", "--volume", f"{tmp_path / 'data'}:/srv/data"]
    options += ["--volume", f"{tmp_path / 'fixed'}:/fixed:ro"]
    script = "cat /srv/data/file /fixed/file; echo new > /srv/data/new; echo new > /fixed/new; exit 5"
    result = vm.run(*shell(script, *options))
    assert (result.code, result.out) == (5, b"data\nfixed\n")
    assert result.err.count(b"Read-only file system") == 1
    assert (tmp_path / "data/new").read_text() == "new\n"
    assert not (tmp_path / "fixed/new").exists()


def test_a_volume_without_a_root(vm_once: Vm, tmp_path: Path, busybox: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("data\n")
    result = vm_once.run(*shell("cat /data/file", "--file", f"/bin/sh={busybox}", "--file", f"/bin/cat={busybox}",
                                "--volume", f"{tmp_path / 'data'}:/data"))  # fmt: skip
    assert (result.code, result.out, result.err) == (0, b"data\n", b"")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--root", "/nowhere/at/all"], b"--root '/nowhere/at/all': No such file or directory"),
        (["--root", "/etc/passwd"], b"--root '/etc/passwd': Not a directory"),
        (["--read-only"], b"--read-only is for --root DIR"),
        (["--volume", "/tmp"], b"--volume wants HOST:GUEST"),
        (["--volume", "/tmp:relative"], b"--volume wants HOST:GUEST"),
        (["--volume", "/nowhere:/x"], b"--volume '/nowhere': No such file or directory"),
        (["--volume", "/tmp:/a/../b"], b"cannot be a path in the guest"),
    ],
)
def test_what_cannot_be_shared(vm_once: Vm, options: list[str], reason: bytes) -> None:
    result = vm_once.run(*options, "--", "/tool", "exit", "0")
    assert result.code == 125
    assert reason in result.err, result
    assert b"Traceback" not in result.err


def test_the_code_of_a_workload_that_is_pid_1(vm_once: Vm, tree: Path) -> None:
    result = vm_once.run("--root", str(tree), "--kernel-arg", "KRUN_INIT_PID1=1", "--", "/tool", "exit", "9")
    assert result.code == 9


def test_the_end_of_the_server_is_the_end_of_the_vm(vm: Vm, tree: Path) -> None:
    process = vm.start(*shell("echo ready; sleep 100", "--root", tree))
    assert read_line(process) == b"ready\n"
    servers = [entry for entry in descendants(process.pid) if entry.name.startswith("pykrun root")]
    assert servers
    os.kill(servers[0].pid, signal.SIGKILL)
    result = finish(process)
    assert result.code == 125
    assert b"its server was ended by SIGKILL" in result.err, result


def test_nothing_is_left_of_a_killed_supervisor(vm: Vm, tree: Path) -> None:
    process = vm.start(*shell("echo ready; sleep 100", "--root", tree, "--volume", f"{tree}:/again"))
    assert read_line(process) == b"ready\n"
    process.kill()
    finish(process)  # the check of every test looks for what is left


def test_a_link_to_the_host_leads_nowhere(vm_once: Vm, tree: Path) -> None:
    """The guest resolves links in its own root; the server never does."""
    (tree / "etc").mkdir()
    (tree / "etc/shadow").write_text("the guest's\n")
    (tree / "out").symlink_to("/etc/shadow")
    (tree / "up").symlink_to("../../../../../../etc/shadow")
    result = vm_once.run(*shell("cat /out /up /../../etc/shadow", "--root", tree))
    assert (result.code, result.out) == (0, b"the guest's\n" * 3)


def test_what_the_host_changes_is_seen(vm_once: Vm, tree: Path) -> None:
    """With --cache auto after a second at the latest."""
    script = "cat /marker; read line; sleep 1.2; cat /marker; ls /appeared"
    process = vm_once.start(*shell(script, "--root", tree), stdin=subprocess.PIPE)
    assert read_line(process) == b"from the disk\n"
    (tree / "marker").write_text("changed\n")
    (tree / "appeared").touch()
    result = finish(process, b"go\n")
    assert (result.code, result.out) == (0, b"changed\n/appeared\n")
