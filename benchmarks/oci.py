"""Containers as VMs, under the distribution's podman: `podman run` and `podman exec` to the first output, next to crun.

Both runtimes take turns with the same podman, conmon, image and network (none), in an enclave of the benchmark's
own. What podman takes for itself is in both; the difference is what a VM costs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.harness import Benchmark, Limit, Options, Series, Table, Unavailable, interleave
from tests.support.enclave import IMAGE, OURS, ours
from tests.support.podman import Podman, Store

PEER = "crun"
ROUNDS = 20
RUN_MS = 400.0
"""What `podman run` with a VM may take more than with crun, on User Mode Linux, until the first output is here."""
EXEC_MS = 50.0
"""What `pykrun-oci exec` may take until the command's first output is here."""


def run(options: Options) -> Iterable[Table]:
    if os.geteuid() != 0:
        raise Unavailable("needs root")
    for program in ("podman", "conmon", PEER):
        if shutil.which(program) is None:
            raise Unavailable(f"no {program} on PATH; ./setup test installs it")
    store = Store()
    try:
        podmans = {name: Podman(store, name) for name in (PEER, OURS)}
        yield from (of_run(podmans, options), of_exec(podmans, options))
    finally:
        store.close()


def of_run(podmans: dict[str, Podman], options: Options) -> Table:
    """`podman run --rm IMAGE echo`, as a whole and to its first output."""
    whole: dict[str, list[float]] = {name: [] for name in podmans}

    def measure(name: str) -> float:
        first, end = timed(podmans[name], ["run", "--rm", IMAGE, "echo", "first"])
        whole[name].append(end)
        return first

    contestants = {f"podman run, {name}": lambda name=name: measure(name) for name in podmans}
    series = interleave(options.rounds_or(ROUNDS), contestants)
    shown: list[Series] = []
    for one, name in zip(series, podmans, strict=True):
        shown += [one, Series("to the end of podman", whole[name][1:], part=True)]
    return Table(
        title="podman run, to the first output",
        series=shown,
        peer=series[0].name,
        limits=[Limit("ms more than with crun", series[1].median - series[0].median, RUN_MS)],
    )


def of_exec(podmans: dict[str, Podman], options: Options) -> Table:
    """`podman exec` in a running container, and the runtime's verb alone."""
    names = {name: podman.must("run", "-d", IMAGE, "sleep", "600") for name, podman in podmans.items()}
    process = podmans[OURS].store.enclave.folder / "process.json"
    process.write_text('{"args": ["echo", "first"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}')
    programs = {PEER: PEER, OURS: ours()}
    contestants = {}
    for name, podman in podmans.items():
        contestants[f"podman exec, {name}"] = lambda podman=podman, of=names[name]: timed(
            podman, ["exec", of, "echo", "first"]
        )[0]
    for name, podman in podmans.items():
        words = [programs[name], "exec", "--process", process, names[name]]
        contestants[f"{name} exec"] = lambda podman=podman, words=words: direct(podman, words)
    series = interleave(options.rounds_or(ROUNDS), contestants)
    verb = next(one for one in series if one.name == f"{OURS} exec")
    return Table(
        title="podman exec, and the runtime's exec alone, to the first output",
        series=series,
        peer=series[0].name,
        limits=[Limit(f"{OURS} exec, ms", verb.median, EXEC_MS)],
    )


def timed(podman: Podman, words: Sequence[str | Path]) -> tuple[float, float]:
    """Milliseconds until the first output, and until podman's end."""
    return _timed(lambda: podman.start(*words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE))


def direct(podman: Podman, words: Sequence[str | Path]) -> float:
    """Milliseconds until the first output of a program in podman's enclave."""
    start = podman.store.enclave.start
    return _timed(lambda: start(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True))[0]


def _timed(start: Callable[[], subprocess.Popen[bytes]]) -> tuple[float, float]:
    before = time.perf_counter()
    process = start()
    assert process.stdout is not None
    line = os.read(process.stdout.fileno(), 100)
    first = time.perf_counter()
    process.communicate(timeout=60)
    after = time.perf_counter()
    if line != b"first\n" or process.returncode:
        raise RuntimeError(f"{process.args!r}: status {process.returncode}, output {line!r}")
    return (first - before) * 1e3, (after - before) * 1e3


BENCHMARK = Benchmark("oci", "podman run and exec to the first output, with VMs and with crun", run)
