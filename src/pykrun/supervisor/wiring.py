"""Connects a running engine with what is served: the root's file system and the console's ports."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from pykrun import start_data
from pykrun.engine import Endpoint, Running
from pykrun.errors import PeerError
from pykrun.fs import AugmentFs, InodeAllocator, NullFs
from pykrun.fuse import Server
from pykrun.loop import Loop
from pykrun.machine import ROOT_TAG
from pykrun.ports import NoSink, NoSource, Sink, Source
from pykrun.root import INIT_PATH, Root
from pykrun.supervisor.socket_port import SocketPort
from pykrun.vhost_user import accept_one
from pykrun.virtio import ConsoleDevice, Device, FsDevice, Port

Ends = tuple[Sink | None, Source | None]


def compose(
    root: Root, start: start_data.StartData, init: str | os.PathLike[str], on_exit_code: Callable[[int], None]
) -> AugmentFs:
    """Make the file system of a root without a host directory: what was added, init, the start data."""
    filesystem = AugmentFs(NullFs(), InodeAllocator(), on_exit_code=on_exit_code)
    for path, mode in root.missing_directories().items():
        filesystem.add_directory(path, mode=mode)
    if INIT_PATH not in root.files:
        fd = os.open(init, os.O_RDONLY | os.O_CLOEXEC)
        filesystem.add_file(INIT_PATH, fd, mode=0o755, one_shot=True)
    filesystem.add_file(start_data.PATH, bytearray(start.encode()), mode=0o400, one_shot=True)
    for file in root.files.values():
        filesystem.add_file(file.path, file.content, mode=file.mode, one_shot=file.one_shot)
    return filesystem


class Wiring:
    """The servers of one VM, on its supervisor's loop.

    :param on_error: called when an engine or guest breaks a protocol; what it spoke to has been closed by then.
    """

    def __init__(self, loop: Loop, running: Running, on_error: Callable[[PeerError], None]) -> None:
        self._loop = loop
        self._running = running
        self._on_error = on_error
        self._stack = ExitStack()
        self._sockets: list[SocketPort] = []

    def root(
        self,
        root: Root,
        start: start_data.StartData,
        init: str | os.PathLike[str],
        on_exit_code: Callable[[int], None],
    ) -> None:
        """Serve the root file system."""
        server = Server(compose(root, start, init, on_exit_code))
        self._attach(self._running.shares[0], FsDevice(ROOT_TAG, server.handle, reset=server.reset))

    def ports(self, ends: Mapping[str, Ends], console: Ends | None, on_end: Callable[[], None]) -> None:
        """Serve the console ports; `on_end` is called when one of them came to its end."""
        whole = {name: (sink or NoSink(), source or NoSource()) for name, (sink, source) in ends.items()}
        if isinstance(self._running.ports, Endpoint):
            ports = [Port(name, sink, source) for name, (sink, source) in whole.items()]
            terminal = None if console is None else (console[0] or NoSink(), console[1] or NoSource())
            self._attach(self._running.ports, ConsoleDevice(ports, console=terminal))
            return
        if console is not None:
            whole["hvc0"] = (console[0] or NoSink(), console[1] or NoSource())
        for name, (sink, source) in whole.items():
            port = SocketPort(self._loop, self._running.ports[name], sink, source, on_end=on_end)
            self._stack.callback(port.close)
            self._sockets.append(port)

    def _attach(self, endpoint: Endpoint, device: Device) -> None:
        self._stack.callback(accept_one(self._loop, endpoint, device, self._on_error).close)

    def drain(self) -> None:
        """The engine has ended: take what is left in its sockets."""
        for port in self._sockets:
            port.drain()

    @property
    def drained(self) -> bool:
        """Whether everything that the engine had sent was handed on."""
        return all(port.ended for port in self._sockets)

    def close(self) -> None:
        """Close connections, devices and the guest's memory."""
        self._stack.close()
