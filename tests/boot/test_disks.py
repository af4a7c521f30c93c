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
from tests.disk import make
from tests.sandbox.prison import wait_until_gone
from tests.sandbox.servants import status
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
    tables = {
        "mbr": "label: dos\n2048,2048,L\n4096,8192,E\n6144,1024,L\n",  # the fifth is a logical one
        "gpt": "label: gpt\n2048,2048,L\n4096,1024,L\n",
    }
    for name, text in tables.items():
        make.partitioned(folder / name, 16 * MIB, text)
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
def test_a_full_disk_of_the_host(vm: Vm, folder: Path) -> None:
    """The guest gets an error and goes on; the VM neither stops nor ends."""
    small = folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=755", "none", str(small)], check=True)
    try:
        disk = image(small / "disk", 8 * MIB)
        script = Script()
        fails = script.call("pour", "/dev/vda", "0", str(4 * MIB), "0x66")
        fits = script.call("pour", "/dev/vda", "0", "4096", "0x67")
        vm.script(script, "--disk", str(disk))
        assert disk.read_bytes()[:4096] == b"g" * 4096
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert (fails.value, fits.value) == (-errno.EIO, 0)


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


def qcow2(path: Path, size: int) -> Path:
    make.tool("qemu-img", "create", "-q", "-f", "qcow2", path, str(size))
    return path


