"""libkrun's functions: what a call costs, and what the way through them adds to a run."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from statistics import median

from benchmarks.harness import Benchmark, Limit, Options, Series, Table, interleave, run_program
from benchmarks.programs import ROOT, available, static

CALL_US, ADDED_MS, IMPORT_MS = 50, 60, 50
ROUNDS = {"uml": 15, "qemu": 5}
CALLS = 1000

FIND = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})"
RUN = f"{FIND}; from pykrun.cli import main; sys.exit(main())"
KRUN = f"""{FIND}
from pykrun.krun import *
ctx = krun_create_ctx()
krun_disable_implicit_vsock(ctx)
krun_add_virtiofs(ctx, "/dev/root", None)
program = open(sys.argv[1], "rb").read()
krun_fs_add_overlay_file(ctx, "/dev/root", "true", program, len(program), 0o755, False)
krun_set_exec(ctx, "/true", [], [])
sys.exit(-krun_start_enter(ctx))
"""
IMPORT = f"{FIND}; import pykrun.krun"
NOTHING = "pass"


def run(options: Options) -> list[Table]:
    program = static("true")
    return [_calls(options), _imports(options), *(_runs(engine, str(program), options) for engine in _engines(options))]


def _engines(options: Options) -> list[str]:
    return available(options.engines)


def _calls(options: Options) -> Table:
    from pykrun import krun

    data = b"x" * 4096
    ctx = krun.krun_create_ctx()
    krun.krun_add_virtiofs(ctx, "/dev/root", None)
    places = (f"f{number}" for number in range(1 << 30))
    calls: dict[str, Callable[[], int]] = {
        "krun_set_vm_config": lambda: krun.krun_set_vm_config(ctx, 1, 256),
        "krun_set_workdir": lambda: krun.krun_set_workdir(ctx, "/srv"),
        "krun_set_exec, 3 words, 10 variables": lambda: krun.krun_set_exec(ctx, "/p", ["a"] * 3, ["A=b"] * 10),
        "krun_fs_add_overlay_file": lambda: krun.krun_fs_add_overlay_file(
            ctx, "/dev/root", next(places), data, 4096, 0o644, False
        ),
        "krun_free_ctx of no context": lambda: krun.krun_free_ctx(-1),
    }
    series = interleave(options.rounds_or(20), {name: _microseconds(call) for name, call in calls.items()})
    krun.krun_free_ctx(ctx)
    series += interleave(options.rounds_or(20), {"krun_create_ctx and krun_free_ctx": _microseconds(_context, 1)})
    worst = max(median(one.values) for one in series[:-1])
    return Table(
        title="a call from Python",
        series=series,
        unit="us",
        peer=None,
        limits=[Limit("the slowest call but krun_create_ctx, us", worst, CALL_US)],
        notes=["krun_create_ctx starts the process that will run the VM"],
    )


def _context() -> int:
    from pykrun import krun

    return krun.krun_free_ctx(krun.krun_create_ctx())


def _microseconds(call: Callable[[], int], calls: int = CALLS) -> Callable[[], float]:
    def measure() -> float:
        before = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - before) * 1e6 / calls

    return measure


def _imports(options: Options) -> Table:
    series = interleave(
        options.rounds_or(20),
        {
            "an interpreter": lambda: run_program([sys.executable, "-I", "-S", "-c", NOTHING]).wall,
            "an interpreter that imports pykrun.krun": lambda: (
                run_program([sys.executable, "-I", "-S", "-c", IMPORT]).wall
            ),
        },
    )
    added = median(series[1].values) - median(series[0].values)
    return Table(title="the import", series=series, limits=[Limit("what the import adds, ms", added, IMPORT_MS)])


def _runs(engine: str, program: str, options: Options) -> Table:
    environment = {**os.environ, "PYKRUN_ENGINE": engine}
    start = [sys.executable, "-I", "-S", "-c"]
    command = [*start, RUN, "run", "--engine", engine, "--file", f"/true={program}:0755", "--", "/true"]
    series: list[Series] = interleave(
        options.rounds_or(ROUNDS.get(engine, 10)),
        {
            "pykrun run": lambda: run_program(command).wall,
            "krun_start_enter": lambda: run_program([*start, KRUN, program], environment).wall,
        },
    )
    added = median(series[1].values) - median(series[0].values)
    return Table(
        title=f"{engine}: a whole program, wall to wall",
        series=series,
        limits=[Limit("what the functions add to pykrun run, ms", added, ADDED_MS)],
    )


BENCHMARK = Benchmark("krun", "libkrun's functions: calls, import, and what they add to a run", run)
