"""What every boot test uses: `pykrun run` with an engine chosen, and scripts of operations for the guest."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.command import Pykrun

Word = str | bytes

LIMIT = 60.0
"""Seconds after which a run counts as hung; emulation on a busy machine with two CPUs is slow."""


class Outcome:
    """What one operation gave in the guest: the call's result (or -errno) and the bytes it found."""

    def __init__(self) -> None:
        self.value = -10_000
        self.data = b""

    def __repr__(self) -> str:
        return f"Outcome({self.value}, {self.data[:40]!r})"


class Script:
    """Operations for `/tool ops`, in order; every call returns its Outcome, filled in when the script has run."""

    def __init__(self) -> None:
        self.words: list[Word] = []
        self.outcomes: list[Outcome] = []

    def call(self, name: str, *args: Word) -> Outcome:
        self.words += [name, *args]
        self.outcomes.append(Outcome())
        return self.outcomes[-1]

    def read(self, path: Word) -> Outcome:
        return self.call("read", path)

    def fill(self, report: bytes) -> None:
        lines = report.splitlines()
        assert len(lines) == len(self.outcomes), report[-2000:]
        for line, outcome in zip(lines, self.outcomes, strict=True):
            value, data = line.split(b" ")
            outcome.value, outcome.data = int(value), bytes.fromhex(data.decode("ascii"))


@dataclass(frozen=True)
class Result:
    """How a run ended and what it wrote."""

    code: int
    out: bytes
    err: bytes

    def lines(self) -> list[bytes]:
        """Decode a report of one hexadecimal word per line."""
        return [bytes.fromhex(line.decode("ascii")) for line in self.out.splitlines()]


class Vm:
    """Runs `pykrun run` with one engine; the guest's program is `/tool`."""

    def __init__(self, engine: str, tool: Path, pykrun: Pykrun) -> None:
        self.engine = engine
        self.tool = tool
        self.pykrun = pykrun
        self.surroundings: Callable[[], None] | None = None
        """Runs in every child before pykrun does."""

    @property
    def folder(self) -> Path:
        """The working directory of pykrun; has to be empty afterwards."""
        return self.pykrun.folder / "tmp"

    def options(self, *words: Word) -> list[Word]:
        chosen: list[Word] = ["--engine", self.engine]
        if self.engine == "qemu":
            chosen += ["--accel", "tcg"]
        return ["run", *chosen, "--file", f"/tool={self.tool}:0755", *words]

    def start(self, *words: Word, prepare: Callable[[], None] | None = None, **streams: Any) -> subprocess.Popen[bytes]:
        """Start `pykrun run OPTIONS WORDS`: /dev/null as input and pipes for output unless said otherwise.

        `prepare` runs in the child, when its streams, session and folder are in place.
        """
        streams.setdefault("stdin", subprocess.DEVNULL)
        streams.setdefault("stdout", subprocess.PIPE)
        streams.setdefault("stderr", subprocess.PIPE)
        steps = [_default_signals, *filter(None, (self.surroundings, prepare))]

        def before_exec() -> None:
            for step in steps:
                step()

        return self.pykrun.start(self.options(*words), cwd=self.folder, preexec_fn=before_exec, **streams)

    def run(self, *words: Word, stdin: bytes | int | None = None, limit: float = LIMIT, **streams: Any) -> Result:
        """Run to the end. `stdin`: bytes for a pipe, a descriptor, or None for /dev/null."""
        source = subprocess.PIPE if isinstance(stdin, bytes) else subprocess.DEVNULL if stdin is None else stdin
        process = self.start(*words, stdin=source, **streams)
        return finish(process, stdin if isinstance(stdin, bytes) else None, limit)

    def tool_run(self, *words: Word, options: Sequence[Word] = (), stdin: bytes | int | None = None) -> Result:
        """Run `/tool WORDS` to its end."""
        return self.run(*options, "--", "/tool", *words, stdin=stdin)

    def script(self, script: Script, *options: Word) -> None:
        """Run the script; fails unless every operation answered and nothing else was written."""
        result = self.tool_run("ops", *script.words, options=options)
        assert (result.code, result.err) == (0, b""), result
        script.fill(result.out)


def _default_signals() -> None:
    """Undo what nohup, `&` in a script or a test harness may have left ignored."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def finish(process: subprocess.Popen[bytes], data: bytes | None = None, limit: float = LIMIT) -> Result:
    """Wait for the end within `limit` seconds; a hung run is killed and fails the test."""
    try:
        out, err = process.communicate(data, timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate(timeout=30)
        raise AssertionError(f"hung after {limit} s: out {out[-300:]!r} err {err[-2000:]!r}") from None
    return Result(process.returncode, out or b"", err or b"")


def read_line(process: subprocess.Popen[bytes], limit: float = LIMIT) -> bytes:
    """Read one line of a running VM's standard output; whoever does not get it in time ends the run."""
    assert process.stdout is not None
    watchdog = _Watchdog(process, limit)
    try:
        return process.stdout.readline()
    finally:
        watchdog.cancel()


class _Watchdog:
    def __init__(self, process: subprocess.Popen[bytes], limit: float) -> None:
        self._timer = threading.Timer(limit, process.kill)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        self._timer.cancel()
        self._timer.join()


@dataclass(frozen=True)
class Process:
    """A line of the process table."""

    pid: int
    parent: int
    name: str
    command: bytes


def _process(pid: int) -> Process | None:
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").partition("(")[2].rpartition(")")
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    return Process(pid, int(rest.split()[1]), name, command)


def descendants(root: int) -> list[Process]:
    """Every process below `root`, parents first."""
    table = [entry for pid in os.listdir("/proc") if pid.isdigit() and (entry := _process(int(pid))) is not None]
    children: dict[int, list[Process]] = {}
    for entry in table:
        children.setdefault(entry.parent, []).append(entry)
    found: list[Process] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += [entry.pid for entry in below]
    return found


def engine_process(process: subprocess.Popen[bytes], engine: str) -> Process:
    """Return the engine's own process below a running pykrun, by its program's name."""
    word = {"uml": b"linux", "qemu": b"qemu-system"}[engine]
    found = descendants(process.pid)
    for entry in found:
        if word in os.path.basename(entry.command.split(b"\0")[0]):
            return entry
    raise AssertionError(f"no {engine} among {found}")
