"""Block roots: a real ext4, on a loop device, becomes the root of init as PID 1 of namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guest.machine import BUSYBOX, EXIT, HELLO, Machine

pytestmark = pytest.mark.root

Attach = Callable[..., str]


def make_image(target: Path, kind: str = "ext4", *, megabytes: int = 16) -> Path:
    """A file system that holds only a shell and a marker."""
    tree = target.with_suffix(".tree")
    (tree / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, tree / "bin/sh")
    (tree / "marker").write_text("from the disk\n")
    with open(target, "wb") as stream:
        stream.truncate(megabytes << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", kind, "-d", str(tree), str(target)], check=True, timeout=60)
    return target


@pytest.fixture
def attach(tmp_path: Path) -> Iterator[Attach]:
    """`attach(image, read_only=False)` gives the loop device of an image, for the time of the test."""
    devices = []

    def attach(image: Path, *, read_only: bool = False) -> str:
        flags = ["--read-only"] if read_only else []
        subprocess.run(["losetup", "--find", *flags, str(image)], check=True, timeout=20)
        listed = subprocess.run(["losetup", "--associated", str(image)], capture_output=True, text=True, timeout=20)
        device = listed.stdout.partition(":")[0]
        assert device, "no loop device"
        devices.append(device)
        return device

    yield attach
    for device in devices:
        subprocess.run(["losetup", "--detach", device], check=True, timeout=20)


def boot(machine: Machine, script: str, **root: object) -> Machine:
    assert machine.start is not None
    machine.start["root"] = root
    return machine.shell(script).run()


def test_the_device_is_the_root(machine: Machine, attach: Attach, tmp_path: Path) -> None:
    device = attach(make_image(tmp_path / "disk"))
    boot(
        machine,
        "read line < /marker; echo $line; while read a b c d; do echo $b $c; done < /proc/mounts; exit 7",
        device=device,
    )
    assert machine.exit == (7, 0, ""), machine.console
    lines = machine.stdout.decode().splitlines()
    assert lines[0] == "from the disk"
    assert lines[1:4] == ["/ ext4", "/dev devtmpfs", "/proc proc"]
    assert "/sys sysfs" in lines


def test_the_words_of_the_kernel_command_line_do_the_same(machine: Machine, attach: Attach, tmp_path: Path) -> None:
    machine.environ["KRUN_BLOCK_ROOT_DEVICE"] = attach(make_image(tmp_path / "disk"))
    machine.environ["KRUN_BLOCK_ROOT_FSTYPE"] = "ext4"
    machine.environ["KRUN_BLOCK_ROOT_OPTIONS"] = "noatime,nosuid,ro,norecovery"
    machine.shell("while read a b c d e; do echo $b $d; done < /proc/mounts").run()
    assert machine.exit[0] == 125  # no /dev in there, and nothing can be made: read-only
    assert "make empty /dev, /proc and /sys there" in machine.exit[2]


def test_flag_words_are_taken_out_of_the_options(machine: Machine, attach: Attach, tmp_path: Path) -> None:
    device = attach(make_image(tmp_path / "disk"))
    boot(
        machine,
        "while read a b c d e; do echo $b $d; done < /proc/mounts",
        device=device,
        fstype="ext4",
        options="noatime,nosuid,data=journal",
    )
    root = machine.stdout.decode().splitlines()[0].split()[1].split(",")
    assert {"rw", "nosuid", "noatime", "data=journal"} <= set(root), root


def test_a_write_protected_device_is_mounted_read_only(machine: Machine, attach: Attach, tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk")
    for folder in ("dev", "proc", "sys"):
        subprocess.run(
            ["debugfs", "-w", "-R", f"mkdir {folder}", str(image)], check=True, timeout=20, capture_output=True
        )
    boot(machine, "read line < /marker; echo $line; echo x > /new || exit 3", device=attach(image, read_only=True))
    assert machine.exit[:2] == (3, 0)
    assert machine.stdout == b"from the disk\n"
    assert "write-protected" in machine.logs


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        ({"device": "/dev/nothing9"}, "block root /dev/nothing9: No such file or directory (there is: "),
        ({"device": "nothing9"}, "block root /dev/nothing9: "),
        ({"device": "/marker"}, "block root /marker is no block device"),
        ({"device": "/dev/null"}, "block root /dev/null is no block device"),
        ({"device": ""}, "root needs a device"),
        ({"device": 5}, "device must be a string, not a number"),
        ({"device": "/dev/x", "files": ["relative"]}, "needs absolute paths, not 'relative'"),
    ],
)
def test_a_device_that_is_not_there(machine: Machine, root: dict[str, object], reason: str) -> None:
    machine.text("/marker", "x")
    boot(machine, "exit 0", **root)
    assert machine.exit[0] == 125
    assert reason in machine.exit[2]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"fstype": "xfs"}, "as xfs: no such file system on it, it is damaged, or an option is wrong"),
        ({"fstype": "klingon"}, "as klingon: this kernel has no such file system"),
        ({"fstype": "ext4", "options": "bogus=1"}, "as ext4, options 'bogus=1': no such file system on it"),
        ({"options": "bogus=1"}, "no file system that this kernel knows with options 'bogus=1' (tried ext3, "),
    ],
)
def test_what_cannot_be_mounted(
    machine: Machine, attach: Attach, tmp_path: Path, options: dict[str, str], reason: str
) -> None:
    boot(machine, "exit 0", device=attach(make_image(tmp_path / "disk")), **options)
    assert machine.exit[0] == 125
    assert reason in machine.exit[2], machine.exit


def test_garbage_is_no_file_system(machine: Machine, attach: Attach, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(os.urandom(1 << 20))
    boot(machine, "exit 0", device=attach(tmp_path / "disk"))
    assert machine.exit[0] == 125
    assert "no file system that this kernel knows" in machine.exit[2]


def test_a_late_device_is_waited_for(machine: Machine, attach: Attach, tmp_path: Path) -> None:
    """It takes shape while init waits: a node that appears after the boot has begun."""
    device = attach(make_image(tmp_path / "disk"))
    late = Path("/dev") / f"pykrun-late-{os.getpid()}"
    machine.patience = 10
    assert machine.start is not None
    machine.start["root"] = {"device": str(late)}
    machine.shell("exit 9").boot()
    machine.wait_for(HELLO)
    time.sleep(0.3)
    assert not machine.bodies(EXIT)
    os.mknod(late, 0o60600, os.stat(device).st_rdev)
    try:
        assert machine.wait().exit[0] == 9
    finally:
        late.unlink()


def test_files_of_the_first_root_are_shown_in_the_new_one(machine: Machine, attach: Attach, tmp_path: Path) -> None:
    machine.text("/etc/deep/motd", "of the host\n")
    machine.text("/marker", "over the disk's\n")
    device = attach(make_image(tmp_path / "disk"))
    boot(
        machine,
        "read a < /etc/deep/motd; read b < /marker; echo $a, $b; cd /made && echo made",
        device=device,
        files=["/etc/deep/motd", "/marker"],
        directories=["/made"],
    )
    assert machine.exit == (0, 0, "")
    assert machine.stdout == b"of the host, over the disk's\nmade\n"


def test_what_was_written_is_clean_on_the_disk(machine: Machine, attach: Attach, tmp_path: Path) -> None:
    image = make_image(tmp_path / "disk")
    boot(machine, "echo written > /new", device=attach(image))
    assert machine.exit == (0, 0, "")
    content = subprocess.run(["debugfs", "-R", "cat /new", str(image)], capture_output=True, timeout=20).stdout
    assert content == b"written\n"
    state = subprocess.run(["dumpe2fs", "-h", str(image)], capture_output=True, text=True, timeout=20).stdout
    assert "needs_recovery" not in state
