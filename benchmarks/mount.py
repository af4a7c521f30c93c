"""The same directory through `pykrun mount`, pyfuse3 and mfusepy, in one run: rates, and the CPU of what serves.

Nothing may be remembered (`--cache never`; timeouts of 0), so each `stat` and each `open` reaches the server. The large
file is read with an empty page cache, through it as by default (auto) and, by `pykrun mount --cache never`, past it.
The libraries come from an environment that `./setup bench` makes; one that is missing is left out, with the reason.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.harness import Benchmark, Limit, Options, Series, Table, Unavailable, interleave
from pykrun.host.cache import cache_directory

ROUNDS = 15
NAMES = 200
LARGE_MIB = 64
MIB = 1 << 20
SECONDS = 30.0
BOUND = 1 / 1.5
"""Of a peer's time: one and a half times its rate."""

SOURCE = Path(__file__).resolve().parents[1] / "src"
LAUNCH = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pykrun.cli import main; sys.exit(main())"
PEERS = ("pyfuse3", "mfusepy")
OURS, CACHED = "pykrun mount", "pykrun mount, auto"


class Mounted:
    """A directory mounted by one contestant.

    :param pid: the process that serves.
    """

    def __init__(self, at: Path, pid: int) -> None:
        self.at = at
        self.pid = pid

    def cpu(self) -> float:
        """Microseconds that all its threads have run (Documentation/scheduler/sched-stats.rst)."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e3


@contextmanager
def mounted(command: Sequence[str | Path], at: Path, serves: Callable[[int], int]) -> Iterator[Mounted]:
    """Run a server that mounts on `at` and ends when that is unmounted."""
    at.mkdir()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + SECONDS
            while not os.path.ismount(at):
                if process.poll() is not None or time.monotonic() > end:
                    raise Unavailable(f"{command[0]} does not mount")
                time.sleep(0.05)
            yield Mounted(at, serves(process.pid))
        finally:
            subprocess.run(["umount", "-l", at], check=False, stderr=subprocess.DEVNULL)
            try:
                process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)


def _server_of(pid: int) -> int:
    """The child that serves for `pykrun mount`."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text() == "pykrun share\n":
                return int(child)
        time.sleep(0.05)
    raise Unavailable("pykrun mount has no server")


def make_tree(folder: Path) -> None:
    """Write what is looked at."""
    (folder / "many").mkdir(parents=True)
    for number in range(NAMES):
        (folder / f"many/{number}").write_bytes(bytes(4096))
    (folder / "large").write_bytes(os.urandom(MIB) * LARGE_MIB)


def look(at: Path) -> int:
    """Ask about each small file; return how many there were."""
    base = f"{at}/many/"
    for number in range(NAMES):
        os.stat(base + str(number))
    return NAMES


def read_small(at: Path) -> int:
    """Open, read and close each small file."""
    base = f"{at}/many/"
    for number in range(NAMES):
        descriptor = os.open(base + str(number), os.O_RDONLY)
        if len(os.read(descriptor, 8192)) != 4096:
            raise RuntimeError("a short read")
        os.close(descriptor)
    return NAMES


def read_large(at: Path) -> int:
    """Read the large file, 1 MiB a call; return how many MiB."""
    descriptor = os.open(at / "large", os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    room = bytearray(MIB)
    count = 0
    while os.readv(descriptor, [room]) == MIB:
        count += 1
    os.close(descriptor)
    return count


def measure(
    work: Callable[[Path], int], mounts: Mapping[str, Mounted], rounds: int
) -> tuple[list[Series], list[Series]]:
    """Wall time and the server's CPU time of one operation, in us, for each contestant."""
    cpu: dict[str, list[float]] = {name: [] for name in mounts}

    def contestant(name: str, mount: Mounted) -> Callable[[], float]:
        def once() -> float:
            before, began = mount.cpu(), time.perf_counter()
            count = work(mount.at)
            wall = time.perf_counter() - began
            cpu[name].append((mount.cpu() - before) / count)
            return wall * 1e6 / count

        return once

    wall = interleave(rounds, {name: contestant(name, mount) for name, mount in mounts.items()})
    return wall, [Series(name, cpu[name][-rounds:]) for name in mounts]


def table(title: str, unit: str, work: Callable[[Path], int], mounts: Mapping[str, Mounted], rounds: int) -> Table:
    """Measure one kind of work."""
    wall, cpu = measure(work, mounts, rounds)
    rows, limits = [], []
    bests = {series.name: series.best for series in wall}  # the machine may be busy, and each waits for the other's CPU
    for series, used in zip(wall, cpu, strict=True):
        rows.append(Series(series.name, series.values, f"{1e6 / series.median:,.0f} {unit}/s"))
        rows.append(Series("CPU of its server", used.values, part=True))
    for peer in PEERS:
        if peer in bests:
            ours = min(bests[name] for name in (OURS, CACHED) if name in bests)
            limits.append(Limit(f"{title}: best time, of {peer}'s", ours / bests[peer], BOUND))
    return Table(title=f"{title}, us of wall time each", series=rows, unit="us", peer=OURS, limits=limits)


def run(options: Options) -> list[Table]:
    """Measure all contestants in turns."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        raise Unavailable("mounts as root, through /dev/fuse")
    rounds = options.rounds_or(ROUNDS)
    python = cache_directory() / "bench-peers/bin/python"
    notes = []
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pykrun-bench-")))
        make_tree(place / "tree")
        mounts: dict[str, Mounted] = {}
        for name, policy in ((OURS, "never"), (CACHED, "auto")):
            command: list[str | Path] = [sys.executable, "-I", "-S", "-c", LAUNCH, SOURCE, "mount", place / policy]
            command += ["--shared-dir", place / "tree", "--cache", policy]
            mounts[name] = stack.enter_context(mounted(command, place / policy, _server_of))
        for peer in PEERS:
            missing = _missing(python, peer)
            if missing:
                notes.append(missing)
                continue
            command = [python, Path(__file__).with_name("peers.py"), peer, place / "tree", place / peer]
            mounts[peer] = stack.enter_context(mounted(command, place / peer, lambda pid: pid))
        cold = {name: mount for name, mount in mounts.items() if name != CACHED}
        tables = [
            table("stat, nothing remembered", "stat", look, cold, rounds),
            table("open, read 4 KiB, close", "file", read_small, cold, rounds),
            table(f"reading {LARGE_MIB} MiB by 1 MiB", "MiB", read_large, mounts, rounds),
        ]
    if notes:
        last = tables[-1]
        tables[-1] = Table(
            title=last.title, series=last.series, unit=last.unit, peer=last.peer, limits=last.limits, notes=notes
        )
    return tables


def _missing(python: Path, peer: str) -> str:
    """Say why a peer cannot be measured; empty when it can."""
    if not python.exists():
        return f"without {peer}: no environment with it (./setup bench)"
    done = subprocess.run([python, "-c", f"import {peer}"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    lines = re.findall(r"\S.*", done.stderr) or ["it cannot be imported"]
    return f"without {peer}: {lines[-1]}"


BENCHMARK = Benchmark("mount", "pykrun mount next to pyfuse3 and mfusepy, on the same directory", run)
