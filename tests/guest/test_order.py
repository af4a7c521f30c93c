"""The order of the boot and of the end, by init's own trace and by what the kernel saw."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from krun_init import _linux
from tests.guest.machine import Machine
from tests.support import order
from tests.support.order import BOOT, CHILD, END

pytestmark = pytest.mark.root

PROCESS = {
    "user": {"uid": 7, "gid": 8, "additionalGids": [9], "umask": 0o027},
    "rlimits": [
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        {"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64},
    ],
    "capabilities": {name: ["CAP_KILL"] for name in ("bounding", "effective", "inheritable", "permitted", "ambient")},
    "noNewPrivileges": True,
}


def everything(machine: Machine) -> Machine:
    """A machine in which each step of the table has something to do."""
    tmpfs = {"type": "tmpfs", "source": "tmpfs"}
    config = {
        "process": PROCESS,
        "hostname": "ordered",
        "mounts": [{**tmpfs, "destination": "/first"}, {**tmpfs, "destination": "/second"}],
    }
    machine.text("/.krun_config.json", json.dumps(config))
    assert machine.start is not None
    machine.start["workdir"] = "/first"
    return machine


def test_the_table_is_in_the_order_of_the_specification() -> None:
    numbers = [step.number for step in (*BOOT, *CHILD, *END) if step.number]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(3, 13)), "1 and 2 are other systems'"


def test_trace(machine: Machine) -> None:
    """A line for each step, in order, with its time; the first is the kernel's."""
    everything(machine).environ["KRUN_INIT_TRACE"] = "1"
    machine.shell("exit 3").run()
    assert machine.exit == (3, 0, "")
    lines = [re.fullmatch(r" *(\d+) us  (.+)", line) for line in machine.logs.splitlines()]
    assert all(lines), machine.logs
    found = [(int(line[1]), line[2]) for line in lines if line]
    assert [name for _time, name in found] == ["since the kernel started", *order.names(BOOT)]
    assert all(time < 20_000_000 for time, _name in found[1:])
    assert sum(time for time, _name in found[1:]) > 0


def test_trace_of_a_boot_that_fails(machine: Machine) -> None:
    """It ends with the last step that was done."""
    everything(machine).environ["KRUN_INIT_TRACE"] = "1"
    assert machine.start is not None
    machine.start["workdir"] = "/missing"
    machine.run()
    assert machine.exit[0] == 125
    last = machine.logs.splitlines()[-1]
    assert last.endswith(" us  environment.set_hostname")


def test_no_trace_unless_asked(machine: Machine) -> None:
    everything(machine).shell("exit 0").run()
    assert machine.logs == ""


def test_the_childs_steps_are_the_tables() -> None:
    assert list(_linux.STEPS) == order.names(CHILD)


# ---- what the kernel saw

CALLS = "mount,umount2,signalfd4,openat,setsid,setpgid,ioctl,sethostname,chdir,pipe2,clone,dup3,close_range,umask,"
CALLS += "prlimit64,prctl,setgroups,setresgid,setresuid,capset,rt_sigprocmask,execve,kill,sync,write,reboot"


@pytest.fixture
def strace(tmp_path: Path) -> Path:
    if shutil.which("strace") is None:
        pytest.skip("no strace on PATH (apt-get install strace)")
    return tmp_path / "strace"


def traced(machine: Machine, file: Path) -> tuple[list[str], list[str]]:
    """Run it under strace: the calls of init and of everybody after it began, and init's own."""
    machine.under = ["strace", "-f", "-s", "200", "-o", str(file), "-e", f"trace={CALLS}"]
    machine.run(60)
    lines = file.read_text(errors="replace").splitlines()
    begin = next(index for index, line in enumerate(lines) if re.search(order.BOOT[1].calls[0], line))
    init = lines[begin].split()[0]
    lines = whole(lines[begin:])
    return lines, [line for line in lines if line.split()[0] == init]


def whole(lines: list[str]) -> list[str]:
    """Each call in one line, where it began: strace cuts those during which something else happened."""
    found: list[str] = []
    begun: dict[str, int] = {}
    for line in lines:
        pid = line.split()[0]
        resumed = re.search(r"<\.\.\. \w+ resumed>(.*)", line)
        if resumed and pid in begun:
            at = begun.pop(pid)
            found[at] += re.sub(r"^\)\s+=", ") =", resumed[1])
        elif line.endswith(" <unfinished ...>"):
            begun[pid] = len(found)
            found.append(line.removesuffix(" <unfinished ...>"))
        else:
            found.append(line)
    return found


def test_system_calls(machine: Machine, strace: Path) -> None:
    lines, own = traced(everything(machine).shell("echo out; exit 3"), strace)
    assert machine.exit == (3, 0, "")
    order.check_calls(lines, (*BOOT, *CHILD))
    order.check_calls(own, BOOT)
    for step in CHILD[2:8]:  # on PID 1 they would be the end of the machine, or of its rights
        for call in step.calls:
            assert not [line for line in own if re.search(call, line)], f"PID 1 itself: {step.name}"


def test_no_mount_point_is_looked_at(machine: Machine, strace: Path) -> None:
    """Whether a tmpfs is there already is read in the mount table: to stat its place would trigger an automount."""
    machine.under = [
        "strace",
        "-f",
        "-s",
        "200",
        "-o",
        str(strace),
        "-e",
        "trace=%%stat,access,faccessat,mount,readlink",
    ]
    everything(machine).shell("exit 0").run(60)
    lines = strace.read_text(errors="replace").splitlines()
    mounted = next(index for index, line in enumerate(lines) if 'mount("tmpfs", "/first"' in line)
    begin = next(index for index, line in enumerate(lines) if 'mount("devtmpfs", "/dev"' in line)
    assert not [line for line in lines[begin:mounted] if '"/first"' in line]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """A loop device with a file system, as a disk of the machine."""
    if shutil.which("mkfs.ext2") is None:
        pytest.skip("no mkfs.ext2 on PATH (apt-get install e2fsprogs)")
    image = tmp_path / "disk"
    image.write_bytes(bytes(1 << 20))
    subprocess.run(["mkfs.ext2", "-q", "-F", image], check=True, timeout=60)
    made = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, timeout=60)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    yield made.stdout.strip()
    subprocess.run(["losetup", "-d", made.stdout.strip()], check=True, timeout=60)


def test_the_end(machine: Machine, strace: Path, disk: str) -> None:
    """Until the disks are synced and remounted somebody writes to them, then nobody is left; then the report."""
    machine.links["/bin/mount"] = machine.links["/bin/mkdir"] = machine.links["/bin/touch"] = "busybox"
    script = f"mkdir /disk; mount -t ext2 {disk} /disk; cd /disk; touch a; trap '' TERM HUP;"
    script += "(while :; do echo x >> /disk/b; sleep 0.01; done) & while [ ! -s /disk/b ]; do sleep 0.01; done; exit 3"
    lines, own = traced(machine.shell(script), strace)
    assert machine.exit == (3, 0, "")
    order.check_calls(own, END)
    assert machine.logs == "", "the remount fails as long as anybody writes"
    synced, down = (next(at for at, line in enumerate(lines) if call in line) for call in ("sync()", "CMD_RESTART"))
    calls = [line for line in lines[synced:down] if "+++" not in line and "---" not in line]
    assert {line.split()[0] for line in calls} == {own[0].split()[0]}
