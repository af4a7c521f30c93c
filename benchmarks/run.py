"""The whole command, wall to wall: `pykrun run --file /true=STATIC:0755 -- /true`."""

from __future__ import annotations

from statistics import median

from benchmarks.harness import Benchmark, Limit, Options, Series, Table, interleave, run_program
from benchmarks.programs import ROOT, available, run_vm, static

LIMIT_MS = 300
ROUNDS = {"uml": 20, "qemu": 7}


def run(options: Options) -> list[Table]:
    program = static("true")
    return [measure(engine, ["--file", f"/true={program}:0755"], options) for engine in available(options.engines)]


def measure(engine: str, root: list[str], options: Options) -> Table:
    arguments = ["--engine", engine, *root, "--", "/true"]
    steps: list[dict[str, float]] = []

    def with_phases() -> float:
        measured = run_vm(arguments)
        steps.append(durations(measured.wall, measured.reached))
        return measured.wall

    series = interleave(
        options.rounds_or(ROUNDS.get(engine, 10)),
        {
            "pykrun run": lambda: run_vm(arguments, verbose=False).wall,
            "pykrun run -v": with_phases,
            "pykrun --version": lambda: run_program([str(ROOT / "pykrun"), "--version"]).wall,
        },
    )
    del steps[0]  # the warm-up
    phases = [Series(name, [step[name] for step in steps], part=True) for name in steps[0]]
    return Table(
        title=f"{engine}: wall time of the whole command, and of each phase with -v",
        series=[*series, *phases],
        limits=[Limit("pykrun run on User Mode Linux, ms", median(series[0].values), LIMIT_MS)]
        if engine == "uml"
        else [],
    )


def durations(wall: float, reached: dict[str, float]) -> dict[str, float]:
    """Milliseconds of each phase; what lies before the first and after the last look at the clock as one more."""
    result = {"(interpreter: start, imports, end)": wall - max(reached.values())}
    last = 0.0
    for name, at in sorted(reached.items(), key=lambda item: item[1]):
        result[f"until {name}"] = at - last
        last = at
    return result


BENCHMARK = Benchmark("run", "the whole command, wall to wall, by phase", run)
