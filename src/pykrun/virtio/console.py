"""The virtio-console device with multiple ports (virtio 1.2, section 5.3), for engines that have none of their own.

Queues: 0 and 1 are port 0's receive and transmit queue, 2 and 3 the control queues, then two for each further port.
What the driver does with them is Linux's drivers/char/virtio_console.c. The console's window has no size here: the
guest's init sets it, and learns of changes by the control port (docs/control-port.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from struct import Struct

from pykrun.buffers import scatter, skip
from pykrun.errors import VirtqueueError
from pykrun.ports import Sink, Source
from pykrun.virtio.device import Device
from pykrun.virtio.ring import Chain, Virtqueue

F_MULTIPORT = 1 << 1

# Control events (struct virtio_console_control)
DEVICE_READY = 0
PORT_ADD = 1
PORT_READY = 3
CONSOLE_PORT = 4
PORT_OPEN = 6
PORT_NAME = 7

CONTROL = Struct("<IHH")
"""struct virtio_console_control: port, event, value."""

MAX_PORTS = 31
MAX_NAME = 64

_CONFIG = Struct("<HHII")  # struct virtio_console_config: cols, rows, max_nr_ports, emerg_wr
_CONTROL_RECEIVE = 2
_CONTROL_TRANSMIT = 3
_RECEIVE_BATCH = 16  # buffers filled by one read from the source; Linux's have 4 KiB each
_MAX_OWED = 256  # control messages that wait for the driver; then its own wait too


class ConsolePort:
    """One port: what the guest writes goes to the sink, what it reads comes from the source.

    :param name: what the guest finds in /sys/class/virtio-ports/*/name.
    :param sink: None drops everything.
    :param source: None never has anything.
    """

    def __init__(self, name: str, sink: Sink | None = None, source: Source | None = None) -> None:
        self.name = name
        self.sink = sink
        self.source = source
        self.opened = False
        """Whether the guest has it open."""


class _PortState:
    """A port's queues, and the chain that the sink has not taken completely."""

    __slots__ = ("number", "pending", "pending_offset", "port", "receive", "transmit")

    def __init__(self, number: int, port: ConsolePort) -> None:
        self.number = number
        self.port = port
        self.receive: Virtqueue | None = None
        self.transmit: Virtqueue | None = None
        self.pending: Chain | None = None
        self.pending_offset = 0

    def wake_receive(self) -> None:
        if self.receive is not None:
            self.receive.wake()

    def wake_transmit(self) -> None:
        if self.transmit is not None:
            self.transmit.wake()


class ConsoleDevice(Device):
    """Ports and, if wanted, a console (hvc0 in the guest).

    :param ports: the named ports, in order.
    :param console: becomes port 0; its name is not told to the guest.
    :raise ValueError: too many ports, or a name that is empty or too long.
    """

    device_id = 3

    features = F_MULTIPORT

    def __init__(self, ports: Sequence[ConsolePort], console: ConsolePort | None = None) -> None:
        everything = list(ports) if console is None else [console, *ports]
        if not 0 < len(everything) <= MAX_PORTS:
            raise ValueError(f"{len(everything)} console ports, of at most {MAX_PORTS}")
        for port in ports:
            if not 0 < len(port.name.encode()) <= MAX_NAME or "\0" in port.name:
                raise ValueError(f"port name {port.name!r}")
        self.queue_count = 2 * (len(everything) + 1)
        self._console = console
        self._ports = [_PortState(number, port) for number, port in enumerate(everything)]
        self._control_receive: Virtqueue | None = None
        self._control_transmit: Virtqueue | None = None
        self._owed: deque[bytes] = deque()  # control messages for the driver
        for state in self._ports:
            if state.port.sink is not None:
                state.port.sink.on_ready = state.wake_transmit
            if state.port.source is not None:
                state.port.source.on_ready = state.wake_receive

    def config(self) -> bytes:
        """Return struct virtio_console_config."""
        return _CONFIG.pack(0, 0, len(self._ports), 0)

    # Hooks of Device

    def queue_started(self, queue: Virtqueue) -> None:
        """Remember the queue; what waits for it goes when it is served."""
        self._set_queue(queue.index, queue)

    def serve(self, queue: Virtqueue) -> None:
        """Move what can be moved on one queue."""
        index = queue.index
        if index == _CONTROL_RECEIVE:
            self._pay_owed(queue)
        elif index == _CONTROL_TRANSMIT:
            self._hear(queue)
        elif index & 1:
            _transmit(self._ports[_port_number(index)], queue)
        else:
            _receive(self._ports[_port_number(index)], queue)

    def queue_stopped(self, queue: Virtqueue) -> None:
        """Forget the queue. What the sink had not taken is lost: the guest has given up its own memory."""
        index = queue.index
        if index & 1 and index != _CONTROL_TRANSMIT:
            state = self._ports[_port_number(index)]
            if state.pending is not None:
                queue.push(state.pending, 0)
                state.pending = None
        self._set_queue(index, None)

    def reset(self) -> None:
        """The driver is gone: every port is closed."""
        self._owed.clear()
        for state in self._ports:
            state.port.opened = False

    def _set_queue(self, index: int, queue: Virtqueue | None) -> None:
        if index == _CONTROL_RECEIVE:
            self._control_receive = queue
        elif index == _CONTROL_TRANSMIT:
            self._control_transmit = queue
        elif index & 1:
            self._ports[_port_number(index)].transmit = queue
        else:
            self._ports[_port_number(index)].receive = queue

    # Control messages

    def _hear(self, queue: Virtqueue) -> None:
        """Take the driver's control messages, as long as it takes ours."""
        while len(self._owed) < _MAX_OWED and (chain := queue.pop()) is not None:
            size = sum(map(len, chain.readable))
            if size < CONTROL.size:
                raise VirtqueueError(f"control message of {size} bytes")
            # One copy before anything is looked at.
            head = b"".join(bytes(view[: CONTROL.size]) for view in chain.readable)[: CONTROL.size]
            queue.push(chain, 0)
            number, event, value = CONTROL.unpack(head)
            self._heard(number, event, value)
        self._wake_control()

    def _heard(self, number: int, event: int, value: int) -> None:
        if event == DEVICE_READY:
            if value:
                for state in self._ports:
                    self._tell(state.number, PORT_ADD, 1)
            return
        if number >= len(self._ports):
            return  # a port that is not: nothing to say about it
        state = self._ports[number]
        if event == PORT_READY and value:
            self._introduce(state)
        elif event == PORT_OPEN:
            state.port.opened = bool(value)
            state.wake_receive()

    def _introduce(self, state: _PortState) -> None:
        if state.port is self._console:
            self._tell(state.number, CONSOLE_PORT, 1)
        else:
            self._tell(state.number, PORT_NAME, 1, state.port.name.encode() + b"\0")
        self._tell(state.number, PORT_OPEN, 1)  # our end is always open

    def _tell(self, number: int, event: int, value: int, extra: bytes = b"") -> None:
        self._owed.append(CONTROL.pack(number, event, value) + extra)

    def _wake_control(self) -> None:
        if self._owed and self._control_receive is not None:
            self._control_receive.wake()

    def _pay_owed(self, queue: Virtqueue) -> None:
        was_full = len(self._owed) >= _MAX_OWED
        while self._owed and (chain := queue.pop()) is not None:
            queue.push(chain, scatter(self._owed.popleft(), chain.writable))
        if was_full and len(self._owed) < _MAX_OWED and self._control_transmit is not None:
            self._control_transmit.wake()


def _port_number(index: int) -> int:
    """Return whose data queue it is (virtio 1.2, 5.3.2): 0 and 1 are port 0's, 4 and 5 port 1's."""
    return 0 if index < _CONTROL_RECEIVE else index // 2 - 1


def _transmit(state: _PortState, queue: Virtqueue) -> None:
    """Hand what the guest has written to the sink, straight from its memory, until the sink is full."""
    sink = state.port.sink
    while True:
        chain = state.pending
        if chain is None:
            chain = queue.pop()
            if chain is None:
                return
            state.pending, state.pending_offset = chain, 0
        if sink is not None:
            buffers: Sequence[memoryview] = chain.readable
            if state.pending_offset:
                buffers = skip(buffers, state.pending_offset)
            size = sum(map(len, buffers))
            taken = sink.write(buffers) if size else 0
            if taken < size:
                state.pending_offset += taken
                return
        state.pending = None
        queue.push(chain, 0)


def _receive(state: _PortState, queue: Virtqueue) -> None:
    """Fill the guest's buffers from the source, straight into its memory, until either is out."""
    source = state.port.source
    if source is None:
        return
    while state.port.opened:  # what is sent before is dropped by the driver
        chains: list[Chain] = []
        while len(chains) < _RECEIVE_BATCH and (chain := queue.pop()) is not None:
            chains.append(chain)
        if not chains:
            return
        count = source.read_into([view for chain in chains for view in chain.writable])
        _deliver(queue, chains, count)
        if count == 0:
            return


def _deliver(queue: Virtqueue, chains: list[Chain], count: int) -> None:
    """Push the chains that `count` bytes have filled, in order, and give the others back."""
    filled = 0
    for chain in chains:
        if count <= 0:
            break
        room = sum(map(len, chain.writable))
        queue.push(chain, min(room, count))
        count -= room
        filled += 1
    for chain in reversed(chains[filled:]):
        queue.unpop(chain)
