"""A guest's network: flows through passt both ways, the CPU they cost on the host, and what a connection takes.

The host and a server are two network namespaces with a cable between them. Beside the guests of both engines runs the
same program on the host itself. Times are the program's own; CPU is that of the supervisor, which carries every frame,
and of passt, from the moment that the program begins.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import which

from benchmarks.harness import Benchmark, Limit, Options, Series, Table, Unavailable, interleave
from benchmarks.programs import ROOT, available, static
from tests.net.internet import SERVER4, Internet

MB = 1_000_000
SIZE = {"uml": 400 * MB, "qemu": 50 * MB, "no VM": 400 * MB}
CONNECTIONS = 200
ROUNDS = 5
CPU_LIMITS = {"out": 1.0, "in": 2.5}
"""Milliseconds of the supervisor's CPU per MB, on User Mode Linux."""

SINK, SOURCE, DOOR = 7000, 7001, 7002


@dataclass
class Cost:
    """One run: milliseconds as the guest saw it, and of CPU on the host."""

    wall: float
    supervisor: float
    passt: float


def _sink(connection: socket.socket) -> None:
    room = bytearray(1 << 20)
    while connection.recv_into(room):
        pass


class Server:
    """Takes what comes, gives what is asked for, and opens a door to nobody."""

    def __init__(self, internet: Internet) -> None:
        self.amount = 0
        self._listeners = []
        for port, serve in ((SINK, _sink), (SOURCE, self._source), (DOOR, lambda connection: None)):
            listener = internet.listener(internet.server, SERVER4, port)
            listener.settimeout(None)
            listener.listen(1024)
            self._listeners.append(listener)
            threading.Thread(target=self._run, args=(listener, serve), daemon=True).start()

    def _run(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    serve(connection)
                except OSError:
                    pass

    def _source(self, connection: socket.socket) -> None:
        block, left = memoryview(bytes(1 << 20)), self.amount
        while left > 0:
            left -= connection.send(block[:left])

    def close(self) -> None:
        """Let nobody in any more."""
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


class Bench:
    """Runs the program on the host, or in a guest, of that internet."""

    def __init__(self, internet: Internet, server: Server) -> None:
        self._internet = internet
        self._server = server
        self._program = static("flow")

    def run(self, place: str, kind: str) -> Cost:
        """`kind`: in, out or connect.

        :raise RuntimeError: it failed.
        """
        amount = CONNECTIONS if kind == "connect" else SIZE[place]
        self._server.amount = amount
        port = {"out": SINK, "in": SOURCE, "connect": DOOR}[kind]
        command = ["/flow", kind, SERVER4, str(port), str(amount)]
        if place == "no VM":
            command[0] = str(self._program)
        else:
            options = ["--engine", place, "--net", "user", "--file", f"/flow={self._program}:0755"]
            command = [str(ROOT / "pykrun"), "run", *options, "--", *command]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=lambda: self._internet.enter_host(ROOT),
        )
        watchdog = threading.Timer(180, process.kill)
        watchdog.start()
        try:
            return _measure(process, place == "no VM")
        finally:
            watchdog.cancel()
            process.communicate()


def _measure(process: subprocess.Popen[bytes], alone: bool) -> Cost:
    assert process.stdin is not None
    assert process.stdout is not None
    if process.stdout.readline() != b"begin\n":
        raise RuntimeError(f"{process.args!r} did not begin")
    passt = None if alone else _passt(process.pid)
    before = _cpu(process.pid), _cpu(passt)
    process.stdin.write(b"x")
    process.stdin.flush()
    said = process.stdout.readline()
    after = _cpu(process.pid), _cpu(passt)
    if not said:
        raise RuntimeError(f"{process.args!r} failed")
    return Cost(int(said) / 1000, after[0] - before[0], after[1] - before[1])


def _passt(supervisor: int) -> int:
    for pid in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split():
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"passt\0"):
            return int(pid)
    raise RuntimeError("there is no passt")


def _cpu(pid: int | None) -> float:
    """Milliseconds that a process of one thread has run."""
    if pid is None:
        return 0.0
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6
    except OSError:
        return 0.0


def measure(bench: Bench, places: list[str], kind: str, rounds: int) -> list[Table]:
    """One table of times; for flows one of CPU too."""
    costs: dict[str, list[Cost]] = {place: [] for place in places}

    def of(place: str) -> float:
        costs[place].append(bench.run(place, kind))
        each = CONNECTIONS / 1000 if kind == "connect" else SIZE[place] / (100 * MB)
        return costs[place][-1].wall / each

    series = interleave(rounds, {place: partial(of, place) for place in places})
    if kind == "connect":
        return [Table(title="connect and close, one after the other", series=series, unit="us")]
    series = [
        Series(one.name, one.values, f"{100_000 / one.median:.0f} MB/s, at best {100_000 / one.best:.0f}")
        for one in series
    ]
    times = Table(title=f"100 MB {kind}", series=series)
    cpu = []
    for place in places:
        if place != "no VM":
            kept = costs[place][1:]  # the first was the warm-up
            size = SIZE[place] / MB
            cpu.append(Series(f"{place}, supervisor", [cost.supervisor / size for cost in kept]))
            cpu.append(Series(f"{place}, passt", [cost.passt / size for cost in kept], part=True))
    limits = [
        Limit(f"supervisor's CPU, {one.name}, ms per MB", one.median, CPU_LIMITS[kind])
        for one in cpu[:1]
        if "uml" in places
    ]
    return [times, Table(title=f"CPU on the host per MB {kind}", series=cpu, limits=limits)]


def run(options: Options) -> list[Table]:
    """Measure everything."""
    if os.geteuid() != 0:
        raise Unavailable("network namespaces need root")
    for program, package in (("passt", "passt"), ("ip", "iproute2"), ("nsenter", "util-linux")):
        if which(program) is None:
            raise Unavailable(f"no {program} on PATH (apt-get install {package})")
    places = ["no VM", *available(options.engines)]
    with tempfile.TemporaryDirectory(prefix="pykrun-bench") as folder:
        internet = Internet(Path(folder), ipv6=False)
        try:
            server = Server(internet)
            bench = Bench(internet, server)
            rounds = options.rounds_or(ROUNDS)
            tables = [table for kind in ("out", "in", "connect") for table in measure(bench, places, kind, rounds)]
            server.close()
        finally:
            internet.close()
    return tables


BENCHMARK = Benchmark("net", "a guest's network: throughput, CPU on the host, connections", run)
