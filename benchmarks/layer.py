"""What a writable layer adds to a boot: the same directory as the root, read-only, with a layer in the guest's memory,
and with one that is kept on the host.

The clock starts just before the engine is started and stops at the workload's first line. The guest's own step and the
module that it needs are shown beside it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import Benchmark, Options, Series, Table, interleave
from benchmarks.programs import available, run_vm, static

ROUNDS = {"uml": 20, "qemu": 10}
PEER, MEMORY, KEPT = "read-only directory", "layer in memory", "layer kept on the host"
STEP = "layer.enter"


def run(options: Options) -> list[Table]:
    program = static("first")
    with tempfile.TemporaryDirectory(prefix="pykrun-bench-") as name:
        folder = Path(name)
        (folder / "root").mkdir()
        shutil.copy(program, folder / "root/first")
        return [measure(engine, options, folder) for engine in available(options.engines)]


def measure(engine: str, options: Options, folder: Path) -> Table:
    steps: dict[str, list[float]] = {MEMORY: [], KEPT: []}

    def contestant(name: str, *words: str) -> Callable[[], float]:
        arguments = ["--engine", engine, "--root", str(folder / "root"), "--kernel-arg", "KRUN_INIT_TRACE=1", *words]

        def once() -> float:
            ran = run_vm([*arguments, "--", "/first"])
            if name in steps:
                steps[name].append(ran.steps[STEP])
            return ran.reached["output"] - ran.reached["prepared"]

        return once

    contestants = {
        PEER: contestant(PEER, "--read-only"),
        MEMORY: contestant(MEMORY, "--writable", "memory"),
        KEPT: contestant(KEPT, "--writable", str(folder / f"layer-{engine}")),
    }
    series = interleave(options.rounds_or(ROUNDS.get(engine, 10)), contestants)
    parts = [Series(f"{STEP}, {name}", found[1:], part=True) for name, found in steps.items()]
    return Table(title=f"{engine}: engine start to the workload's first line", series=[*series, *parts], peer=PEER)


BENCHMARK = Benchmark("layer", "what a writable layer adds to a boot", run)
