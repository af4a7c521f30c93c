"""Sets the network up as init does, tells how it went, and stays: `runner.py SPEC`, a JSON object (see guest.py).

One line of JSON to standard output, then one for each line of standard input: `children`, the number of processes that
go on; `descriptors`, what such a process has open; `signals`, what it has blocked and its session; `resolver`, the text
of resolv.conf as this machine sees it; `leftovers`, what is in the folder of devices; `end`, whether all are gone after
one TERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

SPEC = json.loads(sys.argv[1])


def load() -> None:
    sys.path.insert(0, SPEC["source"])
    spec = spec_from_file_location("krun_init._linux", SPEC["library"])
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["krun_init._linux"] = module


def children() -> list[int]:
    """Those that go on; who has ended is buried."""
    found = []
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        if os.waitpid(int(pid), os.WNOHANG)[0] == 0:
            found.append(int(pid))
    return found


def descriptors(pid: int) -> list[str]:
    folder = Path(f"/proc/{pid}/fd")
    return sorted(os.readlink(entry).partition(":")[0] for entry in folder.iterdir() if int(entry.name) > 2)


def signals(pid: int) -> list[str]:
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    return [status["SigBlk"], "own session" if os.getsid(pid) == pid else "init's session"]


def make_readonly(folder: str) -> None:
    from krun_init import _linux

    bind, remount, readonly = 0x1000, 0x20, 1
    _linux.mount(folder, folder, None, bind)
    _linux.mount(None, folder, None, bind | remount | readonly)


def end() -> bool:
    for pid in children():
        os.kill(pid, signal.SIGTERM)
    limit = time.monotonic() + 5
    while children() and time.monotonic() < limit:
        time.sleep(0.01)
    return not children()


def main() -> None:
    load()
    from krun_init import _linux, network
    from krun_init.log import Log
    from krun_init.places import Places
    from krun_init.start import Start

    lines: list[tuple[int, str]] = []

    class Lines(Log):
        def line(self, level: int, text: str) -> None:
            lines.append((level, text))

    places, start = Places(), Start()
    for name, value in SPEC["places"].items():
        setattr(places, name, value)
    start.dhcp = SPEC["promised"]
    if SPEC["readonly"]:
        make_readonly(SPEC["readonly"])
    _linux.signalfd(0)  # as init does: all signals are blocked
    before = time.monotonic()
    up = network.up(SPEC["words"], start, places, Lines())
    elapsed = time.monotonic() - before
    if up.keeper is not None:
        up.keeper.start()
    print(json.dumps({"elapsed": elapsed, "hostname": up.hostname, "log": lines}), flush=True)
    for question in sys.stdin:
        answers: dict[str, Any] = {
            "children": lambda: len(children()),
            "descriptors": lambda: [descriptors(pid) for pid in children()],
            "signals": lambda: [signals(pid) for pid in children()],
            "resolver": lambda: Path(places.resolver).read_text(),
            "leftovers": lambda: os.listdir(places.devices),
            "end": end,
        }
        print(json.dumps(answers[question.strip()]()), flush=True)


main()
