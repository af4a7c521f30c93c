"""`pykrun exec` as a whole: from its start to its end, next to an interpreter that does nothing."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks.harness import Benchmark, Limit, Options, Table, interleave
from benchmarks.programs import ROOT, TIMEOUT, available, running_vm, static
from pykrun.vms import connect

ROUNDS = 40
LATENCY_MS = 50
NAME = "bench"
COMMAND, DOOR, PYTHON = "pykrun exec", "its door alone, from a client that is there", "an interpreter that ends"
LAUNCH = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pykrun.cli import main; sys.exit(main())"


def run(options: Options) -> list[Table]:
    return [measure(engine, options) for engine in available(options.engines)]


def measure(engine: str, options: Options) -> Table:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        files = ["--file", f"/true={static('true')}:0755", "--file", "/busybox=/bin/busybox:0755"]
        words = [
            "--engine",
            engine,
            "--name",
            NAME,
            *files,
            "--timeout",
            str(int(TIMEOUT * 2)),
            "--",
            "/busybox",
            "cat",
        ]
        with running_vm(words):
            _wait()
            series = interleave(options.rounds_or(ROUNDS), {COMMAND: _command, DOOR: _door, PYTHON: _python})
    limits = [Limit("pykrun exec on User Mode Linux, ms", series[0].median, LATENCY_MS)] if engine == "uml" else []
    return Table(
        title=f"{engine}: a static program that does nothing, in a VM that runs",
        series=series,
        peer=PYTHON,
        limits=limits,
    )


def _wait() -> None:
    """The first command waits until the workload runs; the VM has to be listed for it."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        try:
            _door()
        except Exception:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("the VM did not come up")


def _door() -> float:
    before = time.perf_counter()
    with connect(NAME) as client:
        client.ask("exec", process={"args": ["/true"]}, streams=[False] * 3)
        while (message := client.receive()) is not None and message["event"] != "ended":
            pass
    return (time.perf_counter() - before) * 1e3


def _command() -> float:
    return _time([sys.executable, "-I", "-S", "-c", LAUNCH, str(ROOT / "src"), "exec", NAME, "--", "/true"])


def _python() -> float:
    return _time([sys.executable, "-I", "-S", "-c", ""])


def _time(command: Sequence[str]) -> float:
    # subprocess' own wait with a timeout looks again after 1, 2, 4, ... 32 ms, and so tells 32 and 64 for all between.
    before = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        pidfd = os.pidfd_open(process.pid)
        try:
            if not select.select([pidfd], [], [], TIMEOUT)[0]:
                process.kill()
        finally:
            os.close(pidfd)
        took = (time.perf_counter() - before) * 1e3
        if process.wait() != 0:
            raise subprocess.CalledProcessError(process.returncode, command)
    return took


BENCHMARK = Benchmark("exec-cli", "pykrun exec as a whole, next to an interpreter that does nothing", run)
