"""The back end of one device on one vhost-user connection."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack

from pykrun.errors import PeerError, VhostUserError, VirtqueueError
from pykrun.loop import IN, Loop
from pykrun.vhost_user import messages as wire
from pykrun.vhost_user.connection import Connection, Request
from pykrun.vhost_user.memory import SharedMemory
from pykrun.vhost_user.notifier import Notifier, check_eventfd
from pykrun.vhost_user.ring import MAX_RING, Ring
from pykrun.virtio import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, RING_FEATURES, Device

_MESSAGES_AT_ONCE = 64  # then the loop looks at everybody else
_ACCEPTED = wire.U64.pack(0)
_REFUSED = wire.U64.pack(1)

OnClose = Callable[[Exception | None], None]
OnBroken = Callable[[int, VirtqueueError], None]


class Backend:
    """Serves one device to one front end until either side ends it; then a fresh one may serve the same device.

    :param loop: calls the back end; one thread.
    :param device: what is served.
    :param connection: a connected Unix stream socket, which becomes the back end's.
    :param protocol_features: what to offer, by front end: `UML_FEATURES`, `QEMU_FEATURES`.
    :param before_owner: what to offer instead to a front end that asks before it said SET_OWNER, as QEMU does; None for
        the same (see `ANY_FEATURES`).
    :param ring_features: of `RING_FEATURES`, what to offer.
    :param on_close: called once when the back end has ended other than by `close`: with None when the front end went,
        with a `VhostUserError` when it broke the protocol, with anything else when the device failed.
    :param on_broken: called with index and reason when the guest broke the rules of a queue, which has stopped then.
    """

    def __init__(
        self,
        loop: Loop,
        device: Device,
        connection: socket.socket,
        *,
        protocol_features: int = wire.UML_FEATURES,
        before_owner: int | None = None,
        ring_features: int = RING_FEATURES,
        on_close: OnClose | None = None,
        on_broken: OnBroken | None = None,
    ) -> None:
        if (protocol_features | (before_owner or 0)) & ~wire.ALL_FEATURES:
            raise ValueError(f"protocol features {protocol_features:#x} are not all known")
        self.device = device
        self.messages = 0
        """How many requests came."""
        self._loop = loop
        self._connection = Connection(connection)
        self._offered = device.features | ring_features | F_VERSION_1 | wire.F_PROTOCOL_FEATURES
        self._features = 0
        self._protocol_offered = protocol_features
        self._before_owner = before_owner
        self._protocol = 0
        self._protocol_agreed = False  # SET_PROTOCOL_FEATURES came
        self._status = 0
        self._memory: SharedMemory | None = None
        self._request_fd = -1
        self._used = False  # a ring has run since the device was reset
        self._closed = False
        self._on_close = on_close
        self._on_broken = on_broken
        self.rings = [Ring(index, loop, device, self._ring_broken, self._failed) for index in range(device.queue_count)]
        loop.add(self._connection.fileno(), IN, self._readable)

    def close(self) -> None:
        """Stop everything; give every descriptor and mapping back. Harmless when called again."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove(self._connection.fileno())
        with ExitStack() as stack:  # all of it, also when a hook of the device fails
            stack.callback(self._connection.close)
            stack.callback(self._close_request_fd)
            stack.callback(self._close_memory)
            stack.callback(self._reset_device)
            for ring in self.rings:
                stack.callback(ring.close)

    def _close_request_fd(self) -> None:
        if self._request_fd >= 0:
            os.close(self._request_fd)
            self._request_fd = -1

    def _close_memory(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def _reset_device(self) -> None:
        if self._used:
            self._used = False
            self.device.reset()

    def _end(self, error: Exception | None) -> None:
        if self._closed:
            return
        if error is not None:
            if not isinstance(error, PeerError):
                error.add_note(_origin(error))
            error.with_traceback(None)  # its frames may hold views of guest memory
            error.__context__ = None
        try:
            self.close()
        except Exception as failure:
            error = error or failure
        if self._on_close is not None:
            self._on_close(error)

    def _failed(self, error: Exception) -> None:
        self._end(error)

    def _ring_broken(self, index: int, error: VirtqueueError) -> None:
        if self._on_broken is not None:
            self._on_broken(index, error)

    # Requests

    def _readable(self, _events: int) -> None:
        try:
            for _ in range(_MESSAGES_AT_ONCE):
                request = self._connection.receive()
                if request is None:
                    return
                try:
                    self._dispatch(request)
                finally:
                    request.close()
                if self._closed:
                    return
        except EOFError:
            self._end(None)
        except Exception as error:  # VhostUserError, or a device's fault: neither may end the loop
            self._end(error)

    def _dispatch(self, request: Request) -> None:
        self.messages += 1
        need_reply = request.need_reply
        # User Mode Linux wants it from the very message that negotiates it.
        negotiated = self._protocol_offered if request.code == wire.SET_PROTOCOL_FEATURES else self._protocol
        if need_reply and not negotiated & wire.PROTOCOL_REPLY_ACK:
            raise VhostUserError(f"{request.name} wants a reply, but the feature was not negotiated")
        handler = _HANDLERS.get(request.code)
        if handler is None:
            if not need_reply:
                raise VhostUserError(f"unknown {request.name}")
            self._connection.send(request.code, _REFUSED)
            return
        feature = wire.KINDS[request.code].feature
        if feature and not self._protocol & feature:
            raise VhostUserError(f"{request.name}, but its feature was not negotiated")
        reply = handler(self, request)
        if self._closed:  # the device ended it
            return
        if reply is not None:
            self._connection.send(request.code, reply)
        elif need_reply:
            self._connection.send(request.code, _ACCEPTED)

    def _get_features(self, _request: Request) -> bytes:
        return wire.U64.pack(self._offered)

    def _set_features(self, request: Request) -> None:
        (features,) = wire.U64.unpack(request.payload)
        if features & ~self._offered:
            raise VhostUserError(f"features {features:#x} accepted of {self._offered:#x} on offer")
        self._stop_rings()
        self._features = features
        self.device.accepted(features)
        if not features & wire.F_PROTOCOL_FEATURES:  # then rings are enabled from the start
            for ring in self.rings:
                ring.enabled = True

    def _get_protocol_features(self, _request: Request) -> bytes:
        if self._before_owner is not None:
            self._protocol_offered, self._before_owner = self._before_owner, None
        return wire.U64.pack(self._protocol_offered)

    def _set_protocol_features(self, request: Request) -> None:
        (features,) = wire.U64.unpack(request.payload)
        if features & ~self._protocol_offered:
            raise VhostUserError(f"protocol features {features:#x} accepted of {self._protocol_offered:#x} on offer")
        self._protocol = features
        self._protocol_agreed = True

    def _set_owner(self, _request: Request) -> None:
        self._before_owner = None  # there is only one; when it says so tells who it is

    def _reset_owner(self, _request: Request) -> None:
        self._begin_anew()
        for ring in self.rings:
            ring.enabled = False

    def _get_queue_num(self, _request: Request) -> bytes:
        return wire.U64.pack(self.device.queue_count)

    def _set_mem_table(self, request: Request) -> None:
        memory = SharedMemory(request.payload, request.descriptors)
        running = [ring for ring in self.rings if ring.queue is not None]
        for ring in running:
            ring.stop()
        old, self._memory = self._memory, memory
        if old is not None:
            old.close()
        for ring in running:
            self._start(ring)

    def _get_config(self, request: Request) -> bytes:
        offset, size, flags = wire.CONFIG.unpack_from(request.payload)
        if size > wire.MAX_CONFIG or len(request.payload) != wire.CONFIG.size + size:
            raise VhostUserError(f"GET_CONFIG of {size} bytes in a message of {len(request.payload)}")
        # The reply must be as long as the request; beyond the device's fields there are zeros.
        content = self.device.config()[offset : offset + size]
        return wire.CONFIG.pack(offset, size, flags) + content.ljust(size, b"\0")

    def _set_config(self, request: Request) -> None:
        _, size, _ = wire.CONFIG.unpack_from(request.payload)
        if len(request.payload) != wire.CONFIG.size + size:
            raise VhostUserError(f"SET_CONFIG of {size} bytes in a message of {len(request.payload)}")
        # No device of ours has a field that the driver may write: ignored, as the device's own registers would do.

    def _set_backend_req_fd(self, request: Request) -> None:
        if len(request.descriptors) != 1:
            raise VhostUserError(f"{request.name} with {len(request.descriptors)} descriptors")
        self._close_request_fd()
        (self._request_fd,) = request.take_all()  # User Mode Linux insists on giving it; we have nothing to ask

    def _set_status(self, request: Request) -> None:
        (status,) = wire.U64.unpack(request.payload)
        self._status = status & 0xFF
        if status == 0:
            self._begin_anew()

    def _get_status(self, _request: Request) -> bytes:
        return wire.U64.pack(self._status)

    # Rings

    def _set_vring_num(self, request: Request) -> None:
        ring, size = self._ring_state(request)
        if not 0 < size <= MAX_RING or size & (size - 1):
            raise VhostUserError(f"ring of size {size}")
        ring.set_kick(-1)
        ring.size = size

    def _set_vring_addr(self, request: Request) -> None:
        index, flags, table, used, avail, _log = wire.RING_ADDRESS.unpack(request.payload)
        ring = self._ring(index)
        if self._memory is None:
            raise VhostUserError("ring addresses before the memory table")
        if flags:
            raise VhostUserError(f"ring address flags {flags:#x}, but logging was not negotiated")
        if table % 16 or avail % 2 or used % 4:
            raise VhostUserError("ring address is not aligned")
        ring.set_kick(-1)
        ring.addresses = (table, avail, used)

    def _set_vring_base(self, request: Request) -> None:
        ring, base = self._ring_state(request)
        if base > 0xFFFF:
            raise VhostUserError(f"ring base {base}")
        ring.set_kick(-1)
        if base != ring.base and self._used:
            self._begin_anew()  # a driver that does not go on where the last one stopped is another one
        ring.base = base

    def _get_vring_base(self, request: Request) -> bytes:
        ring, _ = self._ring_state(request)
        ring.set_kick(-1)
        return wire.RING_STATE.pack(ring.index, ring.base)

    def _set_vring_kick(self, request: Request) -> None:
        ring, present = self._notified(request)
        ring.set_kick(-1)
        if not present:
            raise VhostUserError("a ring that is polled instead of kicked")
        check_eventfd(request.descriptors[0])
        ring.set_kick(request.take_all()[0])
        self._start(ring)

    def _set_vring_call(self, request: Request) -> None:
        ring, present = self._notified(request)
        ring.set_call(self._notifier(request) if present else None)

    def _set_vring_err(self, request: Request) -> None:
        ring, present = self._notified(request)
        ring.set_error(self._notifier(request) if present else None)

    def _set_vring_enable(self, request: Request) -> None:
        ring, enable = self._ring_state(request)
        if enable > 1:
            raise VhostUserError(f"SET_VRING_ENABLE {enable}")
        # QEMU's network card enables its rings as soon as protocol features are agreed upon, before any others.
        if not self._features & wire.F_PROTOCOL_FEATURES and not self._protocol_agreed:
            raise VhostUserError("SET_VRING_ENABLE, but its feature was not negotiated")
        ring.enabled = bool(enable)
        if not enable:
            ring.stop()
        else:
            self._start(ring)

    def _start(self, ring: Ring) -> None:
        if ring.queue is not None or not ring.ready:
            return
        if self._memory is None:
            raise VhostUserError(f"ring {ring.index} started before the memory table")
        if not self._features & F_VERSION_1:
            raise VhostUserError("ring started without VIRTIO_F_VERSION_1")
        self._used = True
        features = self._features
        ring.start(self._memory, event_idx=bool(features & F_EVENT_IDX), indirect=bool(features & F_INDIRECT_DESC))

    def _stop_rings(self) -> None:
        for ring in self.rings:
            ring.set_kick(-1)

    def _begin_anew(self) -> None:
        self._stop_rings()
        for ring in self.rings:
            ring.base = 0
        self._reset_device()

    # Parts of payloads

    def _ring(self, index: int) -> Ring:
        if index >= len(self.rings):
            raise VhostUserError(f"ring {index} of {len(self.rings)}")
        return self.rings[index]

    def _ring_state(self, request: Request) -> tuple[Ring, int]:
        index, number = wire.RING_STATE.unpack(request.payload)
        return self._ring(index), number

    def _notified(self, request: Request) -> tuple[Ring, bool]:
        """Return the ring, and whether the message carries a descriptor for it, as it says."""
        (value,) = wire.U64.unpack(request.payload)
        if value & ~(wire.RING_INDEX_MASK | wire.RING_NO_DESCRIPTOR):
            raise VhostUserError(f"{request.name} with {value:#x}")
        ring = self._ring(value & wire.RING_INDEX_MASK)
        present = not value & wire.RING_NO_DESCRIPTOR
        if len(request.descriptors) != present:
            raise VhostUserError(f"{request.name} with {len(request.descriptors)} descriptors")
        return ring, present

    def _notifier(self, request: Request) -> Notifier:
        notifier = Notifier(request.descriptors[0])
        request.take_all()
        return notifier


def _origin(error: Exception) -> str:
    """Return where an error was raised: what is left of a traceback that cannot be kept."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"raised in {trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}"


_HANDLERS: dict[int, Callable[[Backend, Request], bytes | None]] = {
    wire.GET_FEATURES: Backend._get_features,
    wire.SET_FEATURES: Backend._set_features,
    wire.SET_OWNER: Backend._set_owner,
    wire.RESET_OWNER: Backend._reset_owner,
    wire.SET_MEM_TABLE: Backend._set_mem_table,
    wire.SET_VRING_NUM: Backend._set_vring_num,
    wire.SET_VRING_ADDR: Backend._set_vring_addr,
    wire.SET_VRING_BASE: Backend._set_vring_base,
    wire.GET_VRING_BASE: Backend._get_vring_base,
    wire.SET_VRING_KICK: Backend._set_vring_kick,
    wire.SET_VRING_CALL: Backend._set_vring_call,
    wire.SET_VRING_ERR: Backend._set_vring_err,
    wire.GET_PROTOCOL_FEATURES: Backend._get_protocol_features,
    wire.SET_PROTOCOL_FEATURES: Backend._set_protocol_features,
    wire.GET_QUEUE_NUM: Backend._get_queue_num,
    wire.SET_VRING_ENABLE: Backend._set_vring_enable,
    wire.SET_BACKEND_REQ_FD: Backend._set_backend_req_fd,
    wire.GET_CONFIG: Backend._get_config,
    wire.SET_CONFIG: Backend._set_config,
    wire.SET_STATUS: Backend._set_status,
    wire.GET_STATUS: Backend._get_status,
}
