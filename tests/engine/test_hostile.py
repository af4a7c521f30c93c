"""A guest whose root does its worst against the engine: nothing of the host is seen or changed.

The guest is a busybox without any of our init; tests/sandbox plays an engine that was taken over completely.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.engine import guest


@pytest.mark.uml
def test_hostfs_sees_the_jail_only(tmp_path: Path) -> None:
    """hostfs resolves `..` on the host, so that `hostfs=<empty>` alone keeps nothing in."""
    marker = tmp_path / "marker"
    marker.write_text("a secret of the host")
    marker.chmod(0o666)
    up = "../" * 12
    script = f"""
mount -t hostfs none /mnt -o /{up} || say no hostfs
say LIST $(ls -a /mnt)
for path in etc/shadow etc/passwd root home proc/1/environ var/run dev/kvm dev/vda sys/kernel usr/bin/env .{marker}; do
  [ -e /mnt/$path ] && say FOUND $path
done
cat /mnt{marker} | tell
for place in . bin files usr dev lib etc; do echo x > /mnt/$place/planted && say PLANTED $place; done 2>/dev/null
echo changed > /mnt/files/initramfs && say CHANGED
for program in /mnt/usr/bin/linux*; do echo changed > $program && say CHANGED $program; done
mknod /mnt/room/disk b 254 0 && head -c 1 /mnt/room/disk && say DISK
echo x > /mnt/room/mine && say own folder
"""
    console, _ = guest.run(guest.choose("uml"), tmp_path, script)
    assert "LIST" in console, console
    seen = set(next(line for line in console.splitlines() if line.startswith("LIST")).split()[1:])
    assert seen <= {".", "..", "bin", "dev", "files", "lib", "lib64", "tmp", "usr", "room"}, console
    for word in ("FOUND", "PLANTED", "CHANGED", "DISK", "a secret"):
        assert word not in console, console
    assert "own folder" in console
    assert marker.read_text() == "a secret of the host"


@pytest.mark.uml
def test_hostfs_cannot_fill_the_host(tmp_path: Path) -> None:
    """What the engine may write is a tmpfs with the size of its memory file and little more."""
    script = """
mount -t hostfs none /mnt -o /room
i=0; while dd if=/dev/zero of=/mnt/$i bs=1M count=64 2>/dev/null; do i=$((i+1)); [ $i -gt 8 ] && break; done
say WROTE $i
"""
    console, _ = guest.run(guest.choose("uml"), tmp_path, script, memory_mib=64)
    assert "WROTE" in console, console
    assert int(console.split("WROTE")[1].split()[0]) <= 1


def test_killing_everything_stays_inside(engine: str, tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "300"]) as bystander:
        try:
            script = "sleep 1000 & kill -9 -1; say survived the kill; kill -9 $$; say still here"
            console, _ = guest.run(guest.choose(engine), tmp_path, script)
            assert "still here" in console
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_no_network_leads_out(engine: str, tmp_path: Path) -> None:
    script = """
ifconfig lo 127.0.0.1 up
say DEVICES $(ls /sys/class/net 2>/dev/null; awk -F: 'NR > 2 {print $1}' /proc/net/dev)
for address in 127.0.0.1 10.0.2.2 169.254.169.254; do nc -w 1 $address 22 </dev/null && say CONNECTED; done
"""
    console, _ = guest.run(guest.choose(engine), tmp_path, script)
    devices = next(line for line in console.splitlines() if line.startswith("DEVICES")).split()[1:]
    assert not [name for name in devices if name.startswith(("eth", "en", "tap", "tun", "vec"))]
    assert "CONNECTED" not in console


@pytest.mark.uml
def test_loading_a_module_ends_in_the_jail(tmp_path: Path) -> None:
    engine = guest.choose("uml")
    modules = engine.kernel().modules
    assert modules is not None
    module = next(modules.glob("kernel/lib/crc*.ko"))
    script = "insmod /module.ko && say LOADED;lsmod | tell; head -c 4096 /dev/urandom > /tmp/bad.ko; insmod /tmp/bad.ko"
    console, ended = guest.run(engine, tmp_path, script, files={"module.ko": module.read_bytes()})
    assert "LOADED" in console
    assert "THE END" in console
    assert ended.status == 0


@pytest.mark.parametrize("trigger", ["c", "b", "o"])
def test_crash_reboot_and_poweroff_by_the_guest_end_it(engine: str, tmp_path: Path, trigger: str) -> None:
    console, ended = guest.run(
        guest.choose(engine),
        tmp_path,
        f"echo 1 > /proc/sys/kernel/sysrq; echo {trigger} > /proc/sysrq-trigger; sleep 20",
    )
    assert "Linux version" not in console.split("sysrq")[-1], "it booted again"
    assert ended.status is not None


def test_engine_and_keeper_show_nothing_of_the_supervisor(engine: str, tmp_path: Path) -> None:
    """The keeper is a copy of the supervisor's memory: what runs beside it under the same id must not read it."""
    running = guest.choose(engine).launch(guest.machine(guest.choose(engine), tmp_path, "say up; sleep 1000"))
    try:
        guest.Watch(running).seen(b"up")
        keeper = Path(f"/proc/{running.pid}")
        # Not dumpable: its /proc entries belong to root, whoever it runs as.
        assert (keeper / "mem").stat().st_uid == 0
        links = [os.readlink(link) for link in (keeper / "fd").iterdir()] if os.geteuid() == 0 else []
        assert all("pidfd" in link or "pipe:" in link for link in links), links
    finally:
        running.close()
