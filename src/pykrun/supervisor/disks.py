"""The disks of a VM whose engine has none of its own: a process for each, ours for raw images, QEMU's for others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from pykrun.engine import Endpoint, Running
from pykrun.errors import PeerError, PykrunError
from pykrun.loop import EDGE, IN, Loop
from pykrun.machine import Disk, disk_name
from pykrun.sandbox import Wish
from pykrun.sandbox.servant import Servant, Service, serve
from pykrun.vhost_user import UML_FEATURES, Backend
from pykrun.virtio.block import BlockDevice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

    from pykrun.engine.storage import StorageDaemon

BROKEN = "the guest broke a protocol: "
_LAST_WORDS = 1.0  # seconds that a server which hung up has for its end


class DiskServers:
    """What serves the disks.

    :param on_end: called with a reason when a server has failed.
    """

    def __init__(self, loop: Loop, on_end: Callable[[str], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self._stack = ExitStack()
        self._servers: list[Servant | StorageDaemon] = []

    def start(self, running: Running, disks: tuple[Disk, ...], wish: Wish) -> None:
        """Start a server for each of the engine's endpoints.

        :raise SandboxError: the required isolation is not to be had.
        :raise EngineError: the host can run no further process.
        :raise MissingError: the program that serves images that are not raw is not installed.
        """
        for index, (endpoint, disk) in enumerate(zip(running.disks, disks, strict=True)):
            start = self._start_ours if disk.format == "raw" else self._start_qemus
            start(endpoint, disk, disk_name(index), wish)

    def _start_ours(self, endpoint: Endpoint, disk: Disk, name: str, wish: Wish) -> None:
        service = Service(
            name=f"pykrun {name}",
            serve=partial(serve_disk, endpoint, disk),
            descriptors=(endpoint.fileno(), disk.descriptor),
        )
        self._watch(serve(service, wish), _title(name, disk))
        endpoint.close()

    def _start_qemus(self, endpoint: Endpoint, disk: Disk, name: str, wish: Wish) -> None:
        from pykrun.engine import storage
        from pykrun.vhost_user.relay import Relay

        daemon = storage.launch(disk, wish)
        self._watch(daemon, _title(name, disk))

        def end(error: PykrunError | None) -> None:
            if isinstance(error, PeerError):
                self._on_end(f"{_title(name, disk)}: {BROKEN}{error}")
            elif error is not None:  # its end, which follows, says more
                self._loop.call_later(_LAST_WORDS, partial(self._on_end, f"{_title(name, disk)}: {error}"))

        def relay(front: socket) -> None:
            try:
                daemon.await_connection()
            except PykrunError as error:
                front.close()
                self._on_end(f"{_title(name, disk)}: {error}")
                return
            between = Relay(self._loop, front, daemon.connection, hidden=storage.HIDDEN, on_close=end)
            self._stack.callback(between.close)

        when_connected(self._loop, endpoint, relay)

    def _watch(self, server: Servant | StorageDaemon, title: str) -> None:
        self._stack.callback(server.close)
        self._servers.append(server)
        self._loop.add(server.pidfd, IN, partial(self._ended, server, title))
        self._stack.callback(self._loop.remove, server.pidfd)

    def _ended(self, server: Servant | StorageDaemon, title: str, _events: int) -> None:
        reason = server.reap()
        if reason is None:
            return
        self._loop.remove(server.pidfd)
        if reason:
            self._on_end(f"{title}: {reason}")

    @property
    def isolation(self) -> str:
        """How isolated the servers are, for people: each kind once."""
        try:
            return "; ".join(dict.fromkeys(server.isolation.description for server in self._servers))
        except PykrunError as error:
            return str(error)

    def close(self) -> None:
        """End the servers."""
        self._stack.close()


def _title(name: str, disk: Disk) -> str:
    return f"disk {name}, {disk.path!r}"


def when_connected(loop: Loop, endpoint: Endpoint, use: Callable[[socket], None]) -> None:
    """Call `use` with the engine's connection as soon as it is there."""
    fd = endpoint.fileno()

    def connect(_events: int) -> None:
        loop.remove(fd)
        connection = endpoint.accept()
        if connection is not None:
            use(connection)
        else:
            loop.add(fd, IN | EDGE, connect)

    loop.add(fd, IN | EDGE, connect)


def serve_disk(endpoint: Endpoint, disk: Disk) -> None:
    """Serve one raw image until the engine hangs up: the life of a servant.

    :raise PeerError: the engine or the guest broke a protocol.
    """
    loop = Loop()
    ends: list[Exception] = []

    def end(error: Exception | None) -> None:
        if error is not None:
            ends.append(error)
        loop.stop()

    def use(connection: socket) -> None:
        device = BlockDevice(disk.descriptor, disk.size, read_only=disk.read_only, serial=disk.serial)
        Backend(
            loop,
            device,
            connection,
            protocol_features=UML_FEATURES,
            on_close=end,
            on_broken=lambda _index, error: end(error),
        )

    when_connected(loop, endpoint, use)
    loop.run()
    if ends:
        what = BROKEN if isinstance(ends[0], PeerError) else "the device failed: "
        raise PeerError(what + str(ends[0]))
