"""What is done to the code of the package before it is linked."""

from __future__ import annotations

import sys
import types

import pytest

from pykrun.blob import freeze, lookup

SOURCES = freeze.read_package(str(lookup.GUEST_FOLDER))


def codes(code: types.CodeType) -> list[types.CodeType]:
    """It and all that is inside, in order."""
    inner = [value for value in code.co_consts if isinstance(value, types.CodeType)]
    return [code, *(one for value in inner for one in codes(value))]


def lines(code: types.CodeType) -> list[int | None]:
    return [position[0] for position in code.co_positions()]


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the format is that of the blob's Python, 3.11")
@pytest.mark.parametrize("name", sorted(SOURCES))
def test_each_instruction_keeps_its_line(name: str) -> None:
    before = codes(compile(SOURCES[name], name, "exec"))
    after = codes(freeze.shortened(before[0]))
    assert [lines(code) for code in after] == [lines(code) for code in before]
    assert [code.co_code for code in after] == [code.co_code for code in before]
    assert sum(len(code.co_linetable) for code in after) < sum(len(code.co_linetable) for code in before)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the format is that of the blob's Python, 3.11")
def test_lines_far_apart_and_backwards() -> None:
    source = "def f(x):\n" + "\n" * 5000 + "    return [\n y\n for y in x\n" + "\n" * 100 + "]\n"
    before = codes(compile(source, "far", "exec"))
    after = codes(freeze.shortened(before[0]))
    assert [lines(code) for code in after] == [lines(code) for code in before]
