"""A reset that refuses a connection, as passt of 2023 sends it, and frames that are none of our business."""

from __future__ import annotations

import random
import struct

import pytest

from pykrun.net.repair import SIZES, acknowledge_refusal
from tests.net.test_border import TCP, UDP, checksum, packet


def reset(to: str, flags: int, acknowledge: int = 0x01020304) -> bytearray:
    """A segment without data, its checksum right."""
    frame = bytearray(packet(to))
    at = len(frame) - 20
    frame[at + 8 : at + 12] = struct.pack("!I", acknowledge)
    frame[at + 13] = flags
    frame[at + 16 : at + 18] = bytes(2)
    frame[at + 16 : at + 18] = checksum(pseudo(frame) + frame[at:])
    return frame


def pseudo(frame: bytes | bytearray) -> bytes:
    addresses = frame[22:54] if frame[12:14] == b"\x86\xdd" else frame[26:34]
    return bytes(addresses) + struct.pack("!II", 20, TCP)


@pytest.mark.parametrize("to", ["192.0.2.2", "2001:db8::2"])
def test_a_bare_reset_is_acknowledged(to: str) -> None:
    chance = random.Random(3)
    for number in (0, 1, 0xFFFFFFFF, *(chance.randrange(1 << 32) for _ in range(2000))):
        frame = reset(to, 0x04, number)
        before = bytes(frame)
        assert len(frame) in SIZES
        acknowledge_refusal(memoryview(frame))
        at = len(frame) - 20
        assert frame[at + 13] == 0x14
        assert checksum(pseudo(frame) + frame[at:]) == b"\0\0"
        assert [place for place in range(len(frame)) if frame[place] != before[place] and place < at + 13] == []
        again = bytes(frame)
        acknowledge_refusal(memoryview(frame))
        assert frame == again


@pytest.mark.parametrize("to", ["192.0.2.2", "2001:db8::2"])
@pytest.mark.parametrize("flags", [0x00, 0x02, 0x10, 0x11, 0x12, 0x14, 0x18])
def test_other_segments_stay_as_they_are(to: str, flags: int) -> None:
    frame = reset(to, flags)
    before = bytes(frame)
    acknowledge_refusal(memoryview(frame))
    assert frame == before


def test_other_frames_stay_as_they_are() -> None:
    chance = random.Random(4)
    frames = [bytearray(packet("192.0.2.2", UDP))[:54].ljust(54, b"\4"), bytearray(b"\4" * 54), bytearray(b"\4" * 74)]
    for size in SIZES * 2000:
        noise = bytearray(chance.randbytes(size))
        noise[12:14] = b"\x08\x00" if chance.random() < 0.5 else b"\x86\xdd"
        noise[47 if size == 54 else 67] &= 0xFB
        frames.append(noise)
    for frame in frames:
        before = bytes(frame)
        acknowledge_refusal(memoryview(frame))
        assert frame == before
