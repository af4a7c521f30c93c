"""A DHCP server that does what a test says, frame by frame; its own reading of the RFCs, not the product's."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.dhcp.cable import SERVER, Cable, number

DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6
MAGIC = bytes.fromhex("63825363")
BROADCAST_MAC = b"\xff" * 6
ADDRESS = "192.0.2.50"
MASK = (1, number("255.255.255.0"))
LEASE = (51, struct.pack("!I", 3600))
FOREVER = (51, b"\xff" * 4)

Option = tuple[int, bytes]


class Asked:
    """What a client sent: the frame's and the message's fields."""

    def __init__(self, frame: bytes) -> None:
        self.at = time.monotonic()
        self.target_mac = frame[:6]
        self.source, self.target = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
        self.message = frame[42:]
        self.op, self.htype, self.hlen, self.hops, self.xid, self.secs, self.flags = struct.unpack_from(
            "!4B4s2H", self.message
        )
        self.own = socket.inet_ntoa(self.message[12:16])
        self.mac = self.message[28:34]
        self.options: dict[int, bytes] = {}
        at = 240
        while self.message[at] != 255:
            code, length = self.message[at : at + 2]
            self.options[code] = self.message[at + 2 : at + 2 + length]
            at += 2 + length

    @property
    def kind(self) -> int:
        return self.options[53][0]


def is_to_server(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\0" and frame[14] == 0x45 and frame[23] == 17 and frame[36:38] == b"\0\x43"


def encode_options(options: Sequence[Option]) -> bytes:
    """With the end behind them; values of over 255 bytes in parts (RFC 3396)."""
    out = b""
    for code, value in options:
        parts = [value[at : at + 255] for at in range(0, len(value), 255)] or [b""]
        out += b"".join(bytes((code, len(part))) + part for part in parts)
    return out + b"\xff"


def message(
    asked: Asked,
    options: Sequence[Option] | bytes,
    *,
    address: str = ADDRESS,
    xid: bytes | None = None,
    mac: bytes | None = None,
    op: int = 2,
    htype: int = 1,
    hlen: int = 6,
    magic: bytes = MAGIC,
    sname: bytes = b"",
    file: bytes = b"",
) -> bytes:
    """A reply; every field can be wrong."""
    head = struct.pack("!4B", op, htype, hlen, 0) + (asked.xid if xid is None else xid) + bytes(4)
    head += number("0.0.0.0") + number(address) + number("0.0.0.0") * 2
    head += (asked.mac if mac is None else mac).ljust(16, b"\0") + sname.ljust(64, b"\0") + file.ljust(128, b"\0")
    return head + magic + (options if isinstance(options, bytes) else encode_options(options))


def standard(kind: int, *more: Option, server: str = SERVER, lease: Option | None = LEASE) -> list[Option]:
    """The options of an ordinary answer."""
    options = [(53, bytes((kind,))), (54, number(server)), *more]
    return options if lease is None else [*options, lease]


def frame(payload: bytes, source: str, target: str, source_mac: bytes, target_mac: bytes) -> bytes:
    """UDP from port 67 to 68 in IPv4 in Ethernet."""
    udp = struct.pack("!4H", 67, 68, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, number(source), number(target))
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)
    return target_mac + source_mac + b"\x08\0" + head[:10] + checksum + head[12:] + udp


class Scripted:
    """Calls `on_ask(asked)`, if there is one, for each message of a client; `asked` holds all of them."""

    def __init__(self, cable: Cable) -> None:
        self.asked: list[Asked] = []
        self.on_ask: Callable[[Asked], None] | None = None
        self.failure: BaseException | None = None
        self._cable = cable
        self._socket = cable.packet_socket()
        self._mac = self._socket.getsockname()[4]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self._socket.settimeout(0.05)
        while not self._ended.is_set():
            try:
                data = self._socket.recv(65535)
            except OSError:  # nothing for a while, or the cable was pulled out
                continue
            if not is_to_server(data):
                continue
            asked = Asked(data)
            self.asked.append(asked)
            try:
                if self.on_ask is not None:
                    self.on_ask(asked)
            except BaseException as error:
                self.failure = error
                raise

    def send(self, payload: bytes, source: str = SERVER, target: str = "255.255.255.255", **more: Any) -> None:
        """To all, or to one address; then with the guest's hardware address, which no ARP has told."""
        mac = BROADCAST_MAC if target == "255.255.255.255" else self._cable.mac
        self._socket.send(frame(payload, source, target, more.get("source_mac", self._mac), mac))

    def send_raw(self, data: bytes) -> None:
        """A whole frame."""
        self._socket.send(data)

    def answer(
        self,
        *more: Option,
        address: str = ADDRESS,
        lease: Option | None = LEASE,
        server: str = SERVER,
        target: str = "255.255.255.255",
    ) -> None:
        """From now on be an ordinary server, without rapid commit. Who has an address is answered there."""

        def on_ask(asked: Asked) -> None:
            kind = OFFER if asked.kind == DISCOVER else ACK
            reply = message(asked, standard(kind, *more, lease=lease, server=server), address=address)
            self.send(reply, target=target if asked.own == "0.0.0.0" else asked.own)

        self.on_ask = on_ask

    def kinds(self) -> list[int]:
        """What was asked so far."""
        return [one.kind for one in self.asked]

    def steps(self) -> list[int]:
        """The same without what was only asked again."""
        kinds = self.kinds()
        return [kind for before, kind in zip([0, *kinds], kinds, strict=False) if kind != before]

    def close(self) -> None:
        """End it."""
        self._ended.set()
        self._thread.join(10)
        self._socket.close()
        assert self.failure is None
