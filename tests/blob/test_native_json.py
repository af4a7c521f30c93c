"""The stand-in for `_json` reads as the C module does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pykrun.blob.native_json import make_scanner


class Context:
    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> float:
        return float(name)


scan = make_scanner(Context)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_what_json_writes_is_read(value: Any, ascii_only: bool, indent: int | str | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert scan(text, 0) == (value, len(text))


def both(text: str) -> tuple[Any, Any]:
    """What the C scanner makes of the text, and what ours does: a value and an index, or the kind of error."""

    def outcome(read: Any) -> Any:
        try:
            return read(text, 0)
        except StopIteration as stop:
            return "nothing", stop.value
        except (ValueError, RecursionError) as error:
            return "wrong", isinstance(error, ValueError)

    return outcome(json.JSONDecoder(strict=True).scan_once), outcome(scan)


@given(st.text(alphabet='{}[]",: \n\\u0dDe.8+-1tfalsnrNIy\x01é\ud800'))
def test_the_same_of_any_text(text: str) -> None:
    theirs, ours = both(text)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize(
    "text",
    [
        *("", " 1", "01", "-", "-0", "1.", "1.5e", "1e5", "1E+2", ".5", "[1,]", "[,1]", "[1 2]", '{"a":1,}', "{1:2}"),
        *('{"a" 1}', '{"a"}', '"\\ud83d\\ude00"', '"\\ud83d"', '"\\u12"', '"\\x"', '"', '"\n"', "tru", "NaN", "nul"),
        *("[1 ,2 ]", '{ "a" : [ ] , "b" : { } }', "[" * 100_000),
    ],
)
def test_the_corners(text: str) -> None:
    theirs, ours = both(text)
    assert repr(ours) == repr(theirs)
