"""libkrun.so.1 in a C program: from dlopen to the first call, and what a call costs.

The peer is the interpreter that the library brings: how long `python -I -S -c pass` takes from exec to exit. The first
call makes a context, and so starts the process that is going to run the VM.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from benchmarks.harness import Benchmark, Limit, Options, Series, Table, Unavailable, interleave, run_program
from pykrun import clib
from pykrun.clib.lookup import interpreter
from pykrun.errors import PykrunError

ROUNDS = 40
PYTHON = "python3 -I -S -c pass"
LOAD, FIRST, SECOND = "dlopen", "first context", "second context"
TOTAL = "dlopen and the first call"
CALLS = ("krun_has_feature", "krun_set_vm_config", "krun_set_workdir", "krun_set_exec", "krun_fs_add_overlay_file")
SOURCE = Path(__file__).parent / "guest" / "krun.c"

TOTAL_MS = 50.0
CALL_US = 50.0


def run(options: Options) -> list[Table]:
    try:
        library = str((clib.find() or clib.build()) / "libkrun.so.1")
    except PykrunError as error:
        raise Unavailable(str(error)) from error
    with tempfile.TemporaryDirectory() as folder:
        program = os.path.join(folder, "krun")
        subprocess.run(["gcc", "-O2", "-o", program, SOURCE, "-ldl"], check=True)
        return _measure([program, library], options.rounds_or(ROUNDS))


def _measure(command: list[str], rounds: int) -> list[Table]:
    found: dict[str, list[float]] = {name: [] for name in (LOAD, FIRST, SECOND, *CALLS)}

    def load() -> float:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=dict(os.environ))
        for values, line in zip(found.values(), done.stdout.split(), strict=True):
            values.append(float(line))
        return (found[LOAD][-1] + found[FIRST][-1]) / 1000

    def python() -> float:
        return run_program([str(interpreter().program), "-I", "-S", "-c", "pass"], {}).wall

    measured = interleave(rounds, {TOTAL: load, PYTHON: python})
    whole = next(one for one in measured if one.name == TOTAL)
    parts = [Series(name, [value / 1000 for value in found[name][1:]], part=True) for name in (LOAD, FIRST, SECOND)]
    series = [*(one for one in measured if one is not whole), whole, *parts]
    start = Table(
        title="libkrun.so.1: loaded and called once",
        series=series,
        peer=PYTHON,
        limits=[Limit("ms from dlopen to the first result, at best", whole.best, TOTAL_MS)],
        notes=["a machine that is busy with other things doubles these times: see the peer"],
    )
    calls = [Series(name, found[name][1:]) for name in CALLS]
    slowest = max(calls, key=lambda one: one.median)
    table = Table(
        title="libkrun.so.1: one call",
        unit="us",
        series=calls,
        limits=[Limit(f"us for {slowest.name}", slowest.median, CALL_US)],
    )
    return [start, table]


BENCHMARK = Benchmark("lib", "libkrun.so.1: dlopen, the first call, any further call", run)
