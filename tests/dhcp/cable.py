"""Two network namespaces and a cable: `eth0` of the guest's, `srv0` of the server's; they live as two processes do."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from typing import Any, TypeVar

from tests.support.namespaces import network_of

SERVER = "192.0.2.1"
NETWORK = "192.0.2.0/24"
TIMEOUT = 20
Result = TypeVar("Result")


class Cable:
    """Holds the namespaces; `run` and `inside` work in them.

    The guest's has a /sys of its own, and a /proc/sys that is the namespace's anyway.
    """

    def __init__(self) -> None:
        self._holders: list[subprocess.Popen[bytes]] = []
        self.server = self._hold("echo; exec sleep 600")
        self.guest = self._hold("mount -t sysfs sysfs /sys && echo && exec sleep 600")
        self.run(self.server, "ip", "link", "add", "srv0", "type", "veth", "peer", "eth0", "netns", str(self.guest))
        self.run(self.server, "ip", "address", "add", f"{SERVER}/24", "dev", "srv0")
        self.run(self.server, "ip", "link", "set", "srv0", "up")
        self.mac = bytes.fromhex(self.json("link", "show", "eth0")[0]["address"].replace(":", ""))

    def _hold(self, script: str) -> int:
        command = ["unshare", "--net", "--mount", "sh", "-c", script]
        holder = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert holder.stdout is not None
        self._holders.append(holder)
        assert holder.stdout.readline() == b"\n"
        return holder.pid

    def run(self, pid: int, *command: str) -> str:
        """Run a program in the namespaces of that end."""
        done = subprocess.run(
            ["nsenter", f"--target={pid}", "--net", "--mount", *command],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def inside(self, pid: int, action: Callable[[], Result]) -> Result:
        """Call in that network namespace: the sockets that it makes stay there."""
        with network_of(pid):
            return action()

    def json(self, *words: str) -> Any:
        """What `ip -j WORDS` says at the guest's end."""
        return json.loads(self.run(self.guest, "ip", "-j", *words) or "[]")

    def addresses(self) -> list[str]:
        """The guest's IPv4 addresses on eth0, with their prefixes."""
        (link,) = self.json("-4", "address", "show", "dev", "eth0") or [{"addr_info": []}]
        return [f"{one['local']}/{one['prefixlen']}" for one in link.get("addr_info", []) if "local" in one]

    def routes(self) -> dict[str, str]:
        """The guest's routes that are not the kernel's own: destination to gateway, or to `link`."""
        found = [one for one in self.json("-4", "route", "show") if one.get("protocol") != "kernel"]
        assert all(one["dev"] == "eth0" and one.get("protocol", "boot") == "boot" for one in found)
        return {one["dst"]: one.get("gateway", one.get("scope")) for one in found}

    def mtu(self) -> int:
        """The guest's MTU of eth0."""
        size: int = self.json("link", "show", "eth0")[0]["mtu"]
        return size

    def packet_socket(self) -> socket.socket:
        """A socket for whole frames at the server's end."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            made.bind(("srv0", 0x0800))
            return made

        return self.inside(self.server, make)

    def close(self) -> None:
        """End both namespaces, and with them all that is in there."""
        for holder in self._holders:
            holder.kill()
            holder.wait(TIMEOUT)
            assert holder.stdout is not None
            holder.stdout.close()


def number(address: str) -> bytes:
    """An address as it is on the wire."""
    return socket.inet_aton(address)