def as_raw(path: Path) -> bytes:
    """What a guest finds in a qcow2 image."""
    make.tool("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, path.with_suffix(".raw"))
    return path.with_suffix(".raw").read_bytes()


def test_qcow2(vm: Vm, folder: Path) -> None:
    """There and back, also what was never flushed; a raw disk beside it; discard gives room back."""
    disk, raw = qcow2(folder / "disk.qcow2", 64 * MIB), image(folder / "raw", MIB)
    options = ("--disk-format", "qcow2", "--disk", str(disk), "--disk-format", "raw", "--disk", str(raw))
    script = Script()
    infos = [script.call("devinfo", f"/dev/{name}") for name in ("vda", "vdb")]
    cache = script.read("/sys/block/vda/queue/write_cache")
    script.call("pour", "/dev/vda", str(MIB), str(8 * MIB), "0x71")
    script.call("pour", "/dev/vdb", "0", "512", "0x72")
    write = script.call("write", "/dev/vda", "never flushed")
    vm.script(script, *options)
    assert [info.data for info in infos] == [b"%d 512" % (64 * MIB), b"%d 512" % MIB]
    assert cache.data == b"write back\n"
    assert (script.outcomes[3].value, write.value) == (0, 13)
    content = as_raw(disk)
    assert content[:13] == b"never flushed"
    assert content[MIB:] == b"q" * 8 * MIB + bytes(55 * MIB)
    assert raw.read_bytes()[:512] == b"r" * 512
    script = Script()
    again = script.call("pread", "/dev/vda", str(9 * MIB - 2), "4")
    discard = script.call("discard", "/dev/vda", str(MIB), str(8 * MIB))
    before = disk.stat().st_blocks
    vm.script(script, *options)
    assert (again.data, discard.value) == (b"qq\0\0", 0)
    assert as_raw(disk)[MIB:] == bytes(63 * MIB)
    assert disk.stat().st_blocks <= before - 8 * MIB // 512
    make.tool("qemu-img", "check", "-q", disk)


def test_what_was_synced_is_in_the_qcow2_image(vm: Vm, folder: Path) -> None:
    disk = qcow2(folder / "disk.qcow2", 8 * MIB)
    options = ("--disk-format", "qcow2", "--disk", str(disk))
    process = vm.start(*options, "--", "/tool", "synced", "/dev/vda", str(3 * MIB), "0x73")
    assert read_line(process) == b"synced\n"
    victim = storage_daemons(process)[0] if vm.engine == "uml" else engine_process(process, vm.engine).pid
    os.kill(victim, signal.SIGKILL)
    assert finish(process).code == 125
    assert as_raw(disk) == b"s" * 3 * MIB + bytes(5 * MIB)


def storage_daemons(process: subprocess.Popen[bytes]) -> list[int]:
    return [entry.pid for entry in descendants(process.pid) if entry.command.startswith(b"qemu-storage-daemon\0")]


@pytest.mark.uml
@pytest.mark.parametrize("victim", ["supervisor", "daemon", "engine"])
def test_whoever_is_killed_nothing_is_left_of_qcow2(tool: Path, run_pykrun: Pykrun, folder: Path, victim: str) -> None:
    vm = Vm("uml", tool, run_pykrun)
    disk = qcow2(folder / "disk.qcow2", 8 * MIB)
    options = ("--disk-format", "qcow2", "--disk", str(disk))
    process = vm.start(*options, "--", "/tool", "synced", "/dev/vda", "512", "1")
    assert read_line(process) == b"synced\n"
    family = [entry.pid for entry in descendants(process.pid)]
    (daemon,) = storage_daemons(process)
    pid = {"supervisor": process.pid, "daemon": daemon, "engine": engine_process(process, "uml").pid}
    os.kill(pid[victim], signal.SIGKILL)
    result = finish(process)
    if victim == "daemon":
        assert result.code == 125
        assert result.err.startswith(f"pykrun: disk vda, '{disk}': ".encode())
    for other in family:
        wait_until_gone(other)
    make.tool("qemu-img", "check", "-q", disk)


@pytest.mark.uml
@pytest.mark.root
def test_the_qcow2_daemon_sees_its_image_alone(tool: Path, run_pykrun: Pykrun, folder: Path) -> None:
    vm = Vm("uml", tool, run_pykrun)
    disk = qcow2(folder / "disk.qcow2", 8 * MIB)
    os.chown(disk, 12345, 12346)
    options = ("--disk-format", "qcow2", "--disk", str(disk))
    process = vm.start(*options, "--", "/tool", "synced", "/dev/vda", "512", "1")
    assert read_line(process) == b"synced\n"
    (daemon,) = storage_daemons(process)
    found = status(daemon)
    assert (found["Uid"].split(), found["Gid"].split()) == (["12345"] * 4, ["12346"] * 4)
    assert {found[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {"0" * 16}
    assert os.listdir(f"/proc/{daemon}/root/files") == ["image"]
    assert sorted(os.listdir(f"/proc/{daemon}/root/room")) == ["disk"]
    process.terminate()
    finish(process)


@pytest.mark.uml
def test_without_the_storage_daemon(tool: Path, run_pykrun: Pykrun, folder: Path) -> None:
    for name in ("linux.uml", "true"):
        (folder / name).symlink_to(shutil.which(name) or name)
    disk = qcow2(folder / "disk.qcow2", MIB)
    result = run_pykrun(
        ["run", "--engine", "uml", "--disk", str(disk), "--disk-format", "qcow2", "--", "/x"],
        env={"PATH": str(folder)},
    )
    assert result.returncode == 125
    assert result.stderr.decode().splitlines() == [
        "pykrun: qcow2 disks on User Mode Linux need qemu-storage-daemon "
        "(install qemu-system-common, or use --engine qemu; `pykrun doctor` tells more)"
    ]


def test_a_damaged_qcow2_image(vm: Vm, folder: Path) -> None:
    """The header is sound, the table that it names is not: QEMU's to find out, ours to say."""
    disk = qcow2(folder / "disk.qcow2", 8 * MIB)
    with open(disk, "r+b") as file:
        file.seek(40)
        file.write((1000).to_bytes(8, "big"))  # in the middle of a cluster
    result = vm.run("--disk-format", "qcow2", "--disk", str(disk), "--", "/tool", "exit", "0")
    assert result.code == 125
    assert b"L1 table" in result.err or b"l1" in result.err.lower(), result
