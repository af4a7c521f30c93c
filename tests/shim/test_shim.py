"""VMs in supervisors of their own, driven from here."""

from __future__ import annotations

import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pykrun.errors import UsageError
from pykrun.request import Descriptor, Entry, Request, Tree, Volume
from pykrun.root import INIT_PATH
from pykrun.shim import Ended, Failed, Shim
from pykrun.start_data import StartData
from pykrun.supervisor.control import CLOSE, HELLO, STARTED, make_frame
from pykrun.supervisor.vm import CONTROL
from tests.shim.conftest import LIMIT, last, until
from tests.support.command import wait_until

Shell = Callable[..., Request]


def run(request: Request) -> Ended:
    shim = Shim()
    try:
        shim.launch(request)
        event = last(shim)
        assert isinstance(event, Ended), event
    finally:
        status = shim.close()
    assert status == event.outcome.exit_code
    return event


def test_a_workload_and_all_its_streams(shell: Shell) -> None:
    reads, writes = os.pipe()
    inputs, feeds = os.pipe()
    secret = Entry(path=b"/key", content=bytearray(b"secret\n"), one_shot=True)
    text = Entry(path=b"/long", content=memoryview(b"x" * 5000 + b"\n"))
    request = shell(
        "cat; cat /key; cat /long >&2; cat /key; exit 3",
        secret,
        text,
        stdin=Descriptor(inputs),
        stdout=Descriptor(writes),
        stderr=Descriptor(writes),
    )
    os.write(feeds, b"hello\n")
    os.close(feeds)
    outcome = run(request).outcome
    os.close(inputs)
    os.close(writes)
    with open(reads, "rb") as stream:
        assert (
            stream.read() == b"hello\nsecret\n" + b"x" * 5000 + b"\ncat: can't open '/key': No such file or directory\n"
        )
    assert (outcome.exit_code, outcome.signal, outcome.reason) == (3, 0, "")
    assert list(outcome.phases)[-1] == "ended"


def test_a_signal_reaches_the_workload(shell: Shell) -> None:
    reads, writes = os.pipe()
    both = {"stdout": Descriptor(writes), "stderr": Descriptor(writes)}  # the shell may tell what became of its child
    with Shim() as shim:
        shim.launch(shell("trap 'exit 9' USR1; echo ready; while :; do sleep 0.1; done", **both))
        until(shim, "output")
        shim.send_signal(signal.SIGUSR1)
        event = last(shim)
    os.close(reads)
    os.close(writes)
    assert isinstance(event, Ended)
    assert event.outcome.exit_code == 9


def test_a_signal_before_the_workload_waits_for_it(shell: Shell) -> None:
    with Shim() as shim:
        shim.launch(shell("sleep 60"))
        shim.send_signal(signal.SIGKILL)
        event = last(shim)
    assert isinstance(event, Ended)
    assert (event.outcome.exit_code, event.outcome.signal) == (137, 9)


def test_stop_is_an_orderly_end(shell: Shell) -> None:
    with Shim() as shim:
        shim.launch(shell("trap '' TERM; while :; do sleep 0.1; done"))
        until(shim, "started")
        shim.stop(grace=0.2)
        event = last(shim)
    assert isinstance(event, Ended)
    assert event.outcome.exit_code in (137, 143)  # TERM came before the trap, or KILL after the grace
    assert "done" in event.outcome.phases  # the guest ended by itself, synced


def test_numbers_that_are_none_do_no_harm(shell: Shell) -> None:
    with Shim() as shim:
        shim.launch(shell("exec sleep 60"))
        for number in (-1, 0, 65, 1 << 40):  # before it runs, and while it does
            shim.send_signal(number)
        until(shim, "started")
        for number in (-1, 0, 65, 1 << 40):
            shim.send_signal(number)
        shim.stop(grace=float("inf"))
        event = last(shim)
    assert isinstance(event, Ended)
    assert event.outcome.exit_code == 143
    assert "done" in event.outcome.phases


