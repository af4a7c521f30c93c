"""The cable to a network interface of this process's network namespace, whose addresses become the guest's.

The namespace's own network stack must not answer in the guest's place. So the interface gets another hardware address
and stays promiscuous: frames for the guest are somebody else's to the stack, which drops them, while a packet socket
sees them. And it answers no ARP (NOARP). Its IP addresses stay as they are, so that a later VM finds them.

The guest may send in its own name only: with its own hardware and IP addresses.
"""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Callable, Sequence
from struct import Struct

from pykrun.errors import UsageError
from pykrun.loop import Loop
from pykrun.net.datagrams import Datagrams, Parts
from pykrun.record import record

_GET_FLAGS, _SET_FLAGS, _GET_ADDRESS, _GET_MASK, _GET_MTU = 0x8913, 0x8914, 0x8915, 0x891B, 0x8921  # <linux/sockios.h>
_GET_HARDWARE, _SET_HARDWARE, _GET_INDEX = 0x8927, 0x8924, 0x8933
_REQUEST = Struct("16s24s")  # struct ifreq
_UP, _LOOPBACK, _NOARP = 0x1, 0x8, 0x80
_ETHERNET = 1

_SOL_PACKET = 263  # <linux/if_packet.h>
_ADD_MEMBERSHIP, _VNET_HDR, _IGNORE_OUTGOING = 1, 15, 23
_PROMISCUOUS = 1
_ALL = 0x0003  # ETH_P_ALL
_HEADER = Struct("<BBHHHH")  # struct virtio_net_hdr
_NEEDS_CHECKSUM = 1
_ARP, _IPV4 = b"\x08\x06", b"\x08\x00"


@record(frozen=True, slots=True, kw_only=True)
class Interface:
    """An Ethernet interface as it was before it was taken.

    :ivar mac: its hardware address.
    :ivar address: its IPv4 address, four bytes.
    :ivar prefix: bits of its network.
    """

    name: str
    mac: bytes
    address: bytes
    prefix: int
    mtu: int


