"""The verb `run` in the foreground: it stands for the program, whatever comes."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.oci.runtime.runtime import Runtime
from tests.support.command import wait_until


def start(runtime: Runtime, script: str, out: Path) -> subprocess.Popen[bytes]:
    """Run it, with output and errors in a file."""
    runtime.names.append("one")
    with out.open("wb") as file:
        return runtime.start_command(
            "run", "--bundle", runtime.bundle(script=script), "one", stdin=-3, stdout=file, stderr=file
        )


def test_signals_are_the_programs(runtime: Runtime) -> None:
    """Those as well that the supervisor itself knows nothing of; and TERM and INT as plain signals, again and again."""
    out = runtime.bundles / "out"
    traps = "; ".join(f'trap "echo {name}" {name}' for name in ("INT", "TERM", "CONT", "HUP"))
    script = f'exec 2>/dev/null; {traps}; trap "exit 5" USR1; echo up; while :; do sleep 0.05; done'
    command = start(runtime, script, out)
    said = "up\n"
    wait_until(lambda: out.read_text() == said, 30, "the program")
    for name in ("INT", "TERM", "CONT", "INT", "TERM", "HUP"):
        command.send_signal(getattr(signal, f"SIG{name}"))
        said += f"{name}\n"
        wait_until(lambda said=said: out.read_text() == said, 30, name)  # type: ignore[misc]
    command.send_signal(signal.SIGUSR1)
    assert command.wait(30) == 5
    assert out.read_text() == said
    assert not (runtime.root / "one").exists()


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.2, 0.3])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_time(runtime: Runtime, number: signal.Signals, delay: float) -> None:
    out = runtime.bundles / "out"
    command = start(runtime, "exec sleep 600", out)
    wait_until((runtime.root / "one").exists, 30, "a beginning")
    time.sleep(delay)
    command.send_signal(signal.SIGWINCH)
    command.send_signal(number)
    assert command.wait(30) == 128 + number
    assert out.read_text() == ""
    assert not (runtime.root / "one").exists()
