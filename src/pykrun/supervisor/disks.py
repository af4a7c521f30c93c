"""The disks of a VM whose engine has none of its own: a server in a process of its own for each."""

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


class DiskServers:
    """What serves the disks.

    :param on_end: called with a reason when a server has failed.
    """

    def __init__(self, loop: Loop, on_end: Callable[[str], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self._stack = ExitStack()
        self._servants: list[Servant] = []

    def start(self, running: Running, disks: tuple[Disk, ...], wish: Wish) -> None:
        """Start a server for each of the engine's endpoints.

        :raise SandboxError: the required isolation is not to be had.
        :raise EngineError: the host can run no further process.
        """
        for index, (endpoint, disk) in enumerate(zip(running.disks, disks, strict=True)):
            service = Service(
                name=f"pykrun {disk_name(index)}",
                serve=partial(_serve, endpoint, disk),
                descriptors=(endpoint.fileno(), disk.descriptor),
            )
            servant = serve(service, wish)
            self._stack.callback(servant.close)
            self._servants.append(servant)
            endpoint.close()
            self._loop.add(servant.pidfd, IN, partial(self._ended, servant, f"disk {disk_name(index)}, {disk.path!r}"))
            self._stack.callback(self._loop.remove, servant.pidfd)

    def _ended(self, servant: Servant, disk: str, _events: int) -> None:
        reason = servant.reap()
        if reason is None:
            return
        self._loop.remove(servant.pidfd)
        if reason:
            self._on_end(f"{disk}: {reason}")

    @property
    def isolation(self) -> str:
        """How isolated the servers are, for people: the first that is not like the others counts least."""
        try:
            return self._servants[0].isolation.description if self._servants else ""
        except PykrunError as error:
            return str(error)

    def close(self) -> None:
        """End the servers."""
        self._stack.close()


def _serve(endpoint: Endpoint, disk: Disk) -> None:
    """Serve one disk until the engine hangs up: the life of a servant.

    :raise PeerError: the engine or the guest broke a protocol.
    """
    loop = Loop()
    ends: list[Exception] = []

    def end(error: Exception | None) -> None:
        if error is not None:
            ends.append(error)
        loop.stop()

    def connect(_events: int) -> None:
        listener = endpoint.fileno()
        loop.remove(listener)
        connection = endpoint.accept()
        if connection is None:
            loop.add(listener, IN | EDGE, connect)
            return
        device = BlockDevice(disk.descriptor, disk.size, read_only=disk.read_only, serial=disk.serial)
        Backend(
            loop,
            device,
            connection,
            protocol_features=UML_FEATURES,
            on_close=end,
            on_broken=lambda _index, error: end(error),
        )

    loop.add(endpoint.fileno(), IN | EDGE, connect)
    loop.run()
    if ends:
        what = "the guest broke a protocol: " if isinstance(ends[0], PeerError) else "the device failed: "
        raise PeerError(what + str(ends[0]))