def find() -> Interface | None:
    """Return the first interface of this network namespace that is up and has an IPv4 address, but for the loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for _index, name in socket.if_nameindex():
            try:
                flags = int.from_bytes(_ask(control, _GET_FLAGS, name)[:2], "little")
                hardware = _ask(control, _GET_HARDWARE, name)
                if not flags & _UP or flags & _LOOPBACK or int.from_bytes(hardware[:2], "little") != _ETHERNET:
                    continue
                address = _ask(control, _GET_ADDRESS, name)[4:8]
                mask = int.from_bytes(_ask(control, _GET_MASK, name)[4:8], "big")
                mtu = int.from_bytes(_ask(control, _GET_MTU, name)[:4], "little")
            except OSError:  # it has no address
                continue
            mac = hardware[2:8]
            return Interface(
                name=name,
                mac=_other(mac) if flags & _NOARP else mac,
                address=address,
                prefix=mask.bit_count(),
                mtu=mtu,
            )
    return None


def routes() -> list[tuple[bytes, int, bytes]]:
    """The IPv4 routes of this namespace through a gateway: destination, bits of it, gateway."""
    found = []
    with open("/proc/self/net/route") as file:
        for line in file.readlines()[1:]:
            words = line.split()
            flags = int(words[3], 16)
            if flags & 3 == 3:  # up, and through a gateway
                destination, gateway, mask = (int(words[at], 16).to_bytes(4, "little") for at in (1, 2, 7))
                found.append((destination, int.from_bytes(mask, "big").bit_count(), gateway))
    return found


def _other(mac: bytes) -> bytes:
    """The address that an interface has meanwhile; that of that is the first again."""
    return mac[:3] + bytes((mac[3] ^ 0x5A,)) + mac[4:]


def _ask(control: socket.socket, request: int, name: str, value: bytes = b"") -> bytes:
    asked = _REQUEST.pack(name.encode(), value)
    answer: bytes = fcntl.ioctl(control.fileno(), request, asked)
    return answer[16:]


class PacketSocket(Datagrams):
    """The cable to an interface, which it takes.

    :param interface: as `find` returned it.
    :raise UsageError: it may not be taken, or another VM has it.
    """

    def __init__(self, loop: Loop, interface: Interface, on_end: Callable[[str], None]) -> None:
        self._interface = interface
        self.refused = 0
        """How many frames were not the guest's to send."""
        self._lock = _lock(interface.name)
        try:
            self._socket = _open(interface)
        except OSError as error:
            self._lock.close()
            raise UsageError(f"cannot take the network interface {interface.name}: {error.strerror}") from None
        super().__init__(loop, self._socket.fileno(), _HEADER.size, on_end)

    def read_into(self, buffer: memoryview) -> int:
        """Receive one frame; its checksum is completed where the sender has left that to hardware."""
        count = self._socket.recv_into(buffer, 0, socket.MSG_DONTWAIT)
        if count > _HEADER.size and buffer[0] & _NEEDS_CHECKSUM:
            _flags, _kind, _size, _segment, start, offset = _HEADER.unpack_from(buffer)
            complete_checksum(buffer[_HEADER.size : count], start, offset)
        return count

    def send(self, head: bytes, rest: Sequence[memoryview], size: int) -> None:
        """Send a frame, if it is in the guest's own name (`Cable`)."""
        if self._is_own(head):
            super().send(head, rest, size)
        else:
            self.refused += 1

    def _is_own(self, head: bytes) -> bool:
        if head[6:12] != self._interface.mac:
            return False
        kind, address = head[12:14], self._interface.address
        if kind == _IPV4:
            return head[26:30] == address
        return kind == _ARP and head[22:28] == self._interface.mac and head[28:32] in (address, bytes(4))

    def write(self, parts: Parts) -> None:
        """Send one frame behind an empty header."""
        self._socket.sendmsg([bytes(_HEADER.size), *parts], (), socket.MSG_DONTWAIT)

    def release(self) -> None:
        """Give the interface back as it was."""
        self._socket.close()
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                _change(control, self._interface.name, self._interface.mac, 0)
        except OSError:
            pass  # it is gone
        self._lock.close()


def complete_checksum(frame: memoryview, start: int, offset: int) -> None:
    """Put the checksum of what lies behind `start` there; the sum of the pseudo header is in its place already."""
    place = start + offset
    if place + 2 > len(frame):
        return
    # As a number of base 2^16 its rest by 2^16 - 1 is the ones' complement sum of its digits.
    total = int.from_bytes(frame[start:], "big")
    if (len(frame) - start) % 2:
        total <<= 8
    checksum = ~(total % 0xFFFF) & 0xFFFF
    frame[place : place + 2] = (checksum or 0xFFFF).to_bytes(2, "big")


def _lock(name: str) -> socket.socket:
    """A name of the network namespace's: gone with the process that has it."""
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lock.bind(f"\0pykrun/{name}")
    except OSError:
        lock.close()
        raise UsageError(f"another VM has the network interface {name}") from None
    return lock


def _open(interface: Interface) -> socket.socket:
    """Take the interface; return the socket to it."""
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        packets.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
        packets.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        packets.bind((interface.name, _ALL))
        index = socket.if_nametoindex(interface.name)
        packets.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, Struct("iHH8s").pack(index, _PROMISCUOUS, 0, b""))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            _change(control, interface.name, _other(interface.mac), _NOARP)
    except OSError:
        packets.close()
        raise
    return packets


def _change(control: socket.socket, name: str, mac: bytes, noarp: int) -> None:
    """Give an interface an address, and let it answer ARP or not."""
    flags = int.from_bytes(_ask(control, _GET_FLAGS, name)[:2], "little")
    _ask(control, _SET_FLAGS, name, (flags & ~_NOARP | noarp).to_bytes(2, "little"))
    _ask(control, _SET_HARDWARE, name, _ETHERNET.to_bytes(2, "little") + mac)
