"""A host and a server on a cable, each in a network namespace of its own: all the internet that a test sees.

The host's has a mount namespace too, with an /etc/resolv.conf of its own.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from pykrun.loop import Loop
from tests.support.namespaces import CLONE_NEWNET, CLONE_NEWNS, enter, network_of

HOST4, SERVER4 = "192.0.2.1", "192.0.2.2"
HOST6, SERVER6 = "2001:db8::1", "2001:db8::2"
NAME = "there.test"
TIMEOUT = 20
Result = TypeVar("Result")


def turn(loop: Loop, seconds: float) -> None:
    """Let the loop run for that long."""
    loop.call_later(seconds, loop.stop)
    loop.run()


class Internet:
    """Both namespaces. Needs root.

    :param folder: for the files of this test.
    :param routed: the host has routes to everywhere; else it has no cable at all.
    :param ipv6: its routes are for IPv6 too.
    """

    def __init__(self, folder: Path, *, routed: bool = True, ipv6: bool = True) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self.resolvers = folder / "resolv.conf"
        self.resolvers.write_text(f"nameserver {SERVER4}\n")
        self.folder = folder
        target = os.path.realpath("/etc/resolv.conf")
        self.host = self._hold("--mount", f"mount --bind '{self.resolvers}' '{target}'")
        self.server = self._hold()
        if not routed:
            return
        self.run(self.host, "ip link add up0 type veth peer name down0 netns", str(self.server))
        for pid, device, *addresses in ((self.host, "up0", HOST4, HOST6), (self.server, "down0", SERVER4, SERVER6)):
            self.run(pid, f"ip address add {addresses[0]}/24 dev {device}")
            if ipv6:
                self.run(pid, f"ip address add {addresses[1]}/64 dev {device} nodad")
            else:
                self.inside(pid, partial(self._disable_ipv6, device))
            self.run(pid, f"ip link set {device} up")
        self.run(self.host, f"ip route add default via {SERVER4}")
        if ipv6:
            self.run(self.host, f"ip -6 route add default via {SERVER6}")
            self._await_link_local()

    def _hold(self, option: str = "--net", script: str = ":") -> int:
        command = ["unshare", "--net", option, "sh", "-c", f"ip link set lo up && {script} && echo && exec sleep 600"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self._processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        return process.pid

    def _disable_ipv6(self, device: str) -> None:
        Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").write_text("1")

    def _await_link_local(self) -> None:
        """passt serves IPv6 only when the interface has its link-local address, and that is no tentative one."""
        end = time.monotonic() + TIMEOUT
        while (
            b"tentative" in (said := self.run(self.host, "ip -6 address show dev up0 scope link"))
            or b"fe80" not in said
        ):
            assert time.monotonic() < end
            time.sleep(0.05)

    def run(self, pid: int, *words: str) -> bytes:
        """Run a command (split at blanks) in the namespaces of `host` or `server`; return what it prints."""
        command = ["nsenter", f"--target={pid}", "--net", "--mount", *" ".join(words).split()]
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def start(self, pid: int, *words: str) -> subprocess.Popen[bytes]:
        """Start a program there; it is ended at the end of the test."""
        command = ["nsenter", f"--target={pid}", "--net", "--mount", *words]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self._processes.append(process)
        return process

    def inside(self, pid: int, action: Callable[[], Result]) -> Result:
        """Call in the network namespace of `host` or `server`: the sockets that it makes stay there."""
        with network_of(pid):
            return action()

    @contextmanager
    def on_host(self) -> Iterator[None]:
        """Be in the host's network namespace with this thread: what it starts is there, and lives as it does."""
        with network_of(self.host):
            yield

    def enter_host(self, folder: Path) -> None:
        """For a child between fork and exec: be a process of the host."""
        enter(self.host, "net", CLONE_NEWNET)
        enter(self.host, "mnt", CLONE_NEWNS)
        os.chdir(folder)

    def dnsmasq(self, pid: int, address: str) -> None:
        """A name server there that knows `NAME`."""
        words = ["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--pid-file="]
        words += ["--user=root", f"--listen-address={address}", "--bind-interfaces"]
        words += [f"--host-record={NAME},{SERVER4},{SERVER6}"]
        server = self.start(pid, *words)
        end = time.monotonic() + TIMEOUT
        while f"{address}:53 ".encode() not in self.run(pid, "ss -Huln"):
            assert server.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)

    def listener(self, pid: int, address: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket in that namespace, bound, and listening for connections."""

        def make() -> socket.socket:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            if kind == socket.SOCK_STREAM:
                sock.listen(16)
            sock.settimeout(TIMEOUT)
            return sock

        return self.inside(pid, make)

    def connect(self, pid: int, address: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A connected socket in that namespace."""

        def make() -> socket.socket:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
            sock.settimeout(TIMEOUT)
            try:
                sock.connect((address, port))
            except OSError:
                sock.close()
                raise
            return sock

        return self.inside(pid, make)

    def close(self) -> None:
        """End everything."""
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
