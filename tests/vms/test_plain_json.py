"""JSON without `json` is the same JSON."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pykrun import plain_json
from tests.support.command import FIND

VALUES = [
    {"a": [1, -2.5, None, True, False, 'é\udc80\n"\\\u2028\U0001f600'], "b": {}, "": [[]]},
    {"event": "ended", "code": 137, "signal": 9, "reason": ""},
    [],
    "",
    0,
]
NONE = ["", "{", '{"a"', "{a}", '"abc', "[1,]", '{"a":1} x', "[" * 100000, '{"a":1e}', "nul", "\x00", "1" * 10000]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "json")


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("value", VALUES)
def test_there_and_back(value: object) -> None:
    text = plain_json.dumps(value)
    assert text == json.dumps(value, separators=(",", ":"))
    assert plain_json.loads(text.encode()) == value
    assert plain_json.loads(json.dumps(value, indent=2).encode() + b"\n") == value
    assert "json" not in sys.modules or plain_json.loads(text.encode()) == value


@pytest.mark.parametrize("text", NONE)
def test_what_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((ValueError, RecursionError)):
        plain_json.loads(text.encode())
    monkeypatch.delitem(sys.modules, "json")
    with pytest.raises((ValueError, RecursionError)):
        plain_json.loads(text.encode())


@pytest.mark.usefixtures("plain")
def test_what_json_does_not_know() -> None:
    with pytest.raises(TypeError, match="bytes"):
        plain_json.dumps({"a": b""})
    with pytest.raises(ValueError, match="not JSON compliant"):
        plain_json.dumps({"a": float("nan")})


def test_a_client_imports_little() -> None:
    program = f"""
{FIND}
import pykrun.cli.attached, pykrun.cli.exec, pykrun.vms.process
from pykrun.vms.wire import pack
pack({{"request": "exec"}})
print(*{{"argparse", "json", "re", "enum", "signal", "socket", "typing", "dataclasses"}} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, check=True, timeout=60)
    assert done.stdout == b"\n"
