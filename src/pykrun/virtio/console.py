"""The virtio-console device with multiple ports (virtio 1.2, section 5.3), for engines that have none of their own.

Queues: 0 and 1 are port 0's receive and transmit queue, 2 and 3 the control queues, then two for each further port.
What the driver does with them is Linux's drivers/char/virtio_console.c.

A console's window has a size only if its port says so: that of the workload's terminal is set by the guest's init,
which learns of changes by the control port (docs/control-port.md).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from struct import Struct

from pykrun.buffers import scatter, skip
from pykrun.errors import VirtqueueError
from pykrun.ports import Sink, Source
from pykrun.virtio.device import Device
from pykrun.virtio.ring import Chain, Virtqueue

F_SIZE = 1 << 0
F_MULTIPORT = 1 << 1

# Control events (struct virtio_console_control)
DEVICE_READY = 0
PORT_ADD = 1
PORT_READY = 3
CONSOLE_PORT = 4
RESIZE = 5
PORT_OPEN = 6
PORT_NAME = 7

CONTROL = Struct("<IHH")
"""struct virtio_console_control: port, event, value."""

SIZE = Struct("<HH")
"""What follows a RESIZE: columns and rows (5.3.6.2). Kernels until spring of 2025 take them the other way round."""

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
    :param console: a terminal of the guest, hvcN.
    :param window: returns rows and columns of the console, None while it has no size; None if it never has.
    """

    def __init__(
        self,
        name: str,
        sink: Sink | None = None,
        source: Source | None = None,
        *,
        console: bool = False,
        window: Callable[[], tuple[int, int] | None] | None = None,
    ) -> None:
        self.name = name
        self.sink = sink
        self.source = source
        self.console = console
        self.window = window
        self.opened = False
        """Whether the guest has it open."""
        self.ended = False
        """Nothing more will come from its source, and the guest is to know."""


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

    :param ports: in order.
    :param after: a device whose consoles are to have the lower numbers: Linux numbers them as they come. This one keeps
        its ports back until the driver has taken those.
    :raise ValueError: too many ports, or a name that is too long, or empty where it is no console's.
    """

    device_id = 3

    def __init__(self, ports: Sequence[ConsolePort], after: ConsoleDevice | None = None) -> None:
        if not 0 < len(ports) <= MAX_PORTS:
            raise ValueError(f"{len(ports)} console ports, of at most {MAX_PORTS}")
        for port in ports:
            size = len(port.name.encode())
            if size > MAX_NAME or "\0" in port.name or (size == 0 and not port.console):
                raise ValueError(f"port name {port.name!r}")
        self.features = F_MULTIPORT | (F_SIZE if any(port.window for port in ports) else 0)
        self.queue_count = 2 * (len(ports) + 1)
        self._after = after
        self._on_numbered: Callable[[], None] | None = None
        self._ports = [_PortState(number, port) for number, port in enumerate(ports)]
        self._unnumbered = self._consoles()
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
        self._unnumbered = self._consoles()
        for state in self._ports:
            state.port.opened = False

    @property
    def has_consoles(self) -> bool:
        """Whether one of the ports is a console."""
        return any(state.port.console for state in self._ports)

    # What the host's end of a port has to say

    def resized(self) -> None:
        """Windows have changed."""
        for state in self._ports:
            if state.port.opened:
                self._tell_size(state)
        self._wake_control()

    def end_input(self, port: ConsolePort) -> None:
        """Nothing more will come from a port's source: who reads it in the guest finds its end. Writers wait then."""
        port.ended = True
        for state in self._ports:
            if state.port is port and port.opened:
                self._tell(state.number, PORT_OPEN, 0)
        self._wake_control()

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
                self._add_ports()
            return
        if number >= len(self._ports):
            return  # a port that is not: nothing to say about it
        state = self._ports[number]
        if event == PORT_READY and value:
            self._introduce(state)
        elif event == PORT_OPEN:
            state.port.opened = bool(value)
            self._note_number(number)
            state.wake_receive()

    def _consoles(self) -> set[int]:
        return {state.number for state in self._ports if state.port.console}

    def _note_number(self, number: int) -> None:
        """The driver opens a console as soon as it has given it a number."""
        self._unnumbered.discard(number)
        if not self._unnumbered and self._on_numbered is not None:
            on_numbered, self._on_numbered = self._on_numbered, None
            on_numbered()

    def _add_ports(self) -> None:
        if self._after is not None and self._after._unnumbered and self._unnumbered:
            self._after._on_numbered = self._add_ports
            return
        for state in self._ports:
            self._tell(state.number, PORT_ADD, 1)
        self._wake_control()

    def _introduce(self, state: _PortState) -> None:
        port = state.port
        if port.console:
            self._tell(state.number, CONSOLE_PORT, 1)
        if port.name:
            self._tell(state.number, PORT_NAME, 1, port.name.encode() + b"\0")
        self._tell(state.number, PORT_OPEN, 0 if port.ended else 1)  # our end is open until there is nothing to come
        self._tell_size(state)

    def _tell_size(self, state: _PortState) -> None:
        size = state.port.window() if state.port.window is not None else None
        if size is not None:
            self._tell(state.number, RESIZE, 1, SIZE.pack(size[1], size[0]))

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
