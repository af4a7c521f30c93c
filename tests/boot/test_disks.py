"""Block devices of the guest: the same names and the same behaviour on both engines."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.boot.vm import Script, Vm, descendants, engine_process, finish, read_line
from tests.sandbox.prison import wait_until_gone
from tests.support.command import Pykrun

MIB = 1 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


def image(path: Path, size: int, byte: bytes = b"\0") -> Path:
    """An image full of one byte, or a sparse one of zeros."""
    with open(path, "wb") as file:
        if byte == b"\0":
            file.truncate(size)
        else:
            file.write(byte * size)
    return path


def test_disks_in_order(vm: Vm, folder: Path) -> None:
    images = [image(folder / name, size * MIB, name[-1].encode()) for name, size in (("a", 2), ("b", 3), ("c", 4))]
    script = Script()
    names = ("/dev/vda", "/dev/vdb", "/dev/vdc")
    infos = [script.call("devinfo", name) for name in names]
    firsts = [script.call("pread", name, "0", "4") for name in names]
    serials = [script.call("pread", f"/sys/block/{name}/serial", "0", "30") for name in ("vda", "vdb", "vdc")]
    none = script.call("devinfo", "/dev/vdd")
    vm.script(script, "--disk", str(images[0]), "--disk", f"{images[1]}:ro", "--disk", str(images[2]))
    assert [(info.value, info.data) for info in infos] == [
        (read_only, b"%d 512" % (size * MIB)) for read_only, size in ((0, 2), (1, 3), (0, 4))
    ]
    assert [first.data for first in firsts] == [b"aaaa", b"bbbb", b"cccc"]
    assert [serial.data for serial in serials] == [b"pykrun-vda", b"pykrun-vdb", b"pykrun-vdc"]
    assert none.value == -errno.ENOENT


def test_reading_and_writing(vm: Vm, folder: Path) -> None:
    disk = image(folder / "disk", 8 * MIB, b"o")
    script = Script()
    script.call("pour", "/dev/vda", str(MIB + 4096), str(3 * MIB), "0x6e")
    script.call("pour", "/dev/vda", str(8 * MIB - 512), "512", "0x65")
    beyond = script.call("pour", "/dev/vda", str(8 * MIB), "512", "1")
    end = script.call("pread", "/dev/vda", str(8 * MIB - 1024), "4096")
    vm.script(script, "--disk", str(disk))
    assert (script.outcomes[0].value, script.outcomes[1].value) == (0, 0)
    assert beyond.value == -errno.ENOSPC
    assert end.data == b"o" * 512 + b"e" * 512
    assert disk.read_bytes() == (b"o" * (MIB + 4096) + b"n" * 3 * MIB + b"o" * (4 * MIB - 4096 - 512) + b"e" * 512)


def test_a_read_only_disk(vm: Vm, folder: Path) -> None:
    disk = image(folder / "disk", MIB, b"o")
    disk.chmod(0o444)
    script = Script()
    write = script.call("pour", "/dev/vda", "0", "512", "1")
    discard = script.call("discard", "/dev/vda", "0", "4096")
    read = script.call("pread", "/dev/vda", "0", "2")
    vm.script(script, "--disk", f"{disk}:ro")
    assert write.value == -errno.EPERM
    assert discard.value in (-errno.EPERM, -errno.EBADF, -errno.EOPNOTSUPP)
    assert read.data == b"oo"
    assert disk.read_bytes() == b"o" * MIB


def test_discard_and_zeros(vm: Vm, folder: Path) -> None:
    disk = image(folder / "disk", 8 * MIB, b"x")
    before = disk.stat().st_blocks
    script = Script()
    discard = script.call("discard", "/dev/vda", "0", str(4 * MIB))
    zero = script.call("zero", "/dev/vda", str(5 * MIB), str(MIB + 512))
    vm.script(script, "--disk", str(disk))
    assert (discard.value, zero.value) == (0, 0)
    content = disk.read_bytes()
    assert content == bytes(4 * MIB) + b"x" * MIB + bytes(MIB + 512) + b"x" * (2 * MIB - 512)
    assert disk.stat().st_blocks <= before - 8192, "4 MiB have become a hole"


def test_partitions(vm: Vm, folder: Path) -> None:
    if shutil.which("sfdisk", path=f"{os.environ['PATH']}:/sbin:/usr/sbin") is None:
        pytest.skip("no sfdisk on PATH (apt-get install fdisk)")
    tables = {
        "mbr": "label: dos\n2048,2048,L\n4096,8192,E\n6144,1024,L\n",  # the fifth is a logical one
        "gpt": "label: gpt\n2048,2048,L\n4096,1024,L\n",
    }
    for name, text in tables.items():
        disk = image(folder / name, 16 * MIB)
        subprocess.run(["/sbin/sfdisk", "-q", str(disk)], input=text.encode(), check=True, timeout=60)
    script = Script()
    wanted = {"vda1": MIB, "vda5": MIB // 2, "vdb1": MIB, "vdb2": MIB // 2}
    sizes = {name: script.call("devinfo", f"/dev/{name}") for name in wanted}
    script.call("pour", "/dev/vda5", "0", "512", "0x35")
    script.call("pour", "/dev/vdb2", "0", "512", "0x32")
    vm.script(script, "--disk", str(folder / "mbr"), "--disk", str(folder / "gpt"))
    assert {name: found.data for name, found in sizes.items()} == {
        name: b"%d 512" % size for name, size in wanted.items()
    }
    assert (folder / "mbr").read_bytes()[6144 * 512 :][:512] == b"5" * 512
    assert (folder / "gpt").read_bytes()[4096 * 512 :][:512] == b"2" * 512


def test_what_was_synced_is_there(vm: Vm, folder: Path) -> None:
    """Although the engine was killed right after fsync had returned in the guest."""
    synced_and_killed(vm, folder, "engine")


@pytest.mark.uml
def test_what_was_synced_is_there_without_its_server(tool: Path, run_pykrun: Pykrun, folder: Path) -> None:
    synced_and_killed(Vm("uml", tool, run_pykrun), folder, "server")


def synced_and_killed(vm: Vm, folder: Path, victim: str) -> None:
    disk = image(folder / "disk", 4 * MIB)
    process = vm.start("--disk", str(disk), "--", "/tool", "synced", "/dev/vda", str(3 * MIB), "0x73")
    assert read_line(process) == b"synced\n"
    if victim == "engine":
        os.kill(engine_process(process, vm.engine).pid, signal.SIGKILL)
    else:
        (server,) = servers(process)
        os.kill(server, signal.SIGKILL)
    result = finish(process)
    assert result.code == 125
    if victim == "server":
        expected = f"pykrun: disk vda, '{disk}': its server was ended by SIGKILL"
        assert result.err.decode().splitlines()[0] == expected
    assert disk.read_bytes() == b"s" * 3 * MIB + bytes(MIB)
    script = Script()
    again = script.call("pread", "/dev/vda", str(3 * MIB - 2), "4")
    vm.script(script, "--disk", str(disk))
    assert again.data == b"ss\0\0"


def servers(process: subprocess.Popen[bytes]) -> list[int]:
    """The servers of the disks below a running pykrun."""
    return [entry.pid for entry in descendants(process.pid) if entry.name.startswith("pykrun vd")]


@pytest.mark.uml
@pytest.mark.parametrize("victim", ["supervisor", "server", "engine"])
def test_whoever_is_killed_nothing_is_left(tool: Path, run_pykrun: Pykrun, folder: Path, victim: str) -> None:
    vm = Vm("uml", tool, run_pykrun)
    disks = [str(image(folder / name, MIB)) for name in ("one", "two")]
    process = vm.start("--disk", disks[0], "--disk", disks[1], "--", "/tool", "synced", "/dev/vda", "512", "1")
    assert read_line(process) == b"synced\n"
    family = [entry.pid for entry in descendants(process.pid)]
    assert len(servers(process)) == 2
    pid = {"supervisor": process.pid, "server": servers(process)[1], "engine": engine_process(process, "uml").pid}
    os.kill(pid[victim], signal.SIGKILL)
    finish(process)
    for other in family:
        wait_until_gone(other)


def test_one_image_in_two_machines(vm: Vm, folder: Path) -> None:
    disk = image(folder / "disk", MIB)
    process = vm.start("--disk", str(disk), "--", "/tool", "synced", "/dev/vda", "512", "1")
    assert read_line(process) == b"synced\n"
    for mode in ("", ":ro"):
        second = vm.run("--disk", f"{disk}{mode}", "--", "/tool", "exit", "0")
        assert second.code == 125
        assert f"disk '{disk}' is in use, by another VM perhaps" in second.err.decode()
    process.terminate()
    finish(process)
    assert vm.run("--disk", str(disk), "--", "/tool", "exit", "0").code == 0


@pytest.mark.root
def test_a_block_device_of_the_host(vm: Vm, folder: Path) -> None:
    disk = image(folder / "disk", 4 * MIB, b"l")
    made = subprocess.run(["losetup", "--find", "--show", str(disk)], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"no loop device: {made.stderr}")
    loop = made.stdout.strip()
    try:
        script = Script()
        info = script.call("devinfo", "/dev/vda")
        script.call("pour", "/dev/vda", "4096", "8192", "0x4c")
        discard = script.call("discard", "/dev/vda", str(MIB), str(MIB))
        vm.script(script, "--disk", loop)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)
    assert info.data == b"%d 512" % (4 * MIB)
    assert discard.value == 0
    content = disk.read_bytes()
    assert content[4096:12288] == b"L" * 8192
    assert content[MIB : 2 * MIB] == bytes(MIB)
    assert content[2 * MIB :] == b"l" * 2 * MIB
