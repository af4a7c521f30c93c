"""What every benchmark shares: repeated measurement, medians, the table for people and the record for programs.

A benchmark is a module of this package with one object named `BENCHMARK`; `./bench` finds it by that name::

    def run(options: Options) -> Table: ...

    BENCHMARK = Benchmark("blob", "exec to exit of the init blob next to C programs", run)

Single wall times say little on a shared machine. So contestants are measured in turns (`interleave`), tables give the
median and the best, and every limit is a ratio against a peer of the same run where that is possible. A limit that is
missed is reported, never raised.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field


class Unavailable(Exception):
    """What the benchmark needs is not on this machine; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asks of every benchmark.

    :param rounds: how often each contestant is measured; None leaves it to the benchmark.
    :param engines: names of the engines to measure, for benchmarks that boot.
    """

    rounds: int | None = None
    engines: tuple[str, ...] = ("uml", "qemu")

    def rounds_or(self, default: int) -> int:
        """The rounds that were asked for, or the benchmark's own number."""
        return default if self.rounds is None else self.rounds


@dataclass(frozen=True, slots=True)
class Series:
    """The measured values of one contestant, in the order they were taken.

    :param note: a remark at the end of its line.
    :param part: it is a part of the series above: shown indented and without a ratio.
    """

    name: str
    values: Sequence[float]
    note: str = ""
    part: bool = False

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def best(self) -> float:
        """The smallest value."""
        return min(self.values)


@dataclass(frozen=True, slots=True)
class Limit:
    """A promise of the project: `actual` is to be at most `bound`, both in the unit that `text` names."""

    text: str
    actual: float
    bound: float

    @property
    def met(self) -> bool:
        """Whether the promise holds in this run."""
        return self.actual <= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of results.

    :param title: what was measured.
    :param series: the contestants.
    :param unit: of all values ("ms", "us", "bytes", "MiB").
    :param peer: the series that the others are compared to; None for a table without ratios.
    :param limits: promises and whether they hold.
    :param notes: lines for the reader.
    """

    title: str
    series: Sequence[Series]
    unit: str = "ms"
    peer: str | None = None
    limits: Sequence[Limit] = ()
    notes: Sequence[str] = ()

    def of(self, name: str) -> Series:
        """The series of that name.

        :raise KeyError: there is none.
        """
        for series in self.series:
            if series.name == name:
                return series
        raise KeyError(name)

    def ratio(self, name: str) -> float:
        """The median of a series divided by the peer's.

        :raise KeyError: no such series, or the table has no peer.
        """
        if self.peer is None:
            raise KeyError("peer")
        return self.of(name).median / self.of(self.peer).median


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What a benchmark module registers.

    :param name: the word for `./bench NAME`.
    :param about: one line for the list of benchmarks.
    :param run: measures and returns one table, or more as they are ready; raises `Unavailable` when it cannot.
    """

    name: str
    about: str
    run: Callable[[Options], Table | Iterable[Table]]


Measurement = Callable[[], float]


def interleave(rounds: int, contestants: Mapping[str, Measurement], *, warm_up: int = 1) -> list[Series]:
    """Measure all contestants in turns, so that whatever else the machine does hits them alike.

    Every other round goes backwards, so that none always runs after the same one.

    :param rounds: values per contestant.
    :param contestants: name to a callable that does the work once and returns the measured value.
    :param warm_up: rounds whose values are thrown away.
    """
    values: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants.items())
    for number in range(-warm_up, rounds):
        for name, measure in order if number % 2 == 0 else reversed(order):
            value = measure()
            if number >= 0:
                values[name].append(value)
    return [Series(name, taken) for name, taken in values.items()]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a program.

    `wall` and `cpu` (user and system together, of the program and the children it waited for) are milliseconds.
    """

    wall: float
    cpu: float
    page_faults: int
    status: int


def run_program(argv: Sequence[str], env: Mapping[str, str] | None = None) -> Run:
    """Run a program to its end, silenced, and measure from just before it is started until it was waited for.

    :param argv: the program's path and its arguments.
    :param env: its environment; None hands on our own.
    """
    null = os.open(os.devnull, os.O_RDWR)
    actions = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (0, 1, 2)]
    try:
        before = time.perf_counter()
        pid = os.posix_spawn(argv[0], list(argv), os.environ if env is None else env, file_actions=actions)
        _, status, usage = os.wait4(pid, 0)
        after = time.perf_counter()
    finally:
        os.close(null)
    return Run(
        wall=(after - before) * 1e3,
        cpu=(usage.ru_utime + usage.ru_stime) * 1e3,
        page_faults=usage.ru_minflt + usage.ru_majflt,
        status=os.waitstatus_to_exitcode(status),
    )


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        for line in info:
            if line.startswith(("model name", "CPU part")):
                return line.partition(":")[2].strip()
    return os.uname().machine


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the numbers come from."""

    cpu: str = field(default_factory=_cpu_model)
    cpus: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    kernel: str = field(default_factory=lambda: os.uname().release)
    python: str = field(default_factory=platform.python_version)
    load: float = field(default_factory=lambda: os.getloadavg()[0])
