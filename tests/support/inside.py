"""A Python function of the tests, run in a guest whose root is this machine, over a volume."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.support.command import ROOT, Pykrun

VOLUME = "/mnt"
"""Where the guest has the folder that it may change."""


def run_inside(engine: str, folder: Path, call: str, *, timeout: float, options: tuple[str, ...] = ()) -> list[Any]:
    """Boot once and call `MODULE.FUNCTION(ARGUMENTS)`, with `call` as its text; return what it printed, lines of JSON.

    The interpreter and the checkout are this machine's, read-only; `folder` is the guest's VOLUME.
    """
    module, _, _ = call.partition("(")[0].rpartition(".")
    program = f"import sys; sys.path[:0] = {[str(ROOT / 'src'), str(ROOT)]!r}; import {module}; {call}"
    shared = ("--root", "/", "--read-only", "--volume", f"{folder}:{VOLUME}", "--workdir", "/", "--memory", "512")
    pykrun = Pykrun()
    try:
        done = pykrun(
            ["run", "--engine", engine, *shared, *options, "--", sys.executable, "-P", "-c", program], timeout=timeout
        )
    finally:
        left = pykrun.close()
    assert not left, left
    assert done.returncode == 0, (done.returncode, done.stderr[-3000:].decode(errors="replace"))
    return [json.loads(line) for line in done.stdout.splitlines()]
