"""The blob itself in a real kernel, User Mode Linux, with a card at a TAP device: fork, netlink, packet filter."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pykrun import blob
from pykrun.kernel.cpio import archive, character_device, file, folder
from tests.dhcp.cable import SERVER, Cable, number
from tests.dhcp.scripted import ADDRESS, DISCOVER, FOREVER, MASK, REQUEST, Scripted
from tests.guest.machine import BUSYBOX

SECONDS = 60
SCRIPT = """#!/bin/busybox sh
b=/bin/busybox
until $b ip -4 addr show dev eth0 | $b grep inet; do $b sleep 0.1; done
$b ip route; $b cat /etc/resolv.conf; $b hostname
$b sleep 3
echo processes: $($b ps | $b grep -c "/ini[t]")
"""

pytestmark = [pytest.mark.uml, pytest.mark.root]


@pytest.fixture
def tap() -> Iterator[Cable]:
    """The server's end of the cable is a TAP device."""
    cable = Cable()
    for words in (
        "link delete srv0",
        "tuntap add srv0 mode tap",
        f"address add {SERVER}/24 dev srv0",
        "link set srv0 up",
    ):
        cable.run(cable.server, "ip", *words.split())
    yield cable
    cable.close()


@pytest.fixture
def server(tap: Cable) -> Iterator[Scripted]:
    server = Scripted(tap)
    yield server
    server.close()


def boot(tap: Cable, place: Path, *words: str) -> str:
    """Boot to the end of the script; what the console said."""
    entries = [folder("dev"), character_device("dev/console", 5, 1), folder("bin"), folder("etc")]
    entries += [file("bin/busybox", Path(BUSYBOX).read_bytes(), 0o755), file("script", SCRIPT.encode(), 0o755)]
    entries.append(file("init", blob.build().read(), 0o755))
    (place / "initrd").write_bytes(b"".join(archive(entries)))
    (place / "empty").mkdir()
    mac = ":".join(f"{byte:02x}" for byte in tap.mac)
    command = ["nsenter", f"--target={tap.server}", "--net", "setarch", "-R", "linux.uml", "mem=128M"]
    command += [f"initrd={place}/initrd", "con0=fd:0,fd:1", "con=null", "quiet", "noreboot", f"uml_dir={place}/"]
    command += [f"hostfs={place}/empty", "lsm=capability", "initcall_blacklist=raid6_select_algo,init_zswap"]
    command += ["pty.legacy_count=0", f"eth0=tuntap,srv0,{mac}", "KRUN_DHCP=1", "KRUN_INIT=/script", *words]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(place), "HOME": str(place)},
    )
    try:
        return process.communicate(timeout=SECONDS)[0].decode(errors="replace")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_lease_without_end(tap: Cable, server: Scripted, tmp_path: Path) -> None:
    server.answer(MASK, (3, number(SERVER)), (6, number(SERVER)), (12, b"seven"), lease=FOREVER, target=ADDRESS)
    said = boot(tap, tmp_path)
    for text in (
        f"inet {ADDRESS}/24",
        f"default via {SERVER} dev eth0",
        f"nameserver {SERVER}",
        "seven",
        "processes: 1",
    ):
        assert text in said
    assert server.steps() == [DISCOVER, REQUEST]


def test_renewals(tap: Cable, server: Scripted, tmp_path: Path) -> None:
    server.answer(MASK, (58, struct.pack("!I", 1)), (59, struct.pack("!I", 30)))
    said = boot(tap, tmp_path)
    assert f"inet {ADDRESS}/24" in said
    assert "processes: 2" in said
    assert [asked.own for asked in server.asked].count(ADDRESS) >= 2


def test_answer_that_comes_late(tap: Cable, server: Scripted, tmp_path: Path) -> None:
    server.answer(MASK)
    answer = server.on_ask
    assert answer is not None
    server.on_ask = lambda asked: answer(asked) if asked.at - server.asked[0].at > 0.4 else None
    assert f"inet {ADDRESS}/24" in boot(tap, tmp_path)


def test_workload_as_pid_1(tap: Cable, server: Scripted, tmp_path: Path) -> None:
    """The end of PID 1 is a panic then."""
    server.answer(MASK, (58, struct.pack("!I", 1)), (59, struct.pack("!I", 30)))
    said = boot(tap, tmp_path, "KRUN_INIT_PID1=1", "panic=-1")
    assert "processes: 1" in said
    assert [asked.own for asked in server.asked].count(ADDRESS) >= 2
