"""A hostile front end (security.md 23 to 25): whatever comes ends the connection with the right error and no leak."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from pykrun.errors import VhostUserError
from pykrun.vhost_user import messages as wire
from pykrun.virtio import F_VERSION_1
from tests.vhost_user.devices import Echo
from tests.vhost_user.frontend import USER, FrontEnd, mapped_guests, open_descriptors, regions, state, u64
from tests.virtio.driver import Driver
from tests.virtio.fuzzing import time_limit

SIZE = 1 << 20


def refused(front: FrontEnd, match: str = "") -> None:
    """The connection was ended for breaking the protocol, and everything was given back."""
    front.turn()
    (error,) = front.ends
    assert isinstance(error, VhostUserError)
    assert match in str(error), str(error)
    front.socket.settimeout(5)
    try:
        while front.socket.recv(4096):
            pass
    except ConnectionResetError:  # it had not read everything
        pass
    front.turn()
    assert len(front.ends) == 1


def memfd(size: int = SIZE, name: str = "guest") -> int:
    fd = os.memfd_create(name)
    os.ftruncate(fd, size)
    return fd


def send_table(front: FrontEnd, payload: bytes, fds: list[int]) -> None:
    front.negotiate()
    front.send(wire.SET_MEM_TABLE, payload, fds)
    for fd in fds:
        os.close(fd)


# The form of messages

HEADERS = {
    "version 0": (wire.GET_FEATURES, 0, b""),
    "version 2": (wire.GET_FEATURES, 2, b""),
    "version 3": (wire.GET_FEATURES, 3, b""),
    "a reply": (wire.GET_FEATURES, 1 | wire.FLAG_REPLY, b""),
    "unknown flag": (wire.GET_FEATURES, 1 | 16, b""),
    "all flags": (wire.GET_FEATURES, 0xFFFFFFFF, b""),
    "request 0": (0, 1, b""),
    "too short": (wire.SET_FEATURES, 1, bytes(4)),
    "too long": (wire.SET_FEATURES, 1, bytes(12)),
    "payload where none belongs": (wire.SET_OWNER, 1, bytes(8)),
    "table without a count": (wire.SET_MEM_TABLE, 1, bytes(4)),
    "table of nine regions": (wire.SET_MEM_TABLE, 1, bytes(8 + 32 * 9)),
    "unknown request": (200, 1, b"x"),
    "slots, never offered": (37, 1, bytes(40)),
    "log base, never offered": (6, 1, bytes(16)),
    "in-band kick, never offered": (35, 1, state(0, 0)),
}


@pytest.mark.parametrize(("code", "flags", "payload"), HEADERS.values(), ids=HEADERS.keys())
def test_header(front: FrontEnd, code: int, flags: int, payload: bytes) -> None:
    front.send(code, payload, flags=flags)
    refused(front)


def test_payload_over_4096_is_not_waited_for(front: FrontEnd) -> None:
    front.send_raw(wire.HEADER.pack(200, 1, 4097))
    refused(front, "4097")


def test_end_in_the_middle_of_a_header(front: FrontEnd) -> None:
    front.send_raw(b"\1\0\0")
    front.socket.shutdown(socket.SHUT_WR)
    refused(front, "middle")


def test_end_in_the_middle_of_a_payload(front: FrontEnd) -> None:
    fd = memfd()
    front.send_raw(wire.HEADER.pack(wire.SET_MEM_TABLE, 1, 40), [fd])
    os.close(fd)
    front.socket.shutdown(socket.SHUT_WR)
    refused(front, "middle")


def test_descriptors_and_nothing_else_wait_with_the_connection(front: FrontEnd) -> None:
    """A message that never comes whole holds its descriptors only as long as the connection lives."""
    fd = memfd()
    front.send_raw(wire.HEADER.pack(wire.SET_MEM_TABLE, 1, 40), [fd] * 4)
    os.close(fd)
    front.turn()
    assert front.ends == []


@pytest.mark.parametrize(
    ("code", "payload", "count"),
    [
        (wire.GET_FEATURES, b"", 1),
        (wire.SET_FEATURES, u64(F_VERSION_1), 1),
        (wire.SET_VRING_CALL, u64(0), 2),
        (wire.SET_VRING_KICK, u64(0), 0),
        (wire.SET_VRING_KICK, u64(0x100), 1),
        (wire.SET_VRING_CALL, u64(0x100), 1),
        (wire.SET_VRING_ERR, u64(0), 0),
        (wire.SET_MEM_TABLE, regions((0, SIZE, USER, 0)), 0),
        (wire.SET_MEM_TABLE, regions((0, SIZE, USER, 0)), 2),
        (wire.SET_BACKEND_REQ_FD, b"", 0),
        (200, b"", 9),
        (wire.GET_FEATURES, b"", 64),
        (wire.GET_FEATURES, b"", 253),
    ],
)
def test_wrong_number_of_descriptors(front: FrontEnd, code: int, payload: bytes, count: int) -> None:
    front.negotiate()
    front.turn()
    before = open_descriptors()
    fd = os.eventfd(0)
    front.send(code, payload, [fd] * count)
    os.close(fd)
    front.turn()
    assert open_descriptors() <= before
    refused(front)


def test_more_descriptors_than_the_kernel_hands_over(front: FrontEnd) -> None:
    """Nine for eight regions: the ninth is cut off by the kernel, the eight would do."""
    front.negotiate()
    table = regions(*[(index * SIZE, 4096, USER + index * SIZE, 0) for index in range(8)])
    fd = memfd()
    front.send(wire.SET_MEM_TABLE, table, [fd] * 9)
    os.close(fd)
    refused(front, "more than 8")


def test_descriptors_along_the_payload_count_too(front: FrontEnd) -> None:
    front.negotiate()
    fd = os.eventfd(0)
    front.send_raw(wire.HEADER.pack(wire.SET_VRING_CALL, 1, 8), [fd])
    front.send_raw(u64(0), [fd])
    os.close(fd)
    front.turn()
    refused(front, "2 descriptors")


def test_refused_unknown_request_closes_its_descriptors(front: FrontEnd) -> None:
    front.negotiate()
    front.turn()
    before = open_descriptors()
    fd = os.eventfd(0)
    front.send(200, b"", [fd] * 8, flags=wire.VERSION | wire.FLAG_NEED_REPLY)
    os.close(fd)
    front.turn()
    assert open_descriptors() == before
    assert front.ends == []


# Features


def test_features_that_were_not_offered(front: FrontEnd) -> None:
    front.send(wire.SET_FEATURES, u64(1 << 50))
    refused(front, "features")


def test_protocol_features_that_were_not_offered(front: FrontEnd) -> None:
    front.send(wire.SET_PROTOCOL_FEATURES, u64(1 << 14))
    refused(front, "features")


@pytest.mark.parametrize(
    ("code", "payload"),
    [
        (wire.GET_QUEUE_NUM, b""),
        (wire.GET_CONFIG, wire.CONFIG.pack(0, 1, 0) + b"\0"),
        (wire.SET_STATUS, u64(1)),
        (wire.GET_STATUS, b""),
        (wire.SET_BACKEND_REQ_FD, b""),
    ],
)
def test_request_without_its_feature(front: FrontEnd, code: int, payload: bytes) -> None:
    front.send(code, payload)
    refused(front, "negotiated")


def test_acknowledgement_without_the_feature(front: FrontEnd) -> None:
    front.send(wire.SET_OWNER, flags=wire.VERSION | wire.FLAG_NEED_REPLY)
    refused(front, "negotiated")


def test_enable_without_the_feature(front: FrontEnd) -> None:
    front.send(wire.SET_VRING_ENABLE, state(0, 1))
    refused(front, "negotiated")


@pytest.mark.parametrize(
    "payload",
    [
        wire.CONFIG.pack(0, 257, 0) + bytes(256),
        wire.CONFIG.pack(0, 2, 0) + b"\0",
        wire.CONFIG.pack(0, 0xFFFFFFFF, 0),
        wire.CONFIG.pack(0, 0, 0) + b"\0",
    ],
)
@pytest.mark.parametrize("code", [wire.GET_CONFIG, wire.SET_CONFIG])
def test_config_whose_size_is_not_its_own(front: FrontEnd, code: int, payload: bytes) -> None:
    front.negotiate()
    front.turn()
    front.send(code, payload)
    refused(front, "CONFIG")


def test_config_offset_far_away(front: FrontEnd) -> None:
    front.negotiate()
    front.turn()
    reply = front.ask(wire.GET_CONFIG, wire.CONFIG.pack(0xFFFFFFFF, 4, 0) + bytes(4))
    assert reply[12:] == bytes(4)


# Memory

BAD_TABLES = {
    "no region": (b"", 0),
    "empty region": (regions((0, 0, USER, 0)), 1),
    "larger than the file": (regions((0, SIZE + 1, USER, 0)), 1),
    "offset beyond the file": (regions((0, 4096, USER, SIZE)), 1),
    "offset and size overflow": (regions((0, 4096, USER, 2**64 - 4096)), 1),
    "offset huge": (regions((0, 4096, USER, 2**63 - 4096)), 1),
    "guest address overflows": (regions((2**64 - 4096, 8192, USER, 0)), 1),
    "user address overflows": (regions((0, 8192, 2**64 - 4096, 0)), 1),
    "size huge": (regions((0, 2**64 - 1, USER, 0)), 1),
    "overlap in guest addresses": (regions((0, 8192, USER, 0), (4096, 8192, USER + SIZE, 0)), 2),
    "same guest address": (regions((0, 8192, USER, 0), (0, 8192, USER + SIZE, 0)), 2),
    "overlap in user addresses": (regions((0, 8192, USER, 0), (SIZE, 8192, USER + 4096, 0)), 2),
    "second one is wrong": (regions((0, 8192, USER, 0), (SIZE, 0, USER + SIZE, 0)), 2),
    "second one is larger than its file": (regions((0, 8192, USER, 0), (SIZE, SIZE + 4096, USER + SIZE, 0)), 2),
    "count beyond the payload": (regions((0, 4096, USER, 0), count=2), 2),
    "count beyond the limit": (regions((0, 4096, USER, 0), count=9), 1),
    "count huge": (regions((0, 4096, USER, 0), count=2**32 - 1), 1),
}


@pytest.mark.parametrize(("payload", "count"), BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_memory_table(front: FrontEnd, payload: bytes, count: int) -> None:
    send_table(front, payload or regions(), [memfd() for _ in range(count)])
    front.turn()
    refused(front)
    assert mapped_guests() == 0


def not_a_file(kind: str) -> tuple[int, Callable[[], None]]:
    if kind == "pipe":
        read_end, write_end = os.pipe()
        return read_end, lambda: os.close(write_end)
    if kind == "folder":
        return os.open("/", os.O_RDONLY), lambda: None
    if kind == "device":
        return os.open("/dev/zero", os.O_RDWR), lambda: None
    if kind == "eventfd":
        return os.eventfd(0), lambda: None
    if kind == "path only":
        return os.open("/proc/self/exe", os.O_PATH), lambda: None
    writable = memfd()
    try:
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY), lambda: None
    finally:
        os.close(writable)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "eventfd", "path only", "read only"])
def test_memory_that_is_no_file_of_ours(front: FrontEnd, kind: str) -> None:
    fd, cleanup = not_a_file(kind)
    send_table(front, regions((0, 4096, USER, 0)), [fd])
    cleanup()
    front.turn()
    refused(front)


def test_eight_regions_and_offsets_within_a_page(front: FrontEnd, driver: Driver) -> None:
    table = regions(*[(index * SIZE, 8192, USER + index * SIZE, index * 100) for index in range(8)])
    send_table(front, table, [memfd() for _ in range(8)])
    front.turn()
    assert front.ends == []
    assert mapped_guests() == 8 + 1  # and the driver's own
    front.send(wire.SET_MEM_TABLE, regions((0, SIZE, USER, 0)), [driver.fd])
    front.turn()
    assert mapped_guests() == 1 + 1


def test_a_bad_table_while_a_ring_runs(front: FrontEnd, driver: Driver, echo: Echo) -> None:
    front.begin(driver)
    front.send(wire.SET_MEM_TABLE, regions((0, 0, USER, 0)), [driver.fd])
    front.turn()
    refused(front, "empty")
    assert (echo.stopped, echo.resets) == ([0], 1)


def test_new_memory_without_the_ring_in_it(front: FrontEnd, driver: Driver, echo: Echo) -> None:
    front.begin(driver)
    front.send(wire.SET_MEM_TABLE, regions((0, SIZE, USER + SIZE, 0)), [driver.fd])
    front.turn()
    refused(front, "no memory region")
    assert echo.stopped == [0]


# Rings

RING_MESSAGES = {
    "size 0": (wire.SET_VRING_NUM, state(0, 0), "size"),
    "size no power of two": (wire.SET_VRING_NUM, state(0, 100), "size"),
    "size beyond the limit": (wire.SET_VRING_NUM, state(0, 2048), "size"),
    "size huge": (wire.SET_VRING_NUM, state(0, 1 << 31), "size"),
    "ring out of range": (wire.SET_VRING_NUM, state(2, 16), "ring 2"),
    "ring far out of range": (wire.SET_VRING_BASE, state(2**32 - 1, 0), "ring"),
    "base beyond 16 bits": (wire.SET_VRING_BASE, state(0, 65536), "base"),
    "base of no ring": (wire.GET_VRING_BASE, state(9, 0), "ring 9"),
    "enable 2": (wire.SET_VRING_ENABLE, state(0, 2), "ENABLE"),
    "enable no ring": (wire.SET_VRING_ENABLE, state(77, 1), "ring 77"),
    "call of no ring": (wire.SET_VRING_CALL, u64(0x102), "ring 2"),
    "call with unknown bits": (wire.SET_VRING_CALL, u64(1 << 20), "CALL"),
    "kick that is to be polled": (wire.SET_VRING_KICK, u64(0x100), "polled"),
    "addresses before memory": (wire.SET_VRING_ADDR, wire.RING_ADDRESS.pack(0, 0, USER, USER, USER, 0), "memory"),
    "addresses of no ring": (wire.SET_VRING_ADDR, wire.RING_ADDRESS.pack(5, 0, USER, USER, USER, 0), "ring 5"),
}


@pytest.mark.parametrize(("code", "payload", "match"), RING_MESSAGES.values(), ids=RING_MESSAGES.keys())
def test_ring_message(front: FrontEnd, code: int, payload: bytes, match: str) -> None:
    front.negotiate()
    front.turn()
    front.send(code, payload)
    refused(front, match)


ADDRESSES = {
    "table outside": (USER + SIZE, USER, USER, 0, "no memory region"),
    "table before": (USER - 16, USER, USER, 0, "no memory region"),
    "table ends outside": (USER + SIZE - 240, USER, USER, 0, "no memory region"),
    "used ends outside": (USER, USER + SIZE - 128, USER, 0, "no memory region"),
    "avail ends outside": (USER, USER, USER + SIZE - 34, 0, "no memory region"),
    "overflow": (2**64 - 16, USER, USER, 0, "no memory region"),
    "table not aligned": (USER + 8, USER, USER, 0, "aligned"),
    "used not aligned": (USER, USER + 2, USER, 0, "aligned"),
    "avail not aligned": (USER, USER, USER + 1, 0, "aligned"),
    "logged": (USER, USER, USER, 1, "flags"),
}


@pytest.mark.parametrize(("table", "used", "avail", "flags", "match"), ADDRESSES.values(), ids=ADDRESSES.keys())
def test_ring_addresses(
    front: FrontEnd, driver: Driver, table: int, used: int, avail: int, flags: int, match: str
) -> None:
    front.negotiate()
    front.share(driver)
    front.send(wire.SET_VRING_NUM, state(0, 16))
    front.send(wire.SET_VRING_ADDR, wire.RING_ADDRESS.pack(0, flags, table, used, avail, 0))
    kick = os.eventfd(0)
    front.send(wire.SET_VRING_KICK, u64(0), [kick])
    front.send(wire.SET_VRING_ENABLE, state(0, 1))
    os.close(kick)
    front.turn()
    refused(front, match)


@pytest.mark.parametrize("missing", ["memory", "size", "addresses", "version"])
def test_start_of_a_ring_that_is_not_set_up(front: FrontEnd, driver: Driver, missing: str) -> None:
    if missing == "version":
        front.ask(wire.GET_FEATURES)
        front.send(wire.SET_FEATURES, u64(wire.F_PROTOCOL_FEATURES))
    else:
        front.negotiate()
    if missing != "memory":
        front.share(driver)
    if missing != "size":
        front.send(wire.SET_VRING_NUM, state(0, 16))
    if missing not in ("addresses", "memory"):
        places = (USER + driver.table, USER + driver.used, USER + driver.avail)
        front.send(wire.SET_VRING_ADDR, wire.RING_ADDRESS.pack(0, 0, *places, 0))
    kick = os.eventfd(0)
    front.send(wire.SET_VRING_KICK, u64(0), [kick])
    front.send(wire.SET_VRING_ENABLE, state(0, 1))
    os.close(kick)
    front.turn()
    refused(front, "VERSION_1" if missing == "version" else "before")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "path only", "read only"])
@pytest.mark.parametrize("code", [wire.SET_VRING_KICK, wire.SET_VRING_CALL, wire.SET_VRING_ERR])
def test_notifier_that_could_block(front: FrontEnd, code: int, kind: str) -> None:
    front.negotiate()
    fd, cleanup = not_a_file(kind)
    front.send(code, u64(0), [fd])
    os.close(fd)
    cleanup()
    front.turn()
    refused(front, "neither")


def test_kick_by_a_socket(front: FrontEnd) -> None:
    front.negotiate()
    one, other = socket.socketpair()
    front.send(wire.SET_VRING_KICK, u64(0), [one.fileno()])
    one.close()
    other.close()
    front.turn()
    refused(front, "neither")


def test_call_descriptor_that_nobody_reads(front: FrontEnd, driver: Driver, echo: Echo) -> None:
    """A full socket as call descriptor never holds the device."""
    kick, _ = front.begin(driver)
    one, other = socket.socketpair()
    front.send(wire.SET_VRING_CALL, u64(0), [one.fileno()])
    front.turn()
    with contextlib.suppress(BlockingIOError):
        while True:
            one.send(bytes(65536), socket.MSG_DONTWAIT)
    one.setblocking(True)  # ours too: it is the same open file
    driver.direct([driver.room(8)])
    for _ in range(3):
        driver.offer(0)
        os.eventfd_write(kick, 1)
        front.turn()
    assert echo.served == 3
    one.close()
    other.close()


def test_full_call_counter(front: FrontEnd, driver: Driver, echo: Echo) -> None:
    """An eventfd that blocks its writers and takes nothing more never holds the device."""
    kick, _ = front.begin(driver)
    full = os.eventfd(0)
    os.eventfd_write(full, 2**64 - 2)
    front.send(wire.SET_VRING_CALL, u64(0), [full])
    driver.offer(driver.direct([driver.room(8)]))
    os.eventfd_write(kick, 1)
    with time_limit(5):
        front.turn()
        front.turn()
    assert (echo.served, front.ends) == (1, [])
    os.close(full)


def test_call_descriptor_whose_reader_is_gone(front: FrontEnd, driver: Driver, echo: Echo) -> None:
    kick, _ = front.begin(driver)
    one, other = socket.socketpair()
    front.send(wire.SET_VRING_CALL, u64(0), [one.fileno()])
    one.close()
    other.close()
    driver.offer(driver.direct([driver.room(8)]))
    os.eventfd_write(kick, 1)
    front.turn()
    assert echo.served == 1
    assert front.ends == []


def test_front_end_that_does_not_read_its_replies(front: FrontEnd) -> None:
    front.negotiate()
    front.socket.setblocking(False)
    for _ in range(200_000):
        try:
            front.send(wire.GET_FEATURES)
        except (BlockingIOError, BrokenPipeError):
            front.turn()
        if front.ends:
            break
    (error,) = front.ends
    assert isinstance(error, VhostUserError)
    assert "replies" in str(error)


def test_a_flood_of_messages_leaves_room_for_others(front: FrontEnd) -> None:
    front.negotiate()
    front.send_raw(wire.HEADER.pack(wire.SET_OWNER, wire.VERSION, 0) * 1000)
    order: list[int] = []
    front.loop.call_later(0, lambda: order.append(front.backend.messages))
    front.turn(0.05)
    assert order[0] < 200
    deadline = time.monotonic() + 30
    while front.backend.messages <= 1000 and time.monotonic() < deadline:
        front.turn(0.05)
    assert front.backend.messages > 1000
    assert front.ends == []


def test_the_same_descriptor_as_kick_of_two_rings(front: FrontEnd, driver: Driver, echo: Echo) -> None:
    """The kernel gives us two numbers for it: both rings are served."""
    kick, _ = front.begin(driver)
    front.place_ring(driver, 1)
    front.send(wire.SET_VRING_KICK, u64(1), [kick])
    front.send(wire.SET_VRING_ENABLE, state(1, 1))
    front.turn()
    driver.offer(driver.direct([driver.room(8)]))
    os.eventfd_write(kick, 1)
    front.turn()
    assert echo.served == 2, "the same ring, seen twice"
    assert front.ends == []


def test_our_own_epoll_as_kick(front: FrontEnd, driver: Driver) -> None:
    """A descriptor that cannot be waited for ends the connection, not the loop."""
    front.negotiate()
    front.share(driver)
    front.place_ring(driver, 0)
    chain = [select.epoll() for _ in range(8)]
    deepest = chain[0]
    for inner, outer in pairwise(chain):
        try:
            outer.register(inner, select.EPOLLIN)
        except OSError:  # nested as deep as may be
            break
        deepest = outer
    front.send(wire.SET_VRING_KICK, u64(0), [deepest.fileno()])
    front.send(wire.SET_VRING_ENABLE, state(0, 1))
    front.turn()
    for epoll in chain:
        epoll.close()
    refused(front, "waited for")
