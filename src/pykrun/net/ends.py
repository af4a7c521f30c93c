"""The end of a TCP stream, kept until passt has everything before it.

passt of 2023 and 2024 takes a segment that is nothing but a FIN for the end of the stream, whatever its number says. If
its socket did not take all the data before (whoever reads there is slower than the guest), it shuts that down all
the same, and ignores what the guest sends again: the last bytes are lost, and nobody is told. A FIN behind data in one
segment it puts in its place.

So a bare FIN waits here until passt has acknowledged all that comes before. passt acknowledges what the kernel of the
other side has, when it is spoken to, or after 50 ms. So in the meantime it is spoken to: by the same segment without
the flag, an acknowledgement that says nothing new.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from struct import Struct

from pykrun.loop import Loop
from pykrun.net.repair import amend

_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_TCP = 6
_FIN, _SYN, _RST = 0x01, 0x02, 0x04
_NOTABLE = _FIN | _SYN | _RST
_AT4, _AT6 = 34, 54  # where TCP's header is; in IPv4 without options
_HEADER = 20
_FLOW4, _FLOW6 = Struct(">12s4xI"), Struct(">36s4xI")  # addresses and ports, acknowledgement
_LENGTH, _SEQUENCE = Struct(">H"), Struct(">I")
_ROUND, _HALF = 1 << 32, 1 << 31
_FIRST_PAUSE, _LAST_PAUSE = 0.001, 0.032
"""Seconds between two acknowledgements that ask; each is twice the one before."""
_MOST = 4096


class Ends:
    """The ends of a guest's connections.

    :param send: takes a frame to passt, whatever there is room for.
    """

    def __init__(self, loop: Loop, send: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._send = send
        # By connection, as packets to the guest name it. Of thousands, those are forgotten that passt is silent about.
        self._acknowledged: dict[bytes, int] = {}
        self._earlier: dict[bytes, int] = {}
        self._waiting: dict[bytes, tuple[bytes, int]] = {}  # a frame and its sequence number

    # From passt

    def note(self, frame: memoryview) -> None:
        """Look at a frame to the guest; the same one twice does no harm. An end that waited for it goes."""
        size = len(frame)
        if size >= _AT4 + _HEADER and frame[23] == _TCP and frame[13] == _IPV4[1]:
            at, (flow, acknowledged) = _AT4, _FLOW4.unpack_from(frame, 26)
        elif size >= _AT6 + _HEADER and frame[20] == _TCP and frame[13] == _IPV6[1]:
            at, (flow, acknowledged) = _AT6, _FLOW6.unpack_from(frame, 22)
        else:
            return
        self._acknowledged[flow] = acknowledged
        if flow in self._waiting:
            self._release(flow, acknowledged, frame[at + 13])
        if len(self._acknowledged) > _MOST:
            self._acknowledged, self._earlier = {}, self._acknowledged

    def _release(self, flow: bytes, acknowledged: int, flags: int) -> None:
        frame, sequence = self._waiting[flow]
        missing = _ahead(sequence, acknowledged)
        if missing > 0 and not flags & (_SYN | _RST):
            return
        del self._waiting[flow]
        if missing == 0 and not flags & (_SYN | _RST):
            self._send(frame)

    # To passt

    def keeps(self, head: bytes, size: int) -> bool:
        """Whether a frame of the guest is not to be sent now: it is an end that comes too early.

        :param head: the first bytes of one that the border lets out, as `pykrun.virtio.net.HEAD` has it.
        """
        kind = head[12:14]
        if kind == _IPV4:
            if head[23] != _TCP:
                return False
            at = 14 + 4 * (head[14] & 15)
        elif kind == _IPV6 and head[20] == _TCP:
            at = _AT6
        else:
            return False
        return len(head) >= at + _HEADER and bool(head[at + 13] & _NOTABLE) and self._judge(head, size, at)

    def _judge(self, head: bytes, size: int, at: int) -> bool:
        """Judge a segment with one of the flags `_NOTABLE`."""
        if head[12:14] == _IPV4:
            flow, end = head[30:34] + head[26:30], 14 + _LENGTH.unpack_from(head, 16)[0]
        else:
            flow, end = head[38:54] + head[22:38], _AT6 + _LENGTH.unpack_from(head, 18)[0]
        flow += head[at + 2 : at + 4] + head[at : at + 2]
        if head[at + 13] & (_SYN | _RST):  # another connection, or none
            self._waiting.pop(flow, None)
            return False
        acknowledged = self._acknowledged.get(flow, self._earlier.get(flow))
        if acknowledged is None or size > len(head) or end > at + 4 * (head[at + 12] >> 4):
            return False
        (sequence,) = _SEQUENCE.unpack_from(head, at + 4)
        if _ahead(sequence, acknowledged) <= 0:
            self._waiting.pop(flow, None)
            return False
        self._wait(flow, head, sequence, at)
        return True

    def _wait(self, flow: bytes, frame: bytes, sequence: int, at: int) -> None:
        asking = self._waiting.pop(flow, (b"", -1))[1] == sequence  # the guest repeats itself
        if len(self._waiting) >= _MOST:
            del self._waiting[next(iter(self._waiting))]  # the guest will
        self._waiting[flow] = frame, sequence
        question = bytearray(frame)
        question[at + 13] &= ~_FIN
        amend(question, at + 16, -_FIN)
        self._ask(flow, sequence, bytes(question), _LAST_PAUSE if asking else _FIRST_PAUSE / 2)

    def _ask(self, flow: bytes, sequence: int, question: bytes, pause: float) -> None:
        """Have passt say how far it is; again after twice the pause."""
        if self._waiting.get(flow, (b"", -1))[1] != sequence:
            return
        self._send(question)
        if pause < _LAST_PAUSE:
            self._loop.call_later(2 * pause, partial(self._ask, flow, sequence, question, 2 * pause))


def _ahead(sequence: int, acknowledged: int) -> int:
    """How many bytes the one is before the other; negative if it is behind (RFC 9293, 3.4)."""
    return (sequence - acknowledged + _HALF) % _ROUND - _HALF
