"""Our file server next to the C virtiofsd: the same works in the same guest, in turns.

The guest is emulated by QEMU (User Mode Linux wants configuration messages of its back ends that virtiofsd does not
know), and has both servers' file systems mounted. Three things are told of each work, ours over theirs: CPU time of
the server's processes, requests, and wall time in the guest. Requests are counted in a run of their own, for
virtiofsd's are counted by its debug log. Every work begins with nothing in the guest's caches; what the guest gives
back when it forgets (FORGET) is a work of its own.

Ours is measured under User Mode Linux as well, alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from math import exp, log
from pathlib import Path
from statistics import median

from benchmarks.fileservers import FileServer, Guest, guest, start_ours, start_theirs, stop, work_folder
from benchmarks.harness import Benchmark, Limit, Options, Series, Table
from benchmarks.programs import available

ROUNDS = 3
MIB = 1 << 20
SMALL_FILES = 1000
LONG = 20_000
BIG_MIB = 64
KNOWN_FOLDERS = 5
CPU_MEAN, CPU_WORST, REQUESTS, SEQUENTIAL = 1.0, 1.5, 0.5, 1.0
"""The targets: ours over theirs."""

OURS, THEIRS = "ours", "theirs"
POLICIES = ("auto", "always", "never")


@dataclass(frozen=True, slots=True)
class Work:
    """One line of the tables.

    :param words: for guest/fs.c; {tree} is the contestant's own folder in the guest, {top} the mount, {host} the
        folder's path within it.
    :param again: it asks for the same things again, so that what may be cached makes a difference.
    :param everywhere: measured with every cache policy, not only with auto.
    :param sequential: its wall time is promised not to be worse.
    """

    name: str
    words: str
    again: bool = False
    everywhere: bool = False
    sequential: bool = False


def transfer(kind: str, block: int, mib: float, way: str) -> str:
    """The words of a read or write."""
    target = "{tree}/big" if kind == "read" else "{tree}/written"
    return f"{kind} {target} {block} {int(mib * MIB / block)} {way}"


WORKS = (
    Work("stat of 500 names", "stat {tree}/many 500", everywhere=True),
    Work("forget 500", "drop {top}"),
    Work("300 missing names", "missing {tree}/many 300 1"),
    Work("30 missing names, 10 times", "missing {tree}/many 30 10", again=True, everywhere=True),
    Work("fstat, 300 times", "getattr {tree}/many/f0 300", again=True, everywhere=True),
    Work("open, read, close of 200", "open {tree}/many 200 1"),
    Work("the same of 20, 10 times", "open {tree}/many 20 10", again=True, everywhere=True),
    Work("read 4 KiB", transfer("read", 4096, 8, "s")),
    Work("read 4 KiB, direct", transfer("read", 4096, 2, "sd")),
    Work("read 4 KiB, random", transfer("read", 4096, 2, "r")),
    Work("read 4 KiB, random, direct", transfer("read", 4096, 2, "rd")),
    Work("read 128 KiB", transfer("read", MIB >> 3, 64, "s")),
    Work("read 128 KiB, direct", transfer("read", MIB >> 3, 64, "sd")),
    Work("read 128 KiB, random, direct", transfer("read", MIB >> 3, 64, "rd")),
    Work("read 1 MiB", transfer("read", MIB, 64, "s"), sequential=True),
    Work("read 1 MiB, direct", transfer("read", MIB, 64, "sd"), sequential=True),
    Work("write 4 KiB", transfer("write", 4096, 2, "s")),
    Work("write 4 KiB, direct", transfer("write", 4096, 2, "sd")),
    Work("write 4 KiB, random, direct", transfer("write", 4096, 2, "rd")),
    Work("write 128 KiB", transfer("write", MIB >> 3, 32, "s")),
    Work("write 128 KiB, direct", transfer("write", MIB >> 3, 32, "sd")),
    Work("write 1 MiB", transfer("write", MIB, 32, "s"), sequential=True),
    Work("write 1 MiB, direct", transfer("write", MIB, 32, "sd"), sequential=True),
    Work("create, write, unlink of 100", "create {tree}/made 100"),
    Work("readdir of 20,000", f"list {{tree}}/long {LONG} 1"),
    Work("the same, 3 times", f"list {{tree}}/long {LONG} 3", again=True, everywhere=True),
    Work("ls -l of 1,000", f"liststat {{tree}}/many {SMALL_FILES} 1"),
    Work("find", "run {top} {host} find source -name x", everywhere=True),
    Work("git status", "run {top} {host}/source git status", everywhere=True),
    Work("untar", "run {top} {host}/made tar xf ../archive.tar"),
    Work("python3 -c 'import json, ...'", "run {top} / python3 -I -c import\xa0json,\xa0http.client", everywhere=True),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one work took: milliseconds of the server's CPU, milliseconds in the guest, requests (when counted)."""

    cpu: float
    wall: float
    requests: int = 0


