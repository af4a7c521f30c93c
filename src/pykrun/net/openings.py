"""The beginning of a TCP stream into the guest, said again until the guest answers.

Whoever connects to a published port is accepted by passt at once, before the guest has a driver or an address. passt
of 2023 and 2024 says its SYN once, and resets the connection ten seconds later (later ones repeat it, as any TCP does).
So it is repeated here: the guest answers as soon as it can, by taking the connection or by refusing it.

A guest that was only slow answers each of them, and passt of 2023 loses its place in a stream that begins several
times. So the first answer alone goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pykrun.loop import Loop

_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_TCP = 6
_SYN, _ACK = 0x02, 0x10
_AT4, _AT6 = 34, 54  # where TCP's header is; in IPv4 without options
_HEADER = 20
NOBODY, _EVERYBODY = bytes(6), b"\xff" * 6  # addresses of cards

SIZES = range(_AT4 + _HEADER, _AT6 + 60 + 1)
"""Bytes of a frame that can be an opening: headers alone."""

_EAGER, _USUAL = (0.05, 0.2), (1.0, 4.0)
"""Seconds between two of them, the first and the longest; each is twice the one before. Eager is who speaks to a guest
that passt has not heard of, and so is hardly there; to others it is what TCP does (RFC 6298)."""
_PATIENCE = 10.0  # passt's
_MOST = 1024


class Openings:
    """Connections into a guest that it has not answered yet.

    :param send: takes a frame to the guest.
    :param mac: the address of the guest's card: passt does not know it until it has heard of the guest.
    :ivar waiting: not empty while there are such; `answered`, while they may be answered again. When both are empty,
        `answers_again` need not be asked.
    """

    def __init__(self, loop: Loop, send: Callable[[bytes], None], mac: bytes = NOBODY) -> None:
        self._loop = loop
        self._send = send
        self._mac = mac
        # By connection, as packets to the guest name it.
        self.waiting: dict[bytes, bytes] = {}  # frames
        self._repeated: set[bytes] = set()  # which of them were
        self.answered: dict[bytes, bytes] = {}  # of these, since a short time

    def note(self, frame: memoryview) -> None:
        """Look at a frame to the guest: of `SIZES`, or any while some wait. The same one twice does no harm."""
        size = len(frame)
        if size >= _AT4 + _HEADER and frame[23] == _TCP and frame[13] == _IPV4[1]:
            at, addresses, end = _AT4, 26, 38
        elif size >= _AT6 + _HEADER and frame[20] == _TCP and frame[13] == _IPV6[1]:
            at, addresses, end = _AT6, 22, 58
        else:
            return
        is_opening = frame[at + 13] & (_SYN | _ACK) == _SYN
        if not is_opening and not self.waiting:  # nearly always
            return
        flow = bytes(frame[addresses:end])
        if not is_opening:
            self._forget(flow)  # passt goes on, or gives up
            return
        opening, (pause, most) = bytes(frame), _USUAL
        if opening[:6] in (NOBODY, _EVERYBODY):
            opening, (pause, most) = self._mac + opening[6:], _EAGER
        if self.waiting.get(flow) != opening and len(self.waiting) < _MOST:
            self._forget(flow)
            self.answered.pop(flow, None)
            self.waiting[flow] = opening
            self._loop.call_later(pause, partial(self._repeat, flow, opening, pause, most, _PATIENCE))

    def answers_again(self, head: bytes) -> bool:
        """Whether a frame of the guest is not to be sent: it takes a connection once more, asked once more.

        Whatever it says to an opening first is its answer.

        :param head: its first bytes.
        """
        kind = head[12:14]
        if kind == _IPV4 and len(head) >= _AT4 and head[23] == _TCP:
            at, addresses = 14 + 4 * (head[14] & 15), head[30:34] + head[26:30]
        elif kind == _IPV6 and len(head) >= _AT6 and head[20] == _TCP:
            at, addresses = _AT6, head[38:54] + head[22:38]
        else:
            return False
        flow = addresses + head[at + 2 : at + 4] + head[at : at + 2]
        if flow not in self.waiting:
            both = _SYN | _ACK
            return flow in self.answered and len(head) >= at + _HEADER and head[at + 13] & both == both
        if flow in self._repeated and len(self.answered) < _MOST:
            opening = self.answered[flow] = self.waiting[flow]
            self._loop.call_later(_PATIENCE, partial(self._forget_answer, flow, opening))
        self._forget(flow)
        return False

    def _forget(self, flow: bytes) -> None:
        self.waiting.pop(flow, None)
        self._repeated.discard(flow)

    def _forget_answer(self, flow: bytes, opening: bytes) -> None:
        if self.answered.get(flow) is opening:
            del self.answered[flow]

    def _repeat(self, flow: bytes, opening: bytes, pause: float, most: float, patience: float) -> None:
        if self.waiting.get(flow) is not opening:
            return
        if patience <= 0:
            self._forget(flow)
            return
        self._repeated.add(flow)
        self._send(opening)
        pause = min(2 * pause, most)
        self._loop.call_later(pause, partial(self._repeat, flow, opening, pause, most, patience - pause))
