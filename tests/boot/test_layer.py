"""A writable layer over a root that stays as it is: in the guest's memory, or kept in a folder of the host."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from pykrun import blob
from tests.boot import images
from tests.boot.conftest import NOBODY, become_nobody
from tests.boot.vm import Vm, finish, read_line
from tests.support.command import LAUNCH, Pykrun

CHANGE = """
set -e
echo more >> /marker; echo new > /new; mkdir /d /d/e; rm /old/one; echo x > /old/one; rm -r /gone
mv /new /moved; ln -s moved /link; ln /moved /hard; mkdir /gone; echo in > /gone/in; chmod 600 /moved
rm /bin/df; mv /d /f; head -c 300000 /dev/zero > /large; cat /key
"""
SHOW = "cat /marker /moved /old/one; ls /gone /f /old; ls -l /hard | head -c 10; ls /bin/df; od -An /large | head -n 2"


@pytest.fixture
def tree(tmp_path: Path, busybox: Path) -> Path:
    tree = images.tree(tmp_path / "tree", busybox)
    for name in ("chmod", "mv", "ln", "rmdir", "touch", "stat"):
        (tree / "bin" / name).symlink_to("busybox")
    for name in ("old", "gone"):
        (tree / name).mkdir()
        (tree / name / "one").write_text("one\n")
    return tree


def snapshot(tree: Path) -> list[tuple[str, int, int, int]]:
    """Everything below, in a form that changes with it."""
    found = [(str(path), path.lstat()) for path in tree.rglob("*")]
    return sorted((path, status.st_mode, status.st_ctime_ns, status.st_size) for path, status in found)


def shell(script: str, *options: str | Path) -> list[str]:
    return [*map(str, options), "--", "/bin/sh", "-c", script]


CHANGED = b"from the disk\nmore\nnew\nx\n/f:\ne\n\n/gone:\nin\n\n/old:\none\n-rw-------"


@pytest.mark.root
def test_in_memory(vm: Vm, tree: Path, tmp_path: Path) -> None:
    """Whatever is changed shows, the exit code and the one-shot files arrive, and the host has nothing of it."""
    (tmp_path / "key").write_text("secret\n")
    before = snapshot(tree)
    options = ["--root", tree, "--writable", "memory", "--secret", f"/key={tmp_path / 'key'}"]
    result = vm.run(*shell(f"{CHANGE}\nset +e\n{SHOW}\ncat /key; exit 5", *options))
    assert result.code == 5, result
    assert result.out.startswith(b"secret\n" + CHANGED), result
    assert b"/bin/df" not in result.out
    assert result.err.count(b"\n") == 2, result.err  # ls of what was removed, cat of the secret
    assert snapshot(tree) == before


@pytest.mark.root
@pytest.mark.parametrize("kept", [False, True], ids=["memory", "kept"])
def test_over_what_the_host_has_mounted_there(vm: Vm, tree: Path, tmp_path: Path, kept: bool) -> None:
    """A directory that mounts itself is nothing to overlayfs: `--root / --writable memory` would not boot."""
    for place in ("dev", "old"):
        (tree / place).mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tree / place], check=True)
    try:
        (tree / "old/under").write_text("under\n")
        options = ["--root", tree, "--writable", tmp_path / "layer" if kept else "memory"]
        result = vm.run(*shell("cat /old/under; echo more >> /old/under; cat /old/under; test -c /dev/null", *options))
        assert (result.code, result.out) == (0, b"under\nunder\nmore\n"), result
        assert (tree / "old/under").read_text() == "under\n"
    finally:
        for place in ("dev", "old"):
            subprocess.run(["umount", tree / place], check=True)


@pytest.mark.root
def test_kept(vm_once: Vm, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    before = snapshot(tree)
    layer = tmp_path / "layer"
    options = ["--root", tree, "--writable", layer]
    first = vm_once.run(*shell(CHANGE, *options, "--secret", f"/key={tmp_path / 'key'}"))
    assert (first.code, first.out, first.err) == (0, b"secret\n", b"")
    second = vm_once.run(*shell(f"{SHOW}; rm -r /f /moved; exit 6", *options))
    assert second.code == 6
    assert second.out.startswith(CHANGED), second
    assert snapshot(tree) == before
    assert (layer / "layer/upper/hard").read_text() == "new\n"
    assert not (layer / "layer/upper/f").exists()
    assert layer.stat().st_mode & 0o777 == 0o700


@pytest.mark.root
def test_volumes_and_files_over_it(vm_once: Vm, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    options = ["--root", tree, "--writable", "memory", "--volume", f"{tmp_path / 'data'}:/srv/data"]
    script = "cat /virtual; echo more >> /virtual; cat /virtual; echo out > /srv/data/file; touch /srv/x /dev/shm/y"
    result = vm_once.run(*shell(script, *options, "--text", "/virtual=virtual"))
    assert (result.code, result.out, result.err) == (0, b"virtual" + b"virtualmore\n", b"")
    assert (tmp_path / "data/file").read_text() == "out\n"


def test_over_nothing_but_virtual_files(vm_once: Vm, busybox: Path) -> None:
    script = "echo x > /new; echo y > /bin/new; echo z >> /virtual; cat /new /bin/new /virtual"
    files = ["--file", f"/bin/sh={busybox}", "--file", f"/bin/cat={busybox}", "--text", "/virtual=v\n"]
    result = vm_once.run(*shell(script, "--writable", "memory", *files))
    assert (result.code, result.out, result.err) == (0, b"x\ny\nv\nz\n", b"")


@pytest.mark.root
def test_one_vm_at_a_time(vm_once: Vm, tree: Path, tmp_path: Path) -> None:
    options = ["--root", tree, "--writable", tmp_path / "layer"]
    process = vm_once.start(*shell("echo there; sleep 1000", *options))
    assert read_line(process) == b"there\n"
    refused = vm_once.run(*shell("exit", *options))
    assert (refused.code, b"another VM is using it" in refused.err) == (125, True)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert vm_once.run(*shell("exit 3", *options)).code == 3


@pytest.mark.root
def test_what_it_does_not_fit(vm_once: Vm, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    layer = tmp_path / "layer"
    assert vm_once.run(*shell("exit 3", "--root", tree, "--writable", layer)).code == 3
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for options, reason in (
        (["--root", tmp_path / "other", "--writable", layer], b"is a layer over the directory"),
        (["--writable", layer], b"is a layer over the directory"),
        (["--root", tree, "--writable", tmp_path / "full"], b"is not empty, and no layer"),
        (["--root", tree, "--writable", tmp_path / "full/file"], b"has to be a directory"),
        (["--root", tree, "--writable", tmp_path / "no/where"], b"No such file"),
        (["--root-disk", "vda", "--writable", "memory"], b"--writable is for a shared root"),
        (["--writable", ""], b"wants a directory"),
        (["--writable", "memory", "--text", "/init.krun=x"], b"made by pykrun's own init"),
    ):
        result = vm_once.run(*shell("exit", *options))
        assert (result.code, reason in result.err) == (125, True), result


@pytest.mark.root
def test_a_full_memory(vm_once: Vm, tree: Path) -> None:
    """The guest's memory bounds the layer; the workload sees a full disk, and the VM lives on."""
    script = "dd if=/dev/zero of=/fill bs=1M; rm /fill; echo x > /y && cat /y"
    result = vm_once.run(*shell(script, "--root", tree, "--writable", "memory", "--memory", "128"))
    assert (result.code, result.out) == (0, b"x\n")
    assert b"No space left on device" in result.err