class Contestant:
    """A server, its mount in a guest, and its own copy of the files."""

    def __init__(self, tag: str, server: FileServer, files: Path, machine: Guest) -> None:
        self.server = server
        self._files = files
        self._machine = machine
        self._top = f"/{tag}"
        machine.do("mount", tag, self._top)

    def measure(self, work: Work, *, counting: bool = False) -> Measured:
        """Do one work with empty caches."""
        machine, server = self._machine, self.server
        if work.words.startswith("drop"):  # what is to be forgotten has to be known first
            self.run(f"stat {{tree}}/many {SMALL_FILES // 2}")
        else:
            machine.do("drop", self._top)
        server.settle()
        if counting:
            server.requests()
        before = server.cpu()
        wall = machine.do(*self._words(work.words))
        server.settle()
        spent = server.cpu() - before
        requests = sum(server.requests().values()) if counting else 0
        if work.words.startswith("run"):
            shutil.rmtree(self._files / "made")
            (self._files / "made").mkdir()
        return Measured(spent, wall, requests)

    def run(self, words: str) -> float:
        """Do something that is not measured; return its milliseconds."""
        return self._machine.do(*self._words(words))

    def _words(self, words: str) -> list[str]:
        host = str(self._files)
        places = {"tree": self._top + host, "top": self._top, "host": host}
        return [word.format(**places).replace("\xa0", " ") for word in words.split(" ")]


def make_tree(folder: Path) -> None:
    """One contestant's files."""
    for name in ("many", "long", "made", "source"):
        (folder / name).mkdir(parents=True)
    for number in range(SMALL_FILES):
        (folder / "many" / f"f{number}").write_bytes(b"hello\n")
    for number in range(LONG):
        os.close(os.open(folder / "long" / f"f{number}", os.O_CREAT | os.O_WRONLY))
    (folder / "big").write_bytes(os.urandom(MIB) * BIG_MIB)
    for number in range(600):
        place = folder / "source" / f"d{number % 40}" / f"e{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"file{number}").write_bytes(b"%d\n" % number * 200)
    git = ["git", "-C", str(folder / "source"), "-c", "user.name=n", "-c", "user.email=e", "-c", "gc.auto=0"]
    for command in (
        ["tar", "cf", str(folder / "archive.tar"), "-C", str(folder), "source"],
        [*git, "init", "-q"],
        [*git, "add", "."],
        [*git, "commit", "-q", "-m", "c"],
        [*git, "status"],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)


@contextmanager
def contestants(engine: str, cache: str, folder: Path, *, counting: bool = False) -> Iterator[dict[str, Contestant]]:
    """A guest with the servers that can serve it, and both works' files."""
    place = Path(tempfile.mkdtemp(dir=folder))
    servers: dict[str, FileServer] = {}
    try:
        servers[OURS] = start_ours(place, Path("/"), cache)
        if engine == "qemu":
            servers[THEIRS] = start_theirs(place, Path("/"), cache, counting=counting)
        with guest(engine, [(tag, place / tag) for tag in servers], place) as machine:
            yield {tag: Contestant(tag, server, folder / "tree" / tag, machine) for tag, server in servers.items()}
    finally:
        for server in servers.values():
            stop(server)


Results = dict[str, dict[str, list[Measured]]]
"""By work and contestant."""


def measure(engine: str, cache: str, folder: Path, works: Sequence[Work], rounds: int) -> Results:
    """Have all works done by all contestants in turns, after one round that does not count."""
    results: Results = {work.name: {} for work in works}
    with contestants(engine, cache, folder) as found:
        for work in works:
            for number in range(-1, rounds):
                for tag in found if number % 2 else reversed(found):
                    measured = found[tag].measure(work)
                    if number >= 0:
                        results[work.name].setdefault(tag, []).append(measured)
    return results


def count(engine: str, cache: str, folder: Path, works: Sequence[Work]) -> dict[str, dict[str, int]]:
    """Count the requests of all works."""
    with contestants(engine, cache, folder, counting=True) as found:
        return {
            work.name: {tag: one.measure(work, counting=True).requests for tag, one in found.items()} for work in works
        }


