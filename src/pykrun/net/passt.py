"""passt: an ordinary process that turns the packets of a guest into sockets of this host, and back.

Other than a bridge or a tap device it needs no rights, and the engine stays in its own, empty network namespace.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pykrun.errors import MissingError, UsageError
from pykrun.host import linux
from pykrun.host.programs import find_program
from pykrun.machine import Network
from pykrun.net import addresses
from pykrun.net.publish import Publish
from pykrun.net.surroundings import Surroundings, look
from pykrun.sandbox import unprivileged_identity

PROGRAM = "passt"
INSTALL = {"apt": "passt", "dnf": "passt", "pacman": "passt"}
"""The package that brings it, by package manager; Debian has it from 12 on."""

_CONNECTION = 3  # its descriptor in passt
_KEPT = 4096  # bytes of its last words
_NOISE = (b"Failed to send", b"Don't run as root", b"No external routable", b"Couldn't get any nameserver")
_NO_NAMESPACE = "user namespace"
_FIRST_UNPRIVILEGED = 1024


def find() -> Path | None:
    """Return the installed program, None when there is none."""
    return find_program(PROGRAM)


def words(network: Network, publish: Sequence[Publish], around: Surroundings) -> list[str]:
    """Return passt's command line."""
    command = [
        PROGRAM,
        *("--foreground", "--quiet", "--stderr"),
        *("--fd", str(_CONNECTION)),  # and it ends when that ends
        *("--mtu", str(network.mtu)),
        *("--mac-addr", addresses.GATEWAY_MAC),
        *("--address", addresses.GUEST4, "--netmask", str(addresses.PREFIX4), "--gateway", addresses.GATEWAY4),
    ]
    if around.ipv6:
        command += ["--address", addresses.GUEST6, "--gateway", addresses.GATEWAY6]
    else:
        command += ["--ipv4-only"]
    if not around.ipv4:  # it takes the interface with the default route, and without one refuses to start
        command += ["--interface", around.ipv6 or "lo"]
    # The gateway is to stand for this host only where it must: to hand on DNS, and to take a datagram's answer back to
    # whoever asked from the loopback. `border` lets nothing else pass.
    if not around.local_resolver and not any(entry.protocol == "udp" for entry in publish):
        command += ["--no-map-gw"]
    for entry in publish:
        last = entry.count - 1
        ports = f"{entry.host}-{entry.host + last}:{entry.guest}-{entry.guest + last}"
        option = "--udp-ports" if entry.protocol == "udp" else "--tcp-ports"
        command += [option, f"{entry.address}/{ports}"]
    return command


class Passt:
    """A running passt.

    :ivar pid: its process id.
    :ivar pidfd: readable as soon as it has ended.
    :ivar messages: what it says, non-blocking; call `listen` when there is something.
    """

    def __init__(self, pid: int, pidfd: int, messages: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.messages = messages
        self._heard = b""
        self._status: int | None = None

    def listen(self) -> bool:
        """Take what it says, of which the end is kept; False when it will say no more."""
        try:
            chunk = os.read(self.messages, 65536)
        except BlockingIOError:
            return True
        self._heard = (self._heard + chunk)[-_KEPT:]
        return bool(chunk)

    def describe_end(self) -> str:
        """Say how it ended: its own last line, or its status; nothing while it runs."""
        if not self._reap():
            return ""
        while self.listen() and select.select([self.messages], [], [], 0)[0]:
            pass
        lines = [line for line in self._heard.splitlines() if line.strip() and not line.startswith(_NOISE)]
        if lines and self._status != 0:
            return lines[-1].decode(errors="replace").strip()
        code = os.waitstatus_to_exitcode(self._status or 0)
        return f"it exited with {code}" if code >= 0 else f"it was ended by signal {-code}"

    def close(self) -> None:
        """End it if it still runs, and give everything back; may be called again."""
        if self.pidfd < 0:
            return
        if not self._reap():
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            _, self._status = os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        os.close(self.messages)
        self.pidfd = self.messages = -1

    def _reap(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
        return self._status is not None


def hint(reason: str) -> str:
    """Return what can be done about passt's last words, or nothing."""
    return "passt needs user namespaces, see docs/network.md" if _NO_NAMESPACE in reason else ""


def start(
    connection: socket.socket, network: Network, publish: Sequence[Publish] = (), around: Surroundings | None = None
) -> Passt:
    """Start passt on a connected socket, which it gets a copy of; the caller must be single threaded.

    It binds the published ports some milliseconds later, and ends with a message if it cannot.

    :param around: what this host has; None to look now.
    :raise MissingError: it is not installed.
    :raise UsageError: an IPv6 address is to be published, and this host has no IPv6.
    """
    around = around or look()
    program = find()
    if program is None:
        raise MissingError(
            "passt is not installed, which --net user needs",
            "Debian, Fedora and Arch have a package of that name; `pykrun doctor` names the command that installs it",
        )
    for entry in publish:
        if entry.family == socket.AF_INET6 and not around.ipv6:
            raise UsageError(f"cannot publish {entry.text}: this host has no IPv6 route, and so the guest no IPv6")
    arguments = words(network, publish, around)
    is_low = any(entry.host < _FIRST_UNPRIVILEGED for entry in publish)
    messages, write = os.pipe2(os.O_CLOEXEC)
    supervisor = os.pidfd_open(os.getpid())
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid, pidfd = linux.clone(0)
        if pid == 0:
            _run(str(program), arguments, connection.fileno(), write, supervisor, is_low)
    except BaseException:
        os.close(messages)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(write)
        os.close(supervisor)
    fcntl.fcntl(messages, fcntl.F_SETFL, os.O_NONBLOCK)
    return Passt(pid, pidfd, messages)


def _run(program: str, arguments: list[str], connection: int, messages: int, supervisor: int, is_low: bool) -> NoReturn:
    """Become passt, in a fresh copy of the supervisor with all signals blocked; never returns."""
    try:
        _prepare(supervisor, is_low)
        _take_places(connection, messages)
        messages = 2
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(program, arguments, {"PATH": "/usr/bin:/bin", "LC_ALL": "C"})
    except BaseException as error:
        os.write(messages, f"{program} cannot be started: {error}\n".encode(errors="replace"))
    finally:
        os._exit(125)


def _prepare(supervisor: int, is_low: bool) -> None:
    os.setsid()
    os.chdir("/")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    identity = unprivileged_identity()
    if identity is not None:
        linux.become(*identity, linux.CAP_NET_BIND_SERVICE if is_low else None)
    linux.set_parent_death_signal(signal.SIGKILL)  # the kernel forgets it when the ids change
    if select.select([supervisor], [], [], 0)[0]:
        os._exit(125)  # it is gone already
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):  # two are the C library's
            signal.signal(number, signal.SIG_DFL)


def _take_places(connection: int, messages: int) -> None:
    """Put passt's descriptors where it looks for them; close all others."""
    places = (os.open(os.devnull, os.O_RDONLY), messages, messages, connection)
    parked = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, len(places)) for descriptor in places]
    for place, descriptor in enumerate(parked):
        os.dup2(descriptor, place)
    os.closerange(len(places), 1 << 30)
