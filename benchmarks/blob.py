"""Exec to exit of the init blob, next to do-nothing programs: in C, static, with glibc and with musl, and in Python.

On the host, where the blob is not PID 1: it resumes, fills in its arguments and environment, says its version and ends.
What it does as PID 1 is in the boot benchmark.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from benchmarks.harness import Benchmark, Limit, Options, Series, Table, Unavailable, interleave, run_program
from benchmarks.programs import static
from pykrun import blob
from pykrun.errors import PykrunError

ROUNDS = 300
OURS = "init blob"
GLIBC = "C, static glibc"
MUSL = "C, static musl"
PYTHON = "python3 -I -S -c pass"

LIMIT = 0.7
SIZE_LIMIT_MB = 3.5


def run(options: Options) -> Table:
    try:
        found = blob.find()
    except PykrunError as error:
        raise Unavailable(str(error)) from error
    programs: dict[str, Sequence[str]] = {
        GLIBC: [str(static("true", "gcc"))],
        MUSL: [str(static("true", "musl-gcc"))],
        OURS: [str(found.path), "--version"],
    }
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python:
        programs[PYTHON] = [python, "-I", "-S", "-c", "pass"]
    faults: dict[str, int] = {}

    def measurement(name: str, argv: Sequence[str]) -> float:
        result = run_program(argv, {})
        if result.status:
            raise RuntimeError(f"{name} ended with {result.status}")
        faults[name] = result.page_faults
        return result.wall

    contestants = {name: lambda name=name, argv=argv: measurement(name, argv) for name, argv in programs.items()}
    measured = interleave(options.rounds_or(ROUNDS), contestants, warm_up=5)
    series = [Series(one.name, one.values, f"{faults[one.name]} page faults") for one in measured]
    table = Table(title="exec to exit", series=series, peer=GLIBC)
    limits = [
        Limit("ratio of the blob to do-nothing C with static glibc", table.ratio(OURS), LIMIT),
        Limit("size of the blob in MB", found.size / 1e6, SIZE_LIMIT_MB),
    ]
    notes = [f"the blob: {found.size} bytes, {found.recipe}, {found.builder or 'unknown builder'}"]
    return Table(title=table.title, series=table.series, peer=GLIBC, limits=limits, notes=notes)


BENCHMARK = Benchmark("blob", "exec to exit of the init blob next to programs that do nothing; its size", run)