def tables(cache: str, works: Sequence[Work], results: Results, counts: dict[str, dict[str, int]]) -> list[Table]:
    """Ratios of one policy."""

    def ratios(of: Callable[[Measured], float]) -> list[Series]:
        series = []
        for work in works:
            ours, theirs = results[work.name][OURS], results[work.name][THEIRS]
            values = [of(one) / max(of(other), 0.001) for one, other in zip(ours, theirs, strict=True)]
            note = f"{median(map(of, ours)):.1f} / {median(map(of, theirs)):.1f} ms"
            series.append(Series(work.name, values, note))
        return series

    cpu, wall = ratios(lambda one: one.cpu), ratios(lambda one: one.wall)
    requests = [
        Series(work.name, [one[OURS] / max(one[THEIRS], 1)], f"{one[OURS]} / {one[THEIRS]}")
        for work in works
        for one in (counts[work.name],)
    ]
    again = [work.name for work in works if work.again]
    sequential = [work.name for work in works if work.sequential]
    head = f"qemu, cache {cache}, pykrun over virtiofsd"
    return [
        Table(
            title=f"{head}: CPU of the server",
            series=cpu,
            unit="ratio",
            limits=[
                Limit("geometric mean", mean([one.median for one in cpu]), CPU_MEAN),
                Limit("the worst", max(one.median for one in cpu), CPU_WORST),
            ],
        ),
        Table(
            title=f"{head}: requests",
            series=requests,
            unit="ratio",
            limits=[
                Limit(name, one.median, REQUESTS)
                for name, one in zip([work.name for work in works], requests, strict=True)
                if name in again and cache != "never"
            ],
        ),
        Table(
            title=f"{head}: wall time in the guest",
            series=wall,
            unit="ratio",
            limits=[Limit(one.name, one.median, SEQUENTIAL) for one in wall if one.name in sequential],
        ),
    ]


def alone(results: Results) -> Table:
    """Ours under User Mode Linux."""
    series = []
    for name, measured in results.items():
        series.append(Series(name, [one.wall for one in measured[OURS]]))
        series.append(Series("CPU of the server", [one.cpu for one in measured[OURS]], part=True))
    return Table(title="uml, cache auto, pykrun alone: wall time in the guest", series=series)


def mean(values: Sequence[float]) -> float:
    """The geometric mean."""
    return exp(sum(map(log, values)) / len(values))


def memory(folder: Path) -> Table:
    """What the servers need for inodes that the guest knows."""
    known = folder / "known"
    for number in range(KNOWN_FOLDERS):
        (known / f"d{number}").mkdir(parents=True)
        for name in range(LONG):
            os.close(os.open(known / f"d{number}" / f"f{name}", os.O_CREAT | os.O_WRONLY))
    series, notes = [], []
    with contestants("qemu", "always", folder) as found:
        for tag, one in found.items():
            before, descriptors = one.server.memory(), one.server.descriptors()
            count, grown = 0, 0
            for number, names in product(range(KNOWN_FOLDERS), (LONG // 2, LONG)):
                try:
                    one.run(f"stat {{top}}{known}/d{number} {names}")
                except RuntimeError as error:  # virtiofsd has a descriptor for each inode
                    notes.append(f"{one.server.name}: no more than {count} inodes ({str(error)[-60:]})")
                    break
                one.server.settle()
                count, grown = number * LONG + names, one.server.memory() - before
            series.append(Series(one.server.name, [grown / MIB * 100_000 / max(count, 1)]))
            notes.append(f"{one.server.name}: {one.server.descriptors() - descriptors} more descriptors ({tag})")
    return Table(title="memory for 100,000 known inodes", series=series, unit="MiB", peer="virtiofsd", notes=notes)


def run(options: Options) -> Iterator[Table]:
    """Measure; each table as soon as it is ready."""
    engines = available(options.engines)
    rounds = options.rounds_or(ROUNDS)
    with work_folder() as folder:
        for tag in (OURS, THEIRS):
            make_tree(folder / "tree" / tag)
        if "qemu" in engines:
            for cache in POLICIES:
                works = [work for work in WORKS if cache == "auto" or work.everywhere]
                counts = count("qemu", cache, folder, works)
                yield from tables(cache, works, measure("qemu", cache, folder, works, rounds), counts)
            yield memory(folder)
        if "uml" in engines:
            yield alone(measure("uml", "auto", folder, WORKS, rounds))


BENCHMARK = Benchmark("fs", "the file server next to the C virtiofsd, in the same guest", run)
