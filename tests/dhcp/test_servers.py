"""Real servers: dnsmasq, with rapid commit and without, and BusyBox's udhcpd."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dhcp.cable import SERVER, Cable
from tests.dhcp.guest import Guest
from tests.dhcp.scripted import DISCOVER, REQUEST, Scripted

POOL = ("192.0.2.100", "192.0.2.110")
DNSMASQ = [
    "dnsmasq",
    "--keep-in-foreground",
    "--conf-file=/dev/null",
    "--port=0",
    "--no-resolv",
    "--no-hosts",
    "--user=root",
    "--pid-file",
    "--interface=srv0",
    "--bind-interfaces",
    "--log-facility=-",
    "--log-dhcp",
    f"--dhcp-range={POOL[0]},{POOL[1]},255.255.255.0,2m",
    "--dhcp-option=option:router,192.0.2.254",
    "--dhcp-option=option:dns-server,192.0.2.2,192.0.2.3",
    "--dhcp-option=option:domain-name,fifteen.example",
    "--dhcp-option=option:domain-search,eng.example,sales.example",
    "--dhcp-option=option:mtu,1410",
    "--dhcp-option=option:classless-static-route,10.0.0.0/8,192.0.2.9,0.0.0.0/0,192.0.2.254",
]


class Servers:
    """Starts programs at the server's end; ends them after the test."""

    def __init__(self, cable: Cable, folder: Path) -> None:
        self.folder = folder
        self._cable = cable
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, command: list[str], ready: str) -> None:
        """Returns when it has said `ready`."""
        log = self.folder / "server.log"
        with open(log, "wb") as output:
            inside = ["nsenter", f"--target={self._cable.server}", "--net", *command]
            self._started.append(subprocess.Popen(inside, stdin=subprocess.DEVNULL, stdout=output, stderr=output))
        end = time.monotonic() + 10
        while ready not in self.log:
            assert self._started[-1].poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.01)

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.wait(10)


@pytest.fixture
def servers(cable: Cable, tmp_path: Path) -> Iterator[Servers]:
    servers = Servers(cable, tmp_path)
    yield servers
    servers.close()


def dnsmasq(servers: Servers, *more: str) -> None:
    if shutil.which("dnsmasq") is None:
        pytest.skip("no dnsmasq on PATH (apt-get install dnsmasq-base)")
    leases = f"--dhcp-leasefile={servers.folder / 'leases'}"
    servers.start([*DNSMASQ, leases, *more], "DHCP, sockets bound")


def udhcpd(servers: Servers, lease: int, *options: str) -> None:
    lines = [
        "interface srv0",
        f"start {POOL[0]}",
        f"end {POOL[1]}",
        f"lease_file {servers.folder / 'leases'}",
        f"pidfile {servers.folder / 'pid'}",
        f"option lease {lease}",
        "option subnet 255.255.255.0",
        *options,
        "",
    ]
    configuration = servers.folder / "udhcpd.conf"
    configuration.write_text("\n".join(lines))
    (servers.folder / "leases").touch()
    # -a: milliseconds that it looks for others who have the address, by default two seconds
    servers.start(["/bin/busybox", "udhcpd", "-f", "-a", "1", str(configuration)], "started")


def one_of_the_pool(cable: Cable) -> str:
    (address,) = cable.addresses()
    host, _, prefix = address.partition("/")
    assert prefix == "24"
    assert 100 <= int(host.rpartition(".")[2]) <= 110
    return host


@pytest.mark.parametrize("rapid", [False, True], ids=["four messages", "rapid commit"])
def test_dnsmasq(guest: Guest, cable: Cable, servers: Servers, server: Scripted, rapid: bool) -> None:
    """libkrun ignores routes (121), search domains (119) and host name (12)."""
    mac = ":".join(f"{byte:02x}" for byte in cable.mac)
    more = [f"--dhcp-host={mac},seven,192.0.2.105", "--no-ping", *["--dhcp-rapid-commit"] * rapid]
    dnsmasq(servers, *more)
    guest.up()
    guest.until_address("192.0.2.105/24")
    guest.until(lambda: guest.resolv_conf is not None, "resolv.conf")
    assert server.steps() == ([DISCOVER] if rapid else [DISCOVER, REQUEST])
    assert cable.routes() == {"default": "192.0.2.254", "10.0.0.0/8": "192.0.2.9"}
    assert cable.mtu() == 1410
    assert guest.resolv_conf == "search eng.example sales.example\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n"
    assert guest.hostname == "seven"
    assert (guest.warnings, guest.ask("children")) == ([], 1)
    assert "192.0.2.105" in (servers.folder / "leases").read_text()


def test_dnsmasq_that_looks_for_others_first(guest: Guest, cable: Cable, servers: Servers) -> None:
    """Its default: some three seconds pass before its first answer. libkrun has no network then."""
    dnsmasq(servers)
    guest.up()
    assert cable.addresses() == []
    guest.until(lambda: cable.addresses() != [], "an address", 30)
    one_of_the_pool(cable)
    guest.until(lambda: cable.routes() != {} and guest.resolv_conf is not None, "the rest")
    assert guest.warnings == []


def test_udhcpd(guest: Guest, cable: Cable, servers: Servers, server: Scripted) -> None:
    """It takes leases of seconds: renewals are seen, and the lease goes on."""
    udhcpd(
        servers,
        6,
        "option router 192.0.2.254",
        "option dns 192.0.2.2",
        "option domain local.example",
        "option search eng.example sales.example",
        "option mtu 1420",
    )
    guest.up()
    guest.until(lambda: cable.addresses() != [], "an address")
    address = one_of_the_pool(cable)
    guest.until(lambda: guest.resolv_conf is not None, "resolv.conf")
    assert (cable.routes(), cable.mtu()) == ({"default": "192.0.2.254"}, 1420)
    assert guest.resolv_conf == "search eng.example sales.example\nnameserver 192.0.2.2\n"

    def renewals() -> int:
        return sum(asked.own == address and asked.target == SERVER for asked in server.asked)

    guest.until(lambda: renewals() >= 3, "three renewals", 30)
    assert cable.addresses() == [f"{address}/24"]
    assert guest.warnings == []
    assert server.kinds().count(DISCOVER) < 4


def test_udhcpd_with_classless_routes(guest: Guest, cable: Cable, servers: Servers) -> None:
    udhcpd(servers, 600, "option router 192.0.2.254", "option staticroutes 10.0.0.0/8 192.0.2.9, 0.0.0.0/0 192.0.2.253")
    guest.up()
    guest.until(lambda: cable.addresses() != [], "an address")
    guest.until(lambda: cable.routes() == {"default": "192.0.2.253", "10.0.0.0/8": "192.0.2.9"}, "routes")
