"""The root of a container and what is mounted in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.oci.runtime.runtime import Runtime


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}


def tmpfs(destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


@pytest.fixture
def files(runtime: Runtime) -> Path:
    """A folder of the host with something in it."""
    folder = runtime.bundles / "files"
    (folder / "dir").mkdir(parents=True)
    (folder / "file").write_text("content\n")
    (folder / "dir/inner").write_text("inner\n")
    return folder


def test_directories_and_single_files(runtime: Runtime, files: Path) -> None:
    mounts = [
        bind(files / "dir", "/vol"),
        bind(files / "dir", "/ro", "ro"),
        bind(files / "file", "/etc/one"),
        bind(files / "file", "/deep/er/one", "ro"),
    ]
    script = """cat /vol/inner /ro/inner /etc/one /deep/er/one; echo new > /vol/new; echo more >> /etc/one
        touch /ro/x; echo x > /deep/er/one; rm /etc/one; ls /ro"""
    code, output, errors = runtime.output(script, mounts=mounts)
    assert code == 0
    assert output == "inner\ninner\ncontent\ncontent\ninner\nnew\n"
    assert errors.count("Read-only file system") == 2
    assert "rm: can't remove '/etc/one'" in errors
    assert (files / "dir/new").read_text() == "new\n"
    assert (files / "file").read_text() == "content\nmore\n"


def test_a_read_only_root(each: Runtime) -> None:
    """Mount points that it lacks are made all the same, and a volume in it can be written."""
    folder = each.bundles / "files"
    folder.mkdir()
    mounts = [bind(folder, "/vol"), tmpfs("/var/tmp")]
    script = "touch /x; mkdir /y; touch /vol/made /var/tmp/z /dev/shm/s; echo $?"
    code, output, errors = each.output(script, root={"readonly": True}, mounts=mounts)
    assert (code, output) == (0, "0\n")
    assert errors.count("Read-only file system") == 2
    assert (folder / "made").exists()
    assert not (each.bundles / "one" / "rootfs/x").exists()


def test_tmpfs(runtime: Runtime) -> None:
    run = runtime.bundle() / "rootfs/run"
    (run / "sub").mkdir(parents=True)
    run.chmod(0o711)
    (run / "sub/file").write_text("kept\n")
    (run / "link").symlink_to("sub/file")
    os.chown(run / "sub/file", 5, 6)
    mounts = [
        tmpfs("/run", "nosuid", "nodev", "tmpcopyup"),
        tmpfs("/small", "size=64k", "mode=1777", "ro"),
        tmpfs("/plain"),
    ]
    script = """grep -E ' /(run|small|plain) ' /proc/mounts; stat -c '%a %u %g' /run /run/sub/file; cat /run/link
        touch /small/x || echo not; touch /run/new"""
    code, output, _ = runtime.output(script, mounts=mounts)
    lines = output.splitlines()
    assert code == 0
    assert lines[0].startswith("tmpfs /run tmpfs rw,nosuid,nodev,relatime")
    assert lines[1].startswith("tmpfs /small tmpfs ro,relatime")
    assert "size=64k" in lines[1]
    assert lines[3:] == ["711 0 0", "644 5 6", "kept", "not"]
    assert sorted(os.listdir(run)) == ["link", "sub"]


def test_tmpfs_too_small_for_what_is_copied(runtime: Runtime) -> None:
    """A part of a file would look like all of it."""
    run = runtime.bundle() / "rootfs/run"
    run.mkdir()
    (run / "file").write_bytes(bytes(60_000))
    code, _, errors = runtime.output("wc -c /run/file", mounts=[tmpfs("/run", "tmpcopyup", "size=32k")])
    assert code != 0
    assert "cannot mount tmpfs on /run: No space left on device" in errors


def test_binds_below_what_the_guest_mounts(runtime: Runtime, files: Path) -> None:
    """In the order of the list: /run is the guest's memory, /dev its kernel's."""
    mounts = [
        tmpfs("/run"),
        bind(files / "file", "/run/.containerenv"),
        bind(files / "dir", "/run/secrets/of"),
        bind(files / "file", "/dev/termination-log"),
    ]
    script = """cat /run/.containerenv /run/secrets/of/inner; echo end > /dev/termination-log; touch /run/mine
        ls /run /dev | grep -c krun"""
    code, output, _ = runtime.output(script, mounts=mounts)
    assert (code, output) == (1, "content\ninner\n0\n")
    assert (files / "file").read_text() == "end\n"


def test_shared_memory(runtime: Runtime) -> None:
    for mount in (tmpfs("/dev/shm", "nosuid", "size=3m"), bind(Path("/dev/shm"), "/dev/shm")):
        status = os.statvfs("/dev/shm")
        size = 3 << 20 if mount["type"] == "tmpfs" else status.f_blocks * status.f_frsize
        code, output, _ = runtime.output("df -k /dev/shm | tail -1; touch /dev/shm/x", mounts=[mount])
        assert code == 0
        assert int(output.split()[1]) == size >> 10
    assert not os.path.exists("/dev/shm/x")


def test_links_in_the_root_lead_nowhere_else(runtime: Runtime, files: Path) -> None:
    rootfs = runtime.bundle() / "rootfs"
    outside = runtime.bundles / "outside"
    outside.mkdir()
    (rootfs / "absolute").symlink_to(outside)
    (rootfs / "up").symlink_to("../../../../.." + str(outside))
    (rootfs / "cwd").symlink_to(outside)
    mounts = [bind(files / "file", "/absolute/one"), bind(files / "dir", "/up/two")]
    code, output, _ = runtime.output("cat /absolute/one /up/two/inner; pwd", mounts=mounts, process={"cwd": "/cwd/in"})
    assert (code, output) == (0, f"content\ninner\n{outside}/in\n")
    assert not os.listdir(outside)


def test_the_same_folder_twice(runtime: Runtime, files: Path) -> None:
    mounts = [bind(files, "/a"), bind(files, "/b"), bind(files / "dir", "/a/dir", "ro")]
    code, output, errors = runtime.output("echo x > /b/dir/x; cat /a/dir/x; touch /a/dir/y; ls /a /b", mounts=mounts)
    assert (code, output.split()) == (0, ["x", "/a:", "dir", "file", "/b:", "dir", "file"])
    assert "Read-only file system" in errors


def test_changes_reach_the_bundle(runtime: Runtime) -> None:
    assert runtime.output("echo hi > /made; ln -s made /link; mkdir -p /a/b")[0] == 0
    rootfs = runtime.bundles / "one" / "rootfs"
    assert (rootfs / "link").read_text() == "hi\n"
    assert not (rootfs / "init.krun").exists()
    assert not list(rootfs.glob(".krun*"))


def test_what_others_see_in_its_namespace(runtime: Runtime, files: Path) -> None:
    """Who joins the mount namespace of the pid finds the container's root, as `podman cp` wants it."""
    import subprocess

    runtime.create("one", runtime.bundle(script="exec sleep 600", mounts=[bind(files, "/vol")]))
    runtime.must("start", "one")
    pid = runtime.state("one")["pid"]
    listed = subprocess.run(
        ["nsenter", "-t", str(pid), "-m", "/bin/busybox", "ls", "/", "/vol"], stdout=subprocess.PIPE, check=True
    )
    assert b"vol" in listed.stdout
    assert b"inner" not in listed.stdout
    assert b"file" in listed.stdout
    assert b"home" not in listed.stdout
