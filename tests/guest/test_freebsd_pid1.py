"""FreeBSD's init as PID 1 of namespaces, with real processes, signals and a real terminal."""

from __future__ import annotations

import base64
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.guest.conftest import LIBRARY

pytestmark = pytest.mark.root
ROOT = Path(__file__).resolve().parents[2]


class Machine:
    """A terminal as the console, a PID 1 on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables: dict[str, str] = {}
        self.argv: list[str] = []
        self.grace = 10.0
        self.disk: Path | None = None
        self._master, self._slave = pty.openpty()
        self.console = os.ttyname(self._slave)
        self._process: subprocess.Popen[bytes] | None = None
        self.output = b""

    def shell(self, script: str) -> Machine:
        words = base64.b64encode(f"-c\0{script}".encode()).decode()
        for index, start in enumerate(range(0, len(words), 100)):
            self.variables[f"KRUN_INIT_ARGV{index}"] = words[start : start + 100]
        self.variables["KRUN_INIT"] = "/bin/sh"
        return self

    def configure(self, document: Any) -> Machine:
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        (self.disk / "krun_config.json").write_text(json.dumps(document))
        return self

    def boot(self) -> Machine:
        spec = {
            "source": str(ROOT / "src"),
            "tests": str(ROOT),
            "library": str(LIBRARY),
            "folder": str(self.folder),
            "console": self.console,
            "variables": self.variables,
            "disk": None if self.disk is None else str(self.disk),
            "argv": self.argv,
            "grace": self.grace,
        }
        file = self.folder / "spec.json"
        file.write_text(json.dumps(spec))
        command = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--net", "--ipc", "--mount-proc"]
        runner = str(Path(__file__).with_name("freebsd_pid1.py"))
        self._process = subprocess.Popen([*command, sys.executable, "-I", "-S", runner, str(file)])
        return self

    def running(self) -> bool:
        assert self._process is not None
        return self._process.poll() is None

    def wait(self, timeout: float = 20) -> int:
        """Until it has ended: the exit code."""
        assert self._process is not None
        return self._process.wait(timeout)

    def wait_output(self, wanted: bytes, timeout: float = 10) -> None:
        """Until the console has shown that."""
        os.set_blocking(self._master, False)
        deadline = time.monotonic() + timeout
        while wanted not in self.output:
            assert time.monotonic() < deadline, f"the console shows {self.output!r}, not {wanted!r}"
            try:
                self.output += os.read(self._master, 65536)
            except BlockingIOError:
                time.sleep(0.01)

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    def signal(self, number: int) -> None:
        """Send to PID 1."""
        assert self._process is not None
        parent = self._process.pid
        child = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0]
        os.kill(int(child), number)

    def run(self) -> int:
        code = self.boot().wait()
        self.wait_output(b"")
        os.set_blocking(self._master, False)
        try:
            while data := os.read(self._master, 65536):
                self.output += data
        except BlockingIOError:
            pass
        return code

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


def test_boot_to_exit_code(machine: Machine) -> None:
    machine.variables = {"HOSTNAME": "bsd", "KRUN_HOME": "/h", "KRUN_TERM": "xterm", "KRUN_WORKDIR": "/usr"}
    machine.shell('echo "$(hostname) $HOME $TERM $PWD $HOSTNAME"; echo error >&2; exit 42')
    assert machine.run() == 42
    assert machine.output == b"bsd /h xterm /usr bsd\r\nerror\r\n"
    assert (machine.folder / "login").read_text() == "root"


def test_workload_leads_a_session_on_the_console(machine: Machine) -> None:
    machine.shell("cat /proc/$$/stat; tty; ls -1 /proc/$$/fd; : >/dev/tty")
    assert machine.run() == 0
    first, terminal, *descriptors = machine.output.decode().split("\r\n")
    pid, _name, _state, parent, group, session, _terminal, foreground, *_rest = first.split()
    assert (parent, terminal) == ("1", machine.console)
    assert pid == group == session == foreground
    assert [one for one in descriptors if one] == ["0", "1", "2"]


def mask(line: str) -> set[int]:
    """The signals of a line of /proc/PID/status."""
    bits = int(line.split()[1], 16)
    return {number for number in range(1, 65) if bits >> number - 1 & 1}


def test_signals_of_the_workload_and_of_init(machine: Machine) -> None:
    # no shell, which would unblock them itself
    machine.configure({"Cmd": ["grep", "-hE", "Sig(Blk|Ign|Cgt)", "/proc/self/status", "/proc/1/status"]})
    assert machine.run() == 0
    blocked, ignored, _caught, _waited_for, _ignored, caught = machine.output.decode().splitlines()
    assert mask(blocked) == mask(ignored) == set()
    assert signal.SIGCHLD in mask(caught)  # or FreeBSD would drop it


def test_interrupt_key_ends_the_workload_only(machine: Machine) -> None:
    machine.shell("echo ready; sleep 10").boot()
    machine.wait_output(b"ready")
    while machine.running():  # a shell that is about to execute a program may lose it
        machine.type(b"\x03")
        time.sleep(0.1)
    assert machine.wait() == 130


def test_input_comes_from_the_console(machine: Machine) -> None:
    machine.shell("read word; echo got $word").boot()
    machine.type(b"hello\r")
    assert machine.wait() == 0
    machine.wait_output(b"got hello")


def test_configuration_disk(machine: Machine) -> None:
    machine.configure({"Cmd": ["/bin/sh", "-c", "echo $A; ls $D"], "Env": ["A=b", f"D={machine.folder}/mnt"]})
    assert machine.run() == 0
    assert machine.output == b"b\r\n"  # it is not mounted any more
    assert (machine.folder / "unmounted").exists()


def test_wrong_configuration_disk(machine: Machine) -> None:
    machine.configure({"Cmd": "sh"})
    assert machine.run() == 125
    assert b"krun_config.json: Cmd must be an array, not a string" in machine.output
    assert (machine.folder / "unmounted").exists()


@pytest.mark.parametrize(
    ("program", "code", "reason"),
    [("/no/such", 127, b"No such file"), ("/etc/passwd", 126, b"Permission denied"), ("nosuch", 127, b"No such file")],
)
def test_program_that_cannot_be_executed(machine: Machine, program: str, code: int, reason: bytes) -> None:
    machine.variables["KRUN_INIT"] = program
    assert machine.run() == code
    assert b"init: Couldn't execute '" + program.encode() + b"': " + reason in machine.output


def test_attributes(machine: Machine) -> None:
    user = {"uid": 1, "gid": 2, "additionalGids": [3, 4], "umask": 0o27}
    limits = [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}]
    script = "id -u; id -g; id -G; umask; ulimit -n; grep NoNewPrivs /proc/self/status"
    process = {"args": ["/bin/sh", "-c", script], "user": user, "rlimits": limits, "noNewPrivileges": True}
    machine.configure({"process": process})
    assert machine.run() == 0
    assert machine.output.decode().split() == ["1", "2", "2", "3", "4", "0027", "50", "NoNewPrivs:", "1"]


def test_workload_as_pid_1(machine: Machine) -> None:
    machine.variables["KRUN_INIT_PID1"] = "1"
    machine.shell("echo pid $$; exit 3")
    assert machine.run() == 3
    assert machine.output == b"pid 1\r\n"


def test_without_console(machine: Machine) -> None:
    machine.console = "/dev/no-such-console"
    machine.shell("echo out; echo error >&2; cat; exit 4")
    assert machine.run() == 4
    log = machine.folder / "init.log"
    assert (log.read_text(), log.stat().st_mode & 0o777) == ("out\nerror\n", 0o644)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_stop(machine: Machine, number: int) -> None:
    machine.shell("echo ready; sleep 30").boot()
    machine.wait_output(b"ready")
    machine.signal(number)
    assert machine.wait() == 143


def test_stop_with_violence(machine: Machine) -> None:
    machine.grace = 0.7
    machine.shell("trap 'echo no' TERM; echo ready; while :; do sleep 0.05; done").boot()
    machine.wait_output(b"ready")
    machine.signal(signal.SIGTERM)
    assert machine.wait() == 137
    machine.wait_output(b"no")


def test_signal_is_passed_on(machine: Machine) -> None:
    machine.shell("trap 'echo hup; exit 5' HUP; echo ready; while :; do sleep 0.05; done").boot()
    machine.wait_output(b"ready")
    machine.signal(signal.SIGHUP)
    assert machine.wait() == 5


def test_orphans_are_buried_and_ended(machine: Machine) -> None:
    """One that ends before the workload does, one that would outlive it: PID 1 must not wait for the latter."""
    script = "(setsid sleep 0.1 &); (setsid sleep 1000 &); sleep 0.5; cat /proc/[0-9]*/stat | grep -c ') Z '; exit 6"
    before = time.monotonic()
    assert machine.shell(script).run() == 6
    assert machine.output == b"0\r\n"
    assert time.monotonic() - before < 15
