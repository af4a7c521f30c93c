"""Networks: none, the host's (which is the enclave's here), and a bridge with published ports and names."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.command import wait_until
from tests.support.enclave import IMAGE, OURS
from tests.support.podman import Podman

SERVE = "while :; do echo from $HOSTNAME | nc -l -p 80; done"


@pytest.fixture
def bridge(podman: Podman) -> Iterator[str]:
    """A network of podman's with names."""
    podman.must("network", "create", "bridged")
    yield "bridged"
    podman.clear()
    podman.must("network", "rm", "-f", "bridged")


def ask(podman: Podman, port: int) -> str:
    """What answers at a port of the host, seen from the host."""
    result = podman.store.enclave.run(["busybox", "nc", "-w", "5", "127.0.0.1", str(port)], timeout=10)
    return result.stdout.decode().strip()


def test_none(podman: Podman) -> None:
    links = podman.sh("ls /sys/class/net; ip -4 addr show lo | grep -c 127.0.0.1", "--network=none").split()
    assert "lo" in links
    assert "eth0" not in links
    assert links[-1] == "1"


def test_published_ports_and_names(podman: Podman, bridge: str) -> None:
    served = ["--network", bridge, "--hostname=server", "--name=server", "-p", "127.0.0.1:8080:80"]
    podman.must("run", "-d", *served, IMAGE, "sh", "-c", SERVE)
    wait_until(lambda: ask(podman, 8080) == "from server", 40, "the published port")
    # By its name, from another container.
    reached = podman.sh("nslookup server >&2; nc -w 5 server 80", "--network", bridge, "--name=client")
    assert reached == "from server"
    [address] = [one["IPAddress"] for one in podman.inspect("server")["NetworkSettings"]["Networks"].values()]
    assert podman.sh(f"nc -w 5 {address} 80", "--network", bridge) == "from server"
    podman.must("rm", "-f", "-t", "0", "server")


def test_the_default_network(podman: Podman) -> None:
    """A container's address is the one that podman gave it, and it reaches the host."""
    script = (
        "ip -4 addr show | grep -c 'inet 10.88.0'; cat /etc/resolv.conf | grep -c nameserver; ip route | grep default"
    )
    output = podman.sh(script, "--network=bridge").splitlines()
    assert output[0] == "1"
    assert "default via 10.88.0.1" in output[-1]


@pytest.fixture
def outside(podman: Podman) -> Iterator[str]:
    """An address of the host, with a route to everywhere, and a service there on port 8099."""
    enclave, address = podman.store.enclave, "192.0.2.1"
    for words in (
        "link add out type veth peer name far",
        f"addr add {address}/24 dev out",
        "link set out up",
        "link set far up",
    ):
        assert enclave.run(["ip", *words.split()]).returncode == 0
    assert enclave.run(["ip", "route", "add", "default", "via", "192.0.2.2"]).returncode == 0
    serve = "while :; do echo from the host | busybox nc -l -p 8099; done"
    server = enclave.start(["setsid", "sh", "-c", serve])
    yield address
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    enclave.run(["ip", "link", "del", "out"])


def test_the_hosts(podman: Podman, outside: str) -> None:
    """What it sends does not end before the answer does: docs/network.md has why."""
    assert podman.sh(f"sleep 3 | nc -w 5 {outside} 8099", "--network=host") == "from the host"


def test_a_pod(podman: Podman) -> None:
    """The container that holds a pod leaves the network to the next one; there is one card to be had."""
    podman.must("pod", "create", "--network=bridge", "--name=group", "-p", "127.0.0.1:8081:80")
    try:
        podman.must("run", "-d", "--pod=group", IMAGE, "sh", "-c", "while :; do echo in a pod | nc -l -p 80; done")
        wait_until(lambda: ask(podman, 8081) == "in a pod", 40, "the published port")
        second = podman("run", "--rm", "--pod=group", IMAGE, "nc", "-w", "5", "127.0.0.1", "80")
        if podman.runtime == OURS:
            assert second.returncode == 126
            assert b"another VM has the network interface eth0" in second.stderr
        else:
            assert second.stdout == b"in a pod\n"
    finally:
        podman("pod", "rm", "--force", "--time", "0", "group")
