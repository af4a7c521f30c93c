"""Connects a running engine with what is served: the root's file system and the console's ports."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from pykrun import start_data
from pykrun.engine import Endpoint, Running
from pykrun.errors import PeerError
from pykrun.loop import EDGE, IN, Loop
from pykrun.machine import ROOT_TAG
from pykrun.ports import NoSink, NoSource, Sink, Source
from pykrun.root import INIT_PATH, Root
from pykrun.supervisor.socket_port import BufferedSink, SocketPort
from pykrun.vhost_user import FRONT_ENDS, QEMU_CONFIG_FEATURES, QEMU_FEATURES, Backend
from pykrun.virtio import Device, FsDevice
from pykrun.virtio.console import ConsoleDevice, ConsolePort

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pykrun.fs import AugmentFs
    from pykrun.supervisor.consoles import Consoles

CONSOLE_KEPT = 64 << 20
"""Bytes of a terminal's output that wait for a slow reader, where the engine would drop them."""


Ends = tuple[Sink | None, Source | None]


def compose(
    root: Root, start: start_data.StartData, init: str | os.PathLike[str] | None, on_exit_code: Callable[[int], None]
) -> AugmentFs:
    """Make the file system of a root without a host directory: what was added, init (if there is one), the start data.

    It takes over the descriptors that the root has opened.
    """
    # Here, for a VM whose root is a shared directory serves no files in this process.
    from pykrun.fs import AugmentFs, FileSource, InodeAllocator, NullFs
    from pykrun.share import add_entries

    filesystem = AugmentFs(NullFs(), InodeAllocator(), on_exit_code=on_exit_code)
    try:
        add_entries(filesystem, root)
        if init is not None and INIT_PATH not in root.files:
            filesystem.add_file(INIT_PATH, FileSource.of_path(init), mode=0o755, one_shot=True)
        filesystem.add_file(start_data.PATH, start.encode(), mode=0o400, one_shot=True)
    except BaseException:
        filesystem.close()
        raise
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
        self._kept: BufferedSink | None = None
        self._device: ConsoleDevice | None = None

    def root(
        self,
        root: Root,
        start: start_data.StartData,
        init: str | os.PathLike[str] | None,
        on_exit_code: Callable[[int], None],
    ) -> None:
        """Serve the root file system."""
        from pykrun.fuse import Server

        filesystem = compose(root, start, init, on_exit_code)
        self._stack.callback(filesystem.close)
        server = Server(filesystem)
        self._attach(self._running.shares[0], FsDevice(ROOT_TAG.encode(), server.handle, reset=server.reset))

    def ports(self, ends: Mapping[str, Ends], console: Ends | None, on_end: Callable[[], None]) -> None:
        """Serve the console ports; `on_end` is called when one of them came to its end."""
        running = self._running
        if running.console_device is not None:
            ports = [] if console is None else [ConsolePort("", *console, console=True)]
            ports += [ConsolePort(name, *pair) for name, pair in ends.items()]
            device = ConsoleDevice(ports)
            self._device = device if device.has_consoles else None
            self._attach(running.console_device, device)
            return
        sockets = [(running.ports[name], pair) for name, pair in ends.items()]
        if console is not None and running.terminal is not None:
            self._kept = BufferedSink(console[0] or NoSink(), CONSOLE_KEPT, on_end)
            sockets.append((running.terminal, (self._kept, console[1])))
        for connection, (sink, source) in sockets:
            port = SocketPort(self._loop, connection, sink or NoSink(), source or NoSource(), on_end=on_end)
            self._stack.callback(port.close)
            self._sockets.append(port)

    def consoles(self, consoles: Consoles) -> None:
        """Serve the further consoles and serial lines; after `ports`, whose console is the first one."""
        running = self._running
        after = self._device
        for index, endpoint in enumerate(running.consoles):
            device = consoles.device(index, after)
            if device.has_consoles:
                after = device
            self._attach(endpoint, device)
        for index, connections in enumerate(running.console_ports):
            for number, connection in enumerate(connections):
                consoles.attach(index, number, connection)
        for index, connection in enumerate(running.serials):
            consoles.attach_serial(index, connection)

    def network(self, index: int, device: Device) -> None:
        """Serve the network device of that place in `Machine.networks`."""
        self._attach(self._running.networks[index], device)

    def vsock(self, device: Device) -> None:
        """Serve the vsock device."""
        assert self._running.vsock is not None, "the machine was launched with vsock"
        self._attach(self._running.vsock, device)

    def _attach(self, endpoint: Endpoint, device: Device) -> None:
        """Serve `device` on `endpoint` as soon as the engine is connected."""
        if endpoint.connected:
            self._serve(endpoint, device)
            return
        fd = endpoint.fileno()

        def connect(_events: int) -> None:
            self._loop.remove(fd)
            if endpoint.accept() is not None:
                self._serve(endpoint, device)
            else:
                self._loop.add(fd, IN | EDGE, connect)

        self._loop.add(fd, IN | EDGE, connect)
        self._stack.callback(lambda: None if endpoint.connected else self._loop.remove(fd))

    def _serve(self, endpoint: Endpoint, device: Device) -> None:
        features = FRONT_ENDS[self._running.engine]
        if features == QEMU_FEATURES and endpoint is self._running.vsock:
            features = QEMU_CONFIG_FEATURES
        backend = Backend(
            self._loop,
            device,
            endpoint.socket,
            protocol_features=features,
            on_close=self._closed,
            on_broken=lambda index, error: self._on_error(error),
        )
        self._stack.callback(backend.close)

    def _closed(self, error: Exception | None) -> None:
        if error is not None:
            self._on_error(error if isinstance(error, PeerError) else PeerError(f"a device failed: {error!r}"))

    def drain(self) -> None:
        """The engine has ended: take what is left in its sockets."""
        for port in self._sockets:
            port.drain()

    @property
    def drained(self) -> bool:
        """Whether everything that the engine had sent was handed on."""
        return all(port.ended for port in self._sockets) and (self._kept is None or self._kept.empty)

    def close(self) -> None:
        """Close connections, devices and the guest's memory."""
        self._stack.close()
