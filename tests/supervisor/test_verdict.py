"""One exit code out of everything that was heard; above all, that no workload can choose it for a dead VM."""

from __future__ import annotations

from typing import Any

import pytest

from pykrun.record import replace
from pykrun.root import Root
from pykrun.supervisor.control import Exit
from pykrun.supervisor.needs import missing_interpreter
from pykrun.supervisor.verdict import Evidence, judge

NOTHING = Evidence(
    decided=None,
    exit=None,
    reported=None,
    greeted=False,
    pid1=False,
    console=b"",
    failed="",
    end="uml exited with 0",
    lost="",
)
PANIC = b"Kernel panic - not syncing: Attempted to kill init! exitcode=0x00002a00\n"


@pytest.mark.parametrize(
    ("heard", "code", "said"),
    [
        ({}, 125, "ended before"),
        ({"exit": Exit(7, 0, ""), "greeted": True, "reported": 7}, 7, ""),
        ({"exit": Exit(125, 0, "no such directory"), "greeted": True}, 125, "no such directory"),
        ({"reported": 3}, 3, ""),
        # A process of the guest reported; PID 1, which speaks on the control port, did not.
        ({"reported": 0, "greeted": True}, 125, "ended before"),
        ({"reported": 0, "greeted": True, "console": PANIC}, 125, "panicked"),
        ({"reported": 0, "greeted": True, "end": "uml was killed"}, 125, "killed"),
        ({"console": PANIC}, 125, "panicked"),
        ({"console": PANIC, "pid1": True, "greeted": True}, 42, ""),
        ({"console": PANIC, "pid1": True, "reported": 0}, 42, ""),
        ({"decided": (124, "too long"), "exit": Exit(0, 0, "")}, 124, "too long"),
        ({"failed": "no such file"}, 125, "did not start: no such file"),
        ({"exit": Exit(0, 0, ""), "lost": "standard output: full"}, 125, "standard output: full"),
        ({"exit": Exit(3, 0, ""), "lost": "standard output: full"}, 3, "standard output: full"),
    ],
)
def test_verdicts(heard: dict[str, Any], code: int, said: str) -> None:
    found, reason, _ = judge(replace(NOTHING, **heard))
    assert found == code
    assert said in reason
    assert bool(reason) is bool(said)


def test_missing_interpreters() -> None:
    root = Root()
    root.host_file("/dynamic", "/bin/ls")
    root.host_file("/static", "/bin/busybox")
    root.file("/script", b"#! /bin/nosh -x\n")
    root.file("/runs", b"#!/static\n")
    root.file("/odd", b"#!")
    root.file("/cut", b"\x7fELF\x02\x01")
    assert missing_interpreter(root, "/dynamic").startswith("/lib")
    assert missing_interpreter(root, "/script") == "/bin/nosh"
    for fine in ("/static", "/runs", "/odd", "/cut", "/absent", None):
        assert missing_interpreter(root, fine) == ""
    root.close()
