"""Kernel start to the workload's first line, next to the same kernel with a do-nothing init in a plain initramfs.

Both are started by the same engine code with the same tuning and the same sandbox. The clock starts just before the
engine is started and stops when the line is here. The ratio shows what pykrun adds: modules, the virtio-fs root, the
init blob, one fork and exec.
"""

from __future__ import annotations

import os
import select
import shutil
import time
from pathlib import Path

from benchmarks.harness import Benchmark, Limit, Options, Series, Table, Unavailable, interleave
from benchmarks.programs import available, run_vm, static
from pykrun.engine import choose
from pykrun.errors import MissingError
from pykrun.host.cache import cache_directory, write_atomic
from pykrun.kernel import console, cpio
from pykrun.machine import Machine

ROUNDS = {"uml": 30, "qemu": 20}
LINE = b"first line"
SECONDS = 60.0
PEER = "bare kernel"
PHASES = ("launched", "served", "init", "started", "output")
OURS = "pykrun"
NETWORK = "pykrun with a network"
DHCP = "of that, the guest's network.up"
DHCP_MS = 30.0
"""What the guest's set-up of the network, DHCP with a server on this host included, may take on User Mode Linux."""

LIMITS = {"uml": 2.0, "qemu": 1.15}
UML_GOAL = 1.6
UML_GOAL_MS = 120.0


def run(options: Options) -> list[Table]:
    return [measure(engine, options) for engine in available(options.engines)]


def measure(name: str, options: Options) -> Table:
    program = static("first")
    machine = bare_machine(name, program)
    arguments = ["--engine", name, "--file", f"/first={program}:0755", "--", "/first"]
    steps: list[dict[str, float]] = []
    dhcp: list[float] = []

    def ours() -> float:
        reached = run_vm(arguments).reached
        start = reached["prepared"]
        steps.append({phase: reached[phase] - start for phase in PHASES})
        return reached["output"] - start

    def with_network() -> float:
        run = run_vm([*arguments[:2], "--net", "user", "--kernel-arg", "KRUN_INIT_TRACE=1", *arguments[2:]])
        dhcp.append(run.steps["network.up"])
        return run.reached["output"] - run.reached["prepared"]

    contestants = {PEER: lambda: boot_bare(name, machine), OURS: ours}
    if name == "uml" and shutil.which("passt"):
        contestants[NETWORK] = with_network
    series = interleave(options.rounds_or(ROUNDS.get(name, 20)), contestants)
    del steps[0]  # the warm-up
    phases = [Series(f"to {phase}", [step[phase] for step in steps], part=True) for phase in PHASES]
    if dhcp:
        phases.append(Series(DHCP, dhcp[1:], part=True))
    table = Table(title=f"{name}: engine start to the workload's first line", series=[*series, *phases], peer=PEER)
    return Table(title=table.title, series=table.series, peer=PEER, limits=limits(name, table))


def limits(name: str, table: Table) -> list[Limit]:
    ratio = table.ratio(OURS)
    found = [Limit(f"ratio to the bare kernel on {name}", ratio, LIMITS[name])] if name in LIMITS else []
    if name == "uml":
        found.append(Limit("the goal for that ratio", ratio, UML_GOAL))
        found.append(Limit("the goal in ms, on a quiet machine", table.of(OURS).median, UML_GOAL_MS))
        if any(series.name == DHCP for series in table.series):
            found.append(Limit("ms of the guest's network set-up with DHCP", table.of(DHCP).median, DHCP_MS))
    return found


def bare_machine(name: str, program: Path) -> Machine:
    """The engine's own kernel with nothing but the program."""
    try:
        kernel = choose(name).kernel()
    except MissingError as error:
        raise Unavailable(str(error)) from None
    path = cache_directory() / "bench" / f"{program.name}.cpio"
    write_atomic(path, cpio.archive([*console(), cpio.file("init", program.read_bytes(), 0o755)]))
    return Machine(kernel=kernel, initramfs=path, shares=())


def boot_bare(name: str, machine: Machine) -> float:
    """Milliseconds until its init's line is here."""
    before = time.perf_counter()
    running = choose(name).launch(machine)
    try:
        poll = select.poll()
        poll.register(running.console, select.POLLIN)
        seen = b""
        while LINE not in seen:
            left = SECONDS - (time.perf_counter() - before)
            if left < 0 or not poll.poll(left * 1000):
                raise RuntimeError(f"the bare kernel said nothing but {seen!r}")
            seen += os.read(running.console, 65536)
        return (time.perf_counter() - before) * 1e3
    finally:
        running.close()


BENCHMARK = Benchmark("boot", "kernel start to the workload's first line, next to a bare kernel", run)
