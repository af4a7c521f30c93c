"""Boot into a disk: the guest's root is a real file system on a block device, on both engines."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from pykrun import blob
from tests.boot import images
from tests.boot.vm import Vm, engine_process, finish, read_line
from tests.net.conftest import passt  # noqa: F401 - a fixture


@pytest.fixture
def content(tmp_path: Path, busybox: Path) -> Path:
    return images.tree(tmp_path / "content", busybox)


@pytest.fixture
def disk(tmp_path: Path, content: Path) -> Path:
    """An ext4 image that holds only a shell and a marker."""
    return images.make(tmp_path / "disk.img", "ext4", content)


def shell(script: str, *options: str | Path) -> list[str]:
    return [*map(str, options), "--", "/bin/sh", "-c", script]


def test_the_disk_is_the_root(vm: Vm, disk: Path) -> None:
    script = (
        "cat /marker; while read device where kind rest; do [ $where = / ] && echo $device $kind; done < /proc/mounts;"
        "head -c 2 /dev/zero | od -An -tx1; ls -d /sys/class; exit 42"
    )
    result = vm.run(*shell(script, "--disk", disk, "--root-disk", "/dev/vda"))
    assert result.out.decode().split() == ["from", "the", "disk", "/dev/vda", "ext4", "00", "00", "/sys/class"]
    assert (result.code, result.err) == (42, b"")


@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_a_partition_is_the_root(vm_once: Vm, disk: Path, tmp_path: Path, label: str) -> None:
    whole = images.partitioned(tmp_path / "whole.img", disk, label)
    result = vm_once.run(*shell("cat /marker; exit 3", "--disk", whole, "--root-disk", "vda2"))
    assert (result.code, result.out, result.err) == (3, b"from the disk\n", b"")


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_the_type_is_found_by_trying(vm: Vm, content: Path, tmp_path: Path, kind: str) -> None:
    """The host reads the superblock, so that the guest has the module; which one it is the guest finds out itself."""
    image = images.make(tmp_path / "image", kind, content)
    result = vm.run(*shell("cat /marker /proc/mounts", "--disk", image, "--root-disk", "vda"))
    assert result.out.startswith(b"from the disk\n"), result
    roots = [line.split()[2] for line in result.out.decode().splitlines()[1:] if line.split()[1] == "/"]
    assert roots[-1] == kind


def test_the_second_disk_may_be_the_root(vm_once: Vm, disk: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.write_bytes(bytes(1 << 20))
    result = vm_once.run(*shell("cat /marker", "--disk", first, "--disk", disk, "--root-disk", "vdb"))
    assert (result.code, result.out, result.err) == (0, b"from the disk\n", b"")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--root-disk", "vda", "--root-fstype", "xfs"], b"cannot mount block root /dev/vda as xfs"),
        (["--root-disk", "vda", "--root-fstype", "klingon"], b"this kernel has no file system klingon"),
        (["--root-disk", "vda", "--root-options", "bogus=1"], b"with options 'bogus=1'"),
        (["--root-disk", "vda", "--root-fstype", "ext4", "--root-options", "bogus=1"], b"options 'bogus=1'"),
        (["--root-disk", "vdb"], b"vdb"),
        (["--root-disk", "vda1"], b"has no partition 1"),
    ],
)
def test_what_cannot_be_the_root(vm_once: Vm, disk: Path, options: list[str], reason: bytes) -> None:
    result = vm_once.run(*shell("exit 0", "--disk", disk, *options))
    assert result.code == 125
    assert reason in result.err, result


def test_a_damaged_disk(vm: Vm, disk: Path) -> None:
    with open(disk, "r+b") as stream:
        stream.seek(2048)  # the group descriptors
        stream.write(os.urandom(1024))
    result = vm.run(*shell("exit 0", "--disk", disk, "--root-disk", "vda"))
    assert result.code == 125
    assert b"block root /dev/vda" in result.err, result


def test_no_file_system_at_all(vm_once: Vm, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(1 << 20))
    result = vm_once.run(*shell("exit 0", "--disk", tmp_path / "noise", "--root-disk", "vda"))
    assert result.code == 125
    assert b"no file system that this kernel knows" in result.err, result


def test_options_and_flags(vm_once: Vm, disk: Path) -> None:
    script = "while read device where kind flags rest; do [ $where = / ] && echo $flags; done < /proc/mounts"
    options = ("--disk", disk, "--root-disk", "vda", "--root-options", "noatime,nosuid,data=journal")
    result = vm_once.run(*shell(script, *options))
    flags = result.out.decode().split()[-1].split(",")
    assert {"rw", "nosuid", "noatime", "data=journal"} <= set(flags), result


def test_a_read_only_disk(vm: Vm, content: Path, tmp_path: Path) -> None:
    """The image keeps every bit, and the guest is told so instead of failing to boot."""
    for name in ("dev", "proc", "sys"):
        (content / name).mkdir()
    (content / "tool").touch()  # a place for the file that every boot test brings along
    image = images.make(tmp_path / "image", "ext4", content)
    before = image.read_bytes()
    result = vm.run(*shell("cat /marker; echo x > /new", "--disk", f"{image}:ro", "--root-disk", "vda"))
    assert result.out == b"from the disk\n", result
    assert result.code != 0
    assert b"Read-only file system" in result.err
    assert b"guest:" not in result.err  # it was asked for
    assert image.read_bytes() == before


def test_what_was_written_is_there_in_the_next_run(vm: Vm, disk: Path) -> None:
    options = ("--disk", disk, "--root-disk", "vda")
    assert vm.run(*shell("echo kept > /kept", *options)).code == 0
    state = subprocess.run(["dumpe2fs", "-h", str(disk)], capture_output=True, text=True, timeout=60).stdout
    assert "needs_recovery" not in state  # the guest left it clean
    result = vm.run(*shell("cat /kept", *options))
    assert (result.code, result.out) == (0, b"kept\n")


def test_what_was_synced_survives_the_engine(vm: Vm, disk: Path) -> None:
    """fsync has returned, the engine is killed: the data is on the disk."""
    options = ("--disk", disk, "--root-disk", "vda")
    process = vm.start(*shell("dd if=/marker of=/kept conv=fsync 2> /dev/null; echo ready; sleep 100", *options))
    assert read_line(process) == b"ready\n"
    os.kill(engine_process(process, vm.engine).pid, signal.SIGKILL)
    assert finish(process).code == 125
    result = vm.run(*shell("cat /kept", *options))
    assert (result.code, result.out) == (0, b"from the disk\n")


def test_a_read_only_disk_has_no_place_for_more_files(vm_once: Vm, content: Path, tmp_path: Path) -> None:
    for name in ("dev", "proc", "sys"):
        (content / name).mkdir()
    image = images.make(tmp_path / "image", "ext4", content)
    result = vm_once.run(*shell("exit 0", "--disk", f"{image}:ro", "--root-disk", "vda", "--text", "/etc/motd=x"))
    assert result.code == 125
    assert b"Read-only file system" in result.err


def test_a_disk_without_places_for_the_kernels_folders(vm_once: Vm, disk: Path) -> None:
    result = vm_once.run("--disk", f"{disk}:ro", "--root-disk", "vda", "--", "/bin/sh", "-c", "exit 0")
    assert result.code == 125
    assert b"make empty /dev, /proc and /sys there" in result.err, result


def test_swap_on_the_disk_does_not_leave_it_dirty(vm_once: Vm, disk: Path) -> None:
    script = (
        "dd if=/dev/zero of=/swap bs=1M count=4 2> /dev/null; busybox mkswap /swap > /dev/null; busybox swapon /swap"
    )
    result = vm_once.run(*shell(script, "--disk", disk, "--root-disk", "vda"))
    assert (result.code, result.err) == (0, b""), result
    state = subprocess.run(["dumpe2fs", "-h", str(disk)], capture_output=True, text=True, timeout=60).stdout
    assert "needs_recovery" not in state


@pytest.mark.usefixtures("passt")
@pytest.mark.parametrize("resolver", ["link", "none", "file"])
def test_a_network_does_not_touch_a_disk_that_has_no_place_for_names(
    vm_once: Vm, content: Path, tmp_path: Path, resolver: str
) -> None:
    """A dangling link, as systemd-resolved's; nothing at all; a file, on a disk that cannot be written."""
    for name in ("dev", "proc", "sys", "etc"):
        (content / name).mkdir()
    (content / "tool").touch()
    if resolver == "link":
        (content / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    elif resolver == "file":
        (content / "etc/resolv.conf").write_text("nameserver 203.0.113.9\n")
    image = images.make(tmp_path / "image", "ext4", content)
    before = image.read_bytes()
    options = ("--disk", f"{image}:ro", "--root-disk", "vda", "--net", "user")
    result = vm_once.run(*shell("cat /marker; exit 3", *options))
    assert (result.code, result.out) == (3, b"from the disk\n"), result
    assert image.read_bytes() == before


def test_files_of_the_host_are_shown_over_the_disk(vm_once: Vm, disk: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    options = ("--disk", disk, "--root-disk", "vda", "--text", "/etc/motd=hello", "--text", "/marker=over")
    more = ("--dir", "/srv/made", "--secret", f"/key={tmp_path / 'key'}")
    script = "cat /etc/motd; cat /marker; cat /key; cat /key; ls /srv"
    result = vm_once.run(*shell(script, *options, *more))
    assert result.out == b"helloover" + b"secret\n" + b"made\n", result
    assert b"/key" in result.err  # the second time it was gone
    assert images.content_of(disk, "/etc/motd") == b""  # a place to show it, no copy


def test_a_root_disk_needs_a_disk(vm_once: Vm) -> None:
    result = vm_once.run(*shell("exit 0", "--root-disk", "vda"))
    assert result.code == 125
    assert b"--disk" in result.err


def test_the_code_arrives_in_pid1_mode(vm_once: Vm, disk: Path, tool: Path) -> None:
    subprocess.run(
        ["debugfs", "-w", "-R", f"write {tool} tool", str(disk)], check=True, timeout=60, capture_output=True
    )
    subprocess.run(
        ["debugfs", "-w", "-R", "set_inode_field tool mode 0100755", str(disk)],
        check=True,
        timeout=60,
        capture_output=True,
    )
    options = ["--disk", str(disk), "--root-disk", "vda", "--kernel-arg", "KRUN_INIT_PID1=1"]
    assert vm_once.run(*options, "--", "/tool", "exit", "5").code == 5


def test_a_confidential_guest(vm: Vm, content: Path, tmp_path: Path) -> None:
    """Its blob takes /dev/vda as the root before it reads anything of the host's, and what runs is on the disk."""
    (content / "tmp").mkdir()
    config = {"args": ["/bin/sh", "-c", "cat /marker; ls -d /.krun_start.json; exit 6"], "env": ["PATH=/bin"]}
    (content / ".krun_config.json").write_text(json.dumps(config))
    image = images.make(tmp_path / "image", "ext4", content)
    init = blob.build(with_parts=["tdx"]).path
    host = ("--kernel-arg", "KRUN_BLOCK_ROOT_DEVICE=/dev/vdb")  # which has no say in what the root is
    with_disk = vm.options("--disk", str(image), "--dir", "/tmp/vda", *host, "--", "/host/says/otherwise")
    process = vm.pykrun.start(
        with_disk,
        env={blob.OVERRIDE: str(init)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    result = finish(process)
    assert (result.code, result.out) == (6, b"from the disk\n"), result
    assert b"/.krun_start.json" in result.err  # which is not there


def test_the_tools_are_there() -> None:
    for program in ("mke2fs", "mkfs.xfs", "mkfs.btrfs", "sfdisk", "debugfs", "dumpe2fs"):
        assert shutil.which(program), f"{program} is missing: ./setup test"