@pytest.mark.parametrize("what", ["closes the input", "starts twice"])
def test_a_hostile_guest_does_not_keep_the_terminal(shell: Shell, what: str) -> None:
    hello, started = make_frame(HELLO, struct.pack("<HHI", 1, 0, 0)), make_frame(STARTED, struct.pack("<i", 7))
    bad = started if what == "starts twice" else make_frame(CLOSE, b"\0")
    script = f"""#!/bin/sh
mount -t devtmpfs none /dev
mount -t sysfs none /sys
for port in /sys/class/virtio-ports/*; do
    read name < $port/name
    [ "$name" != {CONTROL} ] || exec 3<> /dev/${{port##*/}}
done
printf '{escaped(hello + started)}' >&3
sleep 1
printf '{escaped(bad)}' >&3
sleep 0.5
"""
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    entries = (
        Entry(path=INIT_PATH, content=script.encode(), mode=0o755),
        Entry(path=b"/dev/keep", content=b""),
        Entry(path=b"/sys/keep", content=b""),
    )
    more = {"stdin": Descriptor(slave), "stdout": Descriptor(slave), "init": False}
    with Shim() as shim:
        shim.launch(shell("", *entries, start=StartData(program="/none", terminal=True), **more))
        until(shim, "started")
        wait_until(lambda: termios.tcgetattr(slave) != before)
        event = last(shim)
    assert isinstance(event, Ended)
    assert event.outcome.exit_code == 125
    assert ("STARTED twice" in event.outcome.reason) is (what == "starts twice")
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def escaped(data: bytes) -> str:
    """As printf takes it in a shell."""
    return "".join(f"\\{byte:03o}" for byte in data)


def test_end_is_at_once(shell: Shell) -> None:
    shim = Shim()
    shim.launch(shell("sleep 60"))
    until(shim, "launched")
    shim.end()
    event = last(shim)
    assert shim.close() == 137
    assert isinstance(event, Ended)


def test_closing_ends_the_vm(shell: Shell) -> None:
    shim = Shim()
    shim.launch(shell("sleep 60"))
    until(shim, "started")
    shim.close()
    shim.close()
    assert not Path(f"/proc/{shim.pid}").exists()


def test_a_supervisor_that_is_killed_is_an_error_and_not_a_hang(shell: Shell) -> None:
    shim = Shim()
    shim.launch(shell("sleep 60"))
    until(shim, "started")
    os.kill(shim.pid, signal.SIGKILL)
    event = last(shim)
    assert shim.close() == -signal.SIGKILL
    assert isinstance(event, Failed)
    assert event.kind == "EngineError"


def test_a_shim_that_never_gets_a_request_ends_quietly() -> None:
    shim = Shim()
    assert shim.close() == 125


NO_PIDFD = """
import errno, os, struct
from pykrun.host import linux
from pykrun.shim import Shim

linux.set_no_new_privileges()
words = (0x20, 0, 0, 0), (0x15, 0, 1, 434), (0x06, 0, 0, 0x50000 | errno.EPERM), (0x06, 0, 0, 0x7FFF0000)
linux.install_filter(b"".join(struct.pack("HBBI", *word) for word in words))  # pidfd_open fails
try:
    Shim()
except PermissionError:
    pass
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    os._exit(0)
"""


def test_a_host_without_pidfds_has_no_child_left() -> None:
    source = Path(__file__).parent.parent.parent / "src"
    environment = {**os.environ, "PYTHONPATH": str(source)}
    assert subprocess.run([sys.executable, "-c", NO_PIDFD], env=environment, timeout=LIMIT).returncode == 0


def test_a_shim_keeps_nothing_of_the_callers_open() -> None:
    """Not even what every child inherits, as the descriptors of a C program's pipe(2)."""
    reads, writes = os.pipe()
    os.set_inheritable(writes, True)
    with Shim() as shim, open(reads, "rb") as stream:
        os.close(writes)
        assert select.select([stream], [], [], LIMIT)[0], "no end of it: somebody holds the other end"
        assert stream.read() == b""
        assert shim.receive(0) is None  # it lives


