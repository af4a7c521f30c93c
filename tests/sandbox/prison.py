"""Run a busybox script in a jail, from this process or from one with fewer rights, and tell what it said.

`python -m tests.sandbox.prison SCRIPT WISH [deny|old|vast|few]...` prints one JSON object; with `deny` no namespaces
can be made, as in an ordinary container, with `old` there is no mount_setattr, with `vast` it wants more room than
there is, with `few` a process may have 64 descriptors, of which two thirds are in use.
"""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pykrun.host import linux
from pykrun.host.numbers import number
from pykrun.sandbox import Inmate, Jail, Wish, start
from pykrun.sandbox.filter import assemble

ROOT = Path(__file__).resolve().parents[2]
BUSYBOX = Path("/bin/busybox")
USER = 54321


def _open_to_all(path: str) -> bool:
    resolved = Path(path).resolve()
    return resolved.exists() and all(parent.stat().st_mode & 0o001 for parent in resolved.parents)


def _python_for_all() -> str | None:
    """An interpreter that an ordinary user can run, with this checkout readable; None without one."""
    if not _open_to_all(__file__):
        return None
    for python in (sys.executable, "/usr/bin/python3"):
        python = str(Path(python).resolve())  # the virtual environment may be where only root gets
        probe = [python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if _open_to_all(python) and subprocess.run(probe, timeout=60).returncode == 0:
            return python
    return None


PYTHON = _python_for_all()
SECONDS = 20.0


@dataclass(frozen=True)
class Report:
    """What came out of a jail."""

    output: str
    status: int | None
    level: str
    note: str
    error: str = ""


def jail(script: str, output: int, **more: object) -> Jail:
    """A jail in which busybox runs `script`; it writes to `output` and reads nothing."""
    script = f'for name in cat id ls sleep; do eval "$name() {{ busybox $name \\"\\$@\\"; }}"; done; {script}'
    settings = {"libraries": (), "descriptors": (output, output, output), **more}
    return Jail(program=BUSYBOX, arguments=("busybox", "sh", "-c", script), **settings)  # type: ignore[arg-type]


def await_end(inmate: Inmate, seconds: float = SECONDS) -> None:
    """Wait for the keeper's end.

    :raise AssertionError: it does not come.
    """
    poll = select.poll()
    poll.register(inmate.pidfd, select.POLLIN)
    assert poll.poll(seconds * 1000), "the jail did not end"


def run(script: str, wish: Wish = "auto", **more: object) -> Report:
    """Run a script to its end."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            inmate = start(jail(script, theirs.fileno(), **more), wish)
        try:
            isolation = inmate.isolation
            output = b"".join(iter(lambda: ours.recv(65536), b""))
            await_end(inmate)
            ended = inmate.reap()
        finally:
            inmate.close()
    assert ended is not None
    return Report(output.decode(), ended.status, isolation.level, isolation.note, ended.error)


def run_as_user(script: str, wish: Wish = "auto", *host: str, root: bool = False) -> Report:
    """Run a script in a jail that an ordinary user (or root) made, on a host with the peculiarities of `main`."""
    words = [PYTHON or sys.executable, "-s", "-m", "tests.sandbox.prison", script, wish, *host]
    identity = {} if root or os.geteuid() != 0 else {"user": USER, "group": USER, "extra_groups": []}
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "XDG_CACHE_HOME": "/nonexistent"}
    answer = subprocess.run(
        words,
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        **identity,  # type: ignore[call-overload]
    )
    assert answer.returncode == 0, answer.stderr
    return Report(**json.loads(answer.stdout))


def _runs(pid: int) -> bool:
    """Whether a process exists and is no zombie (tests adopt orphans, and wait for them at the end)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until_gone(pid: int) -> None:
    """Wait until no such process runs.

    :raise AssertionError: it stays.
    """
    deadline = time.monotonic() + SECONDS
    while _runs(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


def without(name: str) -> bytes:
    """A filter that makes a kernel one that does not know a call yet: ld nr; jeq; ret ENOSYS; ret ALLOW."""
    steps = ((0x20, 0, 0, 0), (0x15, 0, 1, number(name) or 0), (0x06, 0, 0, 0x0005_0026), (0x06, 0, 0, 0x7FFF_0000))
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def main() -> None:
    """Run the words of the command line."""
    if "deny" in sys.argv[3:]:
        linux.set_no_new_privileges()
        linux.install_filter(assemble())
    if "old" in sys.argv[3:]:
        linux.set_no_new_privileges()
        linux.install_filter(without("mount_setattr"))
    if "few" in sys.argv[3:]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        while os.open(os.devnull, os.O_RDONLY) < 42:
            pass
    wish: Wish = "require" if sys.argv[2] == "require" else "auto"
    report = run(sys.argv[1], wish, room=1 << (60 if "vast" in sys.argv[3:] else 20))
    print(json.dumps(report.__dict__))


if __name__ == "__main__":
    main()
