"""The whole command, wall to wall: `pykrun run --file /true=STATIC:0755 -- /true`, and the same program of this
host's own tree: `pykrun run --root / --read-only -- STATIC`."""

from __future__ import annotations

from statistics import median

from benchmarks.harness import Benchmark, Limit, Options, Series, Table, interleave, run_program
from benchmarks.programs import ROOT, available, run_vm, static

LIMIT_MS = 300
ROUNDS = {"uml": 20, "qemu": 7}


def run(options: Options) -> list[Table]:
    program = static("true")
    virtual = ["--file", f"/true={program}:0755", "--", "/true"]
    shared = ["--root", "/", "--read-only", "--", str(program)]
    return [measure(engine, virtual, shared, options) for engine in available(options.engines)]


def measure(engine: str, virtual: list[str], shared: list[str], options: Options) -> Table:
    arguments, of_the_host = ["--engine", engine, *virtual], ["--engine", engine, *shared]
    steps: list[dict[str, float]] = []
    shared_steps: list[dict[str, float]] = []

    def with_phases(words: list[str], into: list[dict[str, float]]) -> float:
        measured = run_vm(words)
        into.append(durations(measured.wall, measured.reached))
        return measured.wall

    series = interleave(
        options.rounds_or(ROUNDS.get(engine, 10)),
        {
            "pykrun run": lambda: run_vm(arguments, verbose=False).wall,
            "pykrun run -v": lambda: with_phases(arguments, steps),
            "--root / --read-only": lambda: run_vm(of_the_host, verbose=False).wall,
            "--root / --read-only -v": lambda: with_phases(of_the_host, shared_steps),
            "pykrun --version": lambda: run_program([str(ROOT / "pykrun"), "--version"]).wall,
        },
    )
    found: list[Series] = []
    parts = {"pykrun run -v": steps, "--root / --read-only -v": shared_steps}
    for one in series:
        found.append(one)
        measured = parts.get(one.name, [])[1:]  # without the warm-up
        found += [Series(name, [step[name] for step in measured], part=True) for name in (measured or [{}])[0]]
    return Table(
        title=f"{engine}: wall time of the whole command, and of each phase with -v",
        series=found,
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
