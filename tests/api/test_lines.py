"""Lines for a function, of what arrives in any pieces; of output without lines, and of lines that fail."""

from __future__ import annotations

import threading
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest

from pykrun.api.streams import LONGEST_LINE, Encoding, Lines

CHUNK = 1 << 16


def lines_of(pieces: list[bytes], encoding: Encoding | None = None) -> list[Any]:
    found: list[Any] = []
    lines = Lines(encoding or Encoding(), found.append)
    for piece in (*pieces, b""):
        lines(piece)
    return found


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[type[BaseException]]:
    kinds: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: kinds.append(args.exc_type))
    return kinds


@hypothesis.given(st.lists(st.text("a\nb", min_size=1).map(str.encode)))
def test_lines_whatever_the_pieces(pieces: list[bytes]) -> None:
    assert lines_of(pieces) == b"".join(pieces).splitlines(keepends=True)


def test_a_function_that_raises_misses_nothing_else(told: list[type[BaseException]]) -> None:
    found: list[bytes] = []

    def on_line(line: bytes) -> None:
        found.append(line)
        if b"bad" in line:
            raise KeyError(line)

    lines = Lines(Encoding(), on_line)
    for data in (b"one\nbad\ntwo\nbad\nthr", b"ee\nbad", b""):
        lines(data)
    assert found == [b"one\n", b"bad\n", b"two\n", b"bad\n", b"three\n", b"bad"]
    assert told == [KeyError] * 3


def test_a_line_that_is_no_text_is_one_line_lost(told: list[type[BaseException]]) -> None:
    assert lines_of([b"one\n\xff\ntwo\n"], Encoding("utf-8")) == ["one\n", "two\n"]
    assert told == [UnicodeDecodeError]


@pytest.mark.parametrize("encoding", [Encoding(), Encoding("utf-8"), Encoding("ascii", "replace")], ids=str)
def test_output_without_lines_comes_in_pieces(encoding: Encoding, told: list[type[BaseException]]) -> None:
    data = ("a" + "\u20ac" * LONGEST_LINE).encode()  # whose characters of three bytes end beside every border
    found = lines_of([data[start : start + CHUNK] for start in range(0, len(data), CHUNK)], encoding)
    assert found[0][:0].join(found) == encoding.decode(data)
    assert len(found) == 4
    assert all(len(piece) <= LONGEST_LINE for piece in found)
    assert not told


def test_no_more_is_kept_than_one_piece() -> None:
    found: list[int] = []
    lines = Lines(Encoding(), lambda line: found.append(len(line)))
    for _ in range(1600):  # 100 MiB
        lines(bytes(CHUNK))
        assert len(lines._rest) <= LONGEST_LINE
    lines(b"\n")
    assert found == [LONGEST_LINE] * 99 + [LONGEST_LINE, 1]