@pytest.mark.root
@pytest.mark.uml
def test_an_ordinary_user(tree: Path, tool: Path, run_pykrun: Pykrun, python_for_all: str) -> None:
    """Modes that would keep the server's user out are widened; what is kept is his."""
    home = run_pykrun.folder / "nobody"
    shutil.copytree(tree, home / "tree", symlinks=True)
    for name in ("tmp", "cache"):
        (home / name).mkdir()
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    environment = {
        "PATH": os.defpath,
        "HOME": str(home),
        "TMPDIR": str(home / "tmp"),
        "XDG_CACHE_HOME": str(home / "cache"),
        blob.OVERRIDE: str(shutil.copy(blob.find().path, home / "init")),
    }
    script = "echo x >> /marker; rm -r /gone; mkdir /shut; chmod 0 /shut; echo y > /shut/in; chmod 0 /shut/in"
    options = ["run", "--engine", "uml", "--root", str(home / "tree"), "--writable", str(home / "layer")]
    for expected in (b"y\n", b"y\n"):
        process = subprocess.Popen(
            [
                python_for_all,
                "-I",
                "-S",
                "-c",
                LAUNCH,
                *shell(f"{script}; cat /shut/in; rm -r /shut; mkdir /gone", *options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd="/",
            preexec_fn=become_nobody,
            start_new_session=True,
        )
        result = finish(process)
        assert (result.code, result.out, result.err) == (0, expected, b"")
    assert (home / "layer/layer/upper/marker").read_text() == "from the disk\nx\nx\n"
    assert {path.lstat().st_uid for path in (home / "layer").rglob("*")} == {NOBODY}
