"""Init as a whole, PID 1 of a machine made of namespaces, at the guest's end of the cable."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dhcp.cable import SERVER, Cable, number
from tests.dhcp.conftest import LIBRARY
from tests.dhcp.scripted import ADDRESS, FOREVER, MASK, REQUEST, Scripted
from tests.guest.machine import Machine
from tests.support.command import wait_until

SHOW = "b=/bin/busybox; $b ip -4 addr show dev eth0; $b ip route; cat /etc/resolv.conf; $b hostname"
SHORT = ((58, struct.pack("!I", 1)), (59, struct.pack("!I", 30)))


@pytest.fixture
def machine(cable: Cable, tmp_path: Path) -> Iterator[Machine]:
    folder = tmp_path / "machine"
    folder.mkdir()
    machine = Machine(folder, LIBRARY)
    machine.network = cable.guest
    yield machine
    machine.close()


def renewals(server: Scripted) -> int:
    return sum(asked.kind == REQUEST and asked.own == ADDRESS for asked in server.asked)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("by", ["start data", "kernel command line"])
def test_workload_finds_the_network_set_up(machine: Machine, server: Scripted, by: str) -> None:
    server.answer(MASK, (3, number(SERVER)), (6, number(SERVER)), (15, b"a.example"), (12, b"seven"))
    machine.shell(SHOW)
    assert machine.start is not None
    if by == "start data":
        machine.start["dhcp"] = True
    else:
        machine.environ["KRUN_DHCP"] = "1"
    machine.run()
    shown = machine.stdout.decode()
    assert (machine.exit, machine.stderr, machine.logs) == ((0, 0, ""), b"", "")
    for text in (
        f"inet {ADDRESS}/24",
        f"default via {SERVER} dev eth0",
        f"search a.example\nnameserver {SERVER}\nseven\n",
    ):
        assert text in shown


def test_host_name_of_the_start_data_wins(machine: Machine, server: Scripted) -> None:
    server.answer(MASK, (12, b"seven"), lease=FOREVER)
    machine.shell("/bin/busybox hostname")
    assert machine.start is not None
    machine.start |= {"dhcp": True, "hostname": "mine"}
    assert machine.run().stdout == b"mine\n"


def test_read_only_root(machine: Machine, server: Scripted) -> None:
    """libkrun cannot write resolv.conf there."""
    server.answer(MASK, (6, number(SERVER)))
    machine.readonly = True
    machine.text("/etc/resolv.conf", "of the image\n")
    machine.shell("cat /etc/resolv.conf; /bin/busybox ls -a /devices")
    assert machine.start is not None
    machine.start["dhcp"] = True
    machine.run()
    assert machine.stdout.decode() == f"nameserver {SERVER}\n.\n..\nfd\nstderr\nstdin\nstdout\n"
    assert machine.logs == ""


def test_no_server_is_told_as_no_trouble(machine: Machine) -> None:
    machine.shell("exit 3")
    assert machine.start is not None
    machine.start["dhcp"] = True
    machine.run()
    assert machine.exit == (3, 0, "")
    assert [body for kind, body in machine.frames if kind == 5] == [b"\2DHCP on eth0: no answer yet"]


@pytest.mark.parametrize("answered", [True, False])
def test_there_is_no_process_before_there_is_something_to_do(
    machine: Machine, server: Scripted, answered: bool
) -> None:
    """A fork is dear, and most machines end long before a lease has to be renewed."""
    if answered:
        server.answer(MASK)
    machine.shell("sleep 0.5; /bin/busybox ps | /bin/busybox grep -c pid1[.]py")
    assert machine.start is not None
    machine.start["dhcp"] = True
    assert machine.run().stdout == (b"1\n" if answered else b"2\n")


def test_renewal_while_the_workload_runs(machine: Machine, server: Scripted) -> None:
    """The process that renews is not the workload's, and does not hold the end."""
    server.answer(MASK, *SHORT)
    machine.shell("read line; exit 4")
    machine.stdin_end = False
    assert machine.start is not None
    machine.start["dhcp"] = True
    machine.boot()
    wait_until(lambda: renewals(server) >= 2, what="two renewals")
    before = time.monotonic()
    machine.feed(b"\n")
    machine.wait()
    assert (machine.exit, machine.logs) == ((4, 0, ""), "")
    assert time.monotonic() - before < 15


def test_renewal_when_the_workload_is_pid_1(machine: Machine, server: Scripted) -> None:
    """KRUN_INIT_PID1: it was forked before. The control port was init's, and nobody has it when init is no more."""
    server.answer(MASK, *SHORT)
    machine.ports = ["krun-control"]
    machine.shell("exec sleep 20")
    assert machine.start is not None
    machine.start |= {"dhcp": True, "pid1": True}
    machine.boot()
    wait_until(lambda: renewals(server) >= 2, what="two renewals")
    assert machine._process is not None
    (pid1,) = children_of(machine._process.pid)
    (keeper,) = children_of(pid1)
    assert Path(f"/proc/{pid1}/cmdline").read_bytes() == b"sleep\x0020\0"
    assert sorted(entry.name for entry in Path(f"/proc/{keeper}/fd").iterdir()) == ["0", "1", "2"]
