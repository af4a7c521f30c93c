"""Further commands in a running VM (`VirtualMachine.commands`): how long one takes, and how fast its streams are.

The peer is in the same VM: its workload is a shell that is asked, over standard input and output, to do the same.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Benchmark, Limit, Options, Series, Table, interleave
from benchmarks.programs import TIMEOUT, available, static

if TYPE_CHECKING:
    from pykrun.loop import Loop
    from pykrun.supervisor import Outcome, VirtualMachine

ROUNDS = {"uml": 40, "qemu": 15}
MIB = 4
LATENCY_MS = 50
EXEC, STARTED, SHELL = "exec, to its end", "until it has started", "asked of the VM's shell"
OUT, OUT_SHELL, IN = f"exec, {MIB} MiB out", f"the shell's own, {MIB} MiB out", f"exec, {MIB} MiB in"
SCRIPT = f"while read word; do if [ $word = out ]; then /busybox head -c {MIB}m /dev/zero; else /true; fi; echo; done"


def run(options: Options) -> list[Table]:
    return [table for engine in available(options.engines) for table in measure(engine, options)]


def measure(engine: str, options: Options) -> list[Table]:
    rounds = options.rounds_or(ROUNDS.get(engine, 10))
    child = subprocess.run(
        [sys.executable, "-s", "-P", "-m", __spec__.name, engine, str(rounds), str(static("true"))],
        stdout=subprocess.PIPE,
        timeout=TIMEOUT * 3,
        check=True,
    )
    values = json.loads(child.stdout)
    latency = Table(
        title=f"{engine}: a static program that does nothing, in a VM that runs",
        series=[Series(EXEC, values[EXEC]), Series(STARTED, values[STARTED], part=True), Series(SHELL, values[SHELL])],
        peer=SHELL,
        limits=[Limit("exec on User Mode Linux, ms", Series(EXEC, values[EXEC]).median, LATENCY_MS)]
        if engine == "uml"
        else [],
    )
    bulk = Table(
        title=f"{engine}: streams, with the start of the program",
        series=[Series(name, values[name]) for name in (OUT, OUT_SHELL, IN)],
        peer=OUT_SHELL,
        notes=["the workload's streams have ports of their own, the commands share one"],
    )
    return [latency, bulk]


class Driver:
    """A `Remote` that does what a thread asks for on the supervisor's loop.

    :param work: runs in that thread once the workload does: an engine is not started from a process with threads.
    """

    def __init__(self, work: Callable[[Driver], None]) -> None:
        self.thread = threading.Thread(target=work, args=(self,), daemon=True)
        self.started = 0.0
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._reader, self._writer = os.pipe()

    def attach(self, loop: Loop, vm: VirtualMachine) -> None:
        """Listen for jobs."""
        self._loop, self._vm = loop, vm
        loop.add(self._reader, 1, self._on_job)

    def detach(self) -> None:
        """The loop has ended."""
        self._loop.remove(self._reader)

    def reached(self, phase: str, when: float) -> None:
        """Begin when the workload runs."""
        if phase == "started":
            self.thread.start()

    def input_unread(self) -> None:
        """The shell reads no more: it has ended."""

    def ended(self, outcome: Outcome) -> None:
        """The VM is gone."""

    def _on_job(self, events: int) -> None:
        os.read(self._reader, 1)
        self._jobs.get()()

    def do(self, job: Callable[[], None]) -> None:
        """From any thread."""
        self._jobs.put(job)
        os.write(self._writer, b"x")

    def execute(self, argv: list[str], streams: tuple[int | None, int | None, int | None]) -> Callable[[], None]:
        """Start a command; the result waits for its end."""
        ended = threading.Event()

        def on_started(pid: int) -> None:
            self.started = time.perf_counter()

        def start() -> None:
            description = json.dumps({"args": argv}).encode()
            self._vm.commands.start(description, streams, on_started=on_started, on_end=lambda how: ended.set())

        self.do(start)
        return lambda: _expect(ended.wait(TIMEOUT))

    def end(self) -> None:
        """End the VM."""
        self.do(lambda: self._vm.end(0))


def _expect(came: bool) -> None:
    if not came:
        raise RuntimeError("a command did not end")


class Contestants:
    """What is measured, in milliseconds; `stdin` and `stdout` are the shell's."""

    def __init__(self, driver: Driver, stdin: int, stdout: int) -> None:
        self._driver = driver
        self._stdin = stdin
        self._stdout = stdout
        self.started: list[float] = []

    def exec(self) -> float:
        """One command that does nothing."""
        before = time.perf_counter()
        self._driver.execute(["/true"], (None, None, None))()
        after = time.perf_counter()
        self.started.append((self._driver.started - before) * 1e3)
        return (after - before) * 1e3

    def shell(self) -> float:
        """The same program, by the shell."""
        return self._ask(b"true\n", 1)

    def shell_out(self) -> float:
        """Much output of the shell's."""
        return self._ask(b"out\n", (MIB << 20) + 1)

    def _ask(self, line: bytes, size: int) -> float:
        before = time.perf_counter()
        os.write(self._stdin, line)
        _read(self._stdout, size)
        return (time.perf_counter() - before) * 1e3

    def out(self) -> float:
        """Much output of a command."""
        reader, writer = os.pipe()
        before = time.perf_counter()
        wait = self._driver.execute(["/busybox", "head", "-c", f"{MIB}m", "/dev/zero"], (None, writer, None))
        _read(reader, MIB << 20)
        wait()
        os.close(reader)
        return (time.perf_counter() - before) * 1e3

    def into(self) -> float:
        """Much input of a command."""
        reader, writer = os.pipe()
        before = time.perf_counter()
        wait = self._driver.execute(["/busybox", "wc", "-c"], (reader, None, None))
        block = bytes(1 << 16)
        for _ in range(MIB * 16):
            os.write(writer, block)
        os.close(writer)
        wait()
        return (time.perf_counter() - before) * 1e3


def _read(fd: int, size: int) -> None:
    while size > 0:
        size -= len(os.read(fd, 1 << 16))


def child(engine: str, rounds: int, program: str) -> None:
    """Run the VM in this process's main thread and measure in another; prints every value as JSON."""
    import pykrun.supervisor as supervisor
    from pykrun.cli import main

    (stdin, to_shell), (from_shell, stdout), report = os.pipe(), os.pipe(), os.dup(1)
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)

    def work(driver: Driver) -> None:
        contestants = Contestants(driver, to_shell, from_shell)
        try:
            latency = interleave(rounds, {EXEC: contestants.exec, SHELL: contestants.shell})
            few = max(3, rounds // 4)
            bulk = interleave(few, {OUT: contestants.out, OUT_SHELL: contestants.shell_out, IN: contestants.into})
            values: dict[str, Any] = {one.name: list(one.values) for one in [*latency, *bulk]}
            values[STARTED] = contestants.started[1:]
            os.write(report, json.dumps(values).encode())
        finally:
            driver.end()

    run_plan, driver = supervisor.run_plan, Driver(work)
    supervisor.run_plan = lambda plan, *remote: run_plan(plan, driver)
    files = ["--file", f"/true={program}:0755", "--file", "/busybox=/bin/busybox:0755"]
    main(["run", "--engine", engine, *files, "--timeout", str(int(TIMEOUT * 2)), "--", "/busybox", "sh", "-c", SCRIPT])
    driver.thread.join(TIMEOUT)


BENCHMARK = Benchmark("exec", "a further command in a running VM, next to the VM's own shell", run)

if __name__ == "__main__":
    child(sys.argv[1], int(sys.argv[2]), sys.argv[3])