def test_a_request_that_cannot_be_is_the_callers_error() -> None:
    shim = Shim()
    twice = Entry(path=b"/x", content=b"")
    shim.launch(Request(start=StartData(), root=Tree(entries=(twice, twice))))
    event = last(shim)
    assert shim.close() == 125
    assert isinstance(event, Failed)
    error = event.error()
    assert isinstance(error, UsageError)
    assert error.message == "/x is given twice"


def test_a_file_system_without_a_place_is_there_for_who_knows_its_tag(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "marker").write_text("found\n")
    reads, writes = os.pipe()
    volumes = (
        Volume(tree=Tree(directory=str(tmp_path)), tag="mine"),
        Volume(tree=Tree(entries=(Entry(path=b"/virtual", content=b"made\n"),)), tag="null"),
    )
    script = "mount -t virtiofs mine /mnt && cat /mnt/marker; mount -t virtiofs null /mnt && cat /mnt/virtual"
    request = shell(script, volumes=volumes, stdout=Descriptor(writes), stderr=Descriptor(writes))
    root = Tree(entries=request.root.entries, directories=((b"/mnt", 0o755),))
    run(Request(**{name: getattr(request, name) for name in request._fields} | {"root": root}))  # type: ignore[attr-defined]
    os.close(writes)
    with open(reads, "rb") as stream:
        assert stream.read() == b"found\nmade\n"


CALLER = """
import os, sys
from pykrun.request import Descriptor, Entry, Request, Tree
from pykrun.shim import Shim
from pykrun.start_data import StartData

shim = Shim()
entries = (Entry(path=b"/bin/sh", source=Descriptor(os.open(sys.argv[1], os.O_PATH)), mode=0o755),)
request = Request(
    start=StartData(program="/bin/sh", arguments=["-c", sys.argv[2]]),
    root=Tree(entries=entries),
    engine=sys.argv[3],
    accel="tcg" if sys.argv[3] == "qemu" else "auto",
    stdout=Descriptor(1),
    stderr=Descriptor(2),
)
if sys.argv[4] == "chroot":
    os.chroot("/var/empty" if os.path.isdir("/var/empty") else "/mnt")
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
shim.launch(request)
print(shim.pid, flush=True)
while (event := shim.receive()) is not None:
    print(type(event).__name__, getattr(event, "phase", ""), flush=True)
    if getattr(event, "phase", "") == "started" and sys.argv[4] == "die":
        os.kill(os.getpid(), 9)
os._exit(shim.close())
"""


def caller(busybox: Path, engine: str, script: str, what: str) -> subprocess.Popen[bytes]:
    source = Path(__file__).parent.parent.parent / "src"
    return subprocess.Popen(
        [sys.executable, "-c", CALLER, str(busybox), script, engine, what],
        env={**os.environ, "PYTHONPATH": str(source)},
        stdout=subprocess.PIPE,
    )


@pytest.mark.root
def test_a_caller_that_has_changed_its_root_and_its_ids(busybox: Path, engine: str) -> None:
    process = caller(busybox, engine, "echo hello; exit 4", "chroot")
    out, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 4
    assert b"hello\n" in out


def test_the_vm_ends_with_a_caller_that_is_killed(busybox: Path, engine: str) -> None:
    """The check that no process is left is every test's."""
    process = caller(busybox, engine, "while :; do :; done", "die")
    assert process.stdout is not None
    with process.stdout as stream:
        pid = int(stream.readline())
        stream.read()  # to its end: the VM held it too
    assert process.wait(LIMIT) == -signal.SIGKILL
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the supervisor outlived its caller")


@pytest.mark.uml
def test_many_at_once_from_threads(busybox: Path) -> None:
    codes: dict[int, int] = {}

    def one(number: int) -> None:
        entries = (Entry(path=b"/bin/sh", source=str(busybox), mode=0o755),)
        start = StartData(program="/bin/sh", arguments=["-c", f"exit {number}"])
        codes[number] = run(Request(start=start, root=Tree(entries=entries), engine="uml")).outcome.exit_code

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert codes == {number: number for number in range(8)}
