"""What passt of 2023 says wrongly, put right on its way to the guest.

It refuses a connection that nobody accepts by a reset without an acknowledgement. To a client that has only sent its
SYN that means nothing (RFC 9293, 3.10.7.3): it would try for two minutes and report a timeout. The number to
acknowledge is in the packet; only the flag is missing.
"""

from __future__ import annotations

SIZES = (54, 74)
"""Bytes of a frame that is a TCP header without options or data, IPv4 and IPv6: nothing else is looked at."""

_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_TCP, _RST, _ACK = 6, 0x04, 0x10


def acknowledge_refusal(frame: memoryview) -> None:
    """Give a bare reset its acknowledgement; leave any other frame as it is.

    :param frame: of one of `SIZES`; changed in place.
    """
    kind = frame[12:14]
    if kind == _IPV4 and len(frame) == SIZES[0] and frame[23] == _TCP:
        header = 34
    elif kind == _IPV6 and len(frame) == SIZES[1] and frame[20] == _TCP:
        header = 54
    else:
        return
    if frame[header + 13] == _RST:
        frame[header + 13] = _RST | _ACK
        amend(frame, header + 16, _ACK)


def amend(frame: memoryview | bytearray, place: int, difference: int) -> None:
    """Make a checksum right again after a 16-bit word that it covers was changed (RFC 1624).

    :param place: where the checksum is.
    :param difference: what the word is more than it was; not 0.
    """
    total = (~int.from_bytes(frame[place : place + 2], "big") & 0xFFFF) + difference % 0xFFFF
    frame[place : place + 2] = (~((total & 0xFFFF) + (total >> 16)) & 0xFFFF).to_bytes(2, "big")
