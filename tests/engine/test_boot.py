"""Both engines boot, say what they say, and end as they should."""

from __future__ import annotations

import os
import select
import signal
import socket
from pathlib import Path

import pytest

import pykrun.engine as engines
from pykrun.engine import lpj, panic_exit_code
from pykrun.errors import MissingError, UsageError
from pykrun.machine import Machine
from pykrun.record import replace
from tests.engine import guest
from tests.engine.guest import Watch


def test_guest_boots_and_ends(engine: str, tmp_path: Path) -> None:
    console, ended = guest.run(guest.choose(engine), tmp_path, "say I am $$; say $(uname -s)")
    assert "I am 1\nLinux\n" in console
    assert ended.status is not None
    assert os.waitstatus_to_exitcode(ended.status) == 0


def test_quiet_unless_verbose(engine: str, tmp_path: Path) -> None:
    quiet, _ = guest.run(guest.choose(engine), tmp_path, "true")
    verbose, _ = guest.run(guest.choose(engine), tmp_path, "true", verbose=True)
    assert "Linux version" not in quiet
    assert "Linux version" in verbose


def test_memory_cpus_and_words_arrive(engine: str, tmp_path: Path) -> None:
    console, _ = guest.run(
        guest.choose(engine),
        tmp_path,
        "say $(awk '/MemTotal/ {print \"total\", $2}' /proc/meminfo); say cpus $(nproc); say word $OWN",
        memory_mib=192,
        cpus=2,
        kernel_args=("OWN=a,b;c",),
    )
    words = console.split()
    assert 140 << 10 < int(words[words.index("total") + 1]) <= 192 << 10
    assert words[words.index("cpus") + 1] == ("2" if engine == "qemu" else "1")
    assert words[words.index("word") + 1] == "a,b;c"


def test_panic_ends_the_engine_and_tells_the_code(engine: str, tmp_path: Path) -> None:
    console, ended = guest.run(guest.choose(engine), tmp_path, "exit 42")
    assert panic_exit_code(console.encode()) == 42
    assert ended.status is not None
    if engine == "uml":
        assert os.waitstatus_to_exitcode(ended.status) == -signal.SIGABRT


def test_kernel_and_initramfs_may_be_where_only_root_gets(engine: str, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    description = guest.machine(guest.choose(engine), folder, "say reached")
    folder.chmod(0o700)
    running = guest.choose(engine).launch(description)
    try:
        watch = Watch(running)
        watch.seen(b"reached")
    finally:
        running.close()


@pytest.mark.qemu
def test_ports_are_streams(tmp_path: Path) -> None:
    script = """
cd /stage; for module in *.ko; do insmod $module; done; cd /
mount -t sysfs none /sys; mount -t devtmpfs none /dev
for port in /sys/class/virtio-ports/*; do say $(cat $port/name) ${port##*/}; done
for n in 1 2 3; do [ -e /dev/vport0p1 ] || sleep 1; done
head -c 5 < /dev/vport0p1 > /dev/vport0p2; sleep 1
"""
    engine = guest.choose("qemu")
    kernel = engine.kernel()
    assert kernel.modules is not None
    from pykrun.kernel.modules import ModuleTree

    modules = ModuleTree(kernel.modules).load_order(("virtio_pci", "virtio_console"))
    files = {f"stage/{index:02}.ko": data for index, (_, data) in enumerate(modules)}
    entries = {"stage/.keep": b"", **files}
    description = replace(machine_with_folder(engine, tmp_path, script, entries), ports=("in", "out"), console=True)
    running = engine.launch(description)
    try:
        assert set(running.ports) == {"in", "out"}
        assert running.terminal is not None
        watch = Watch(running)
        watch.seen(b"out vport")
        running.ports["in"].send(b"abcde")
        poll = select.poll()
        poll.register(running.ports["out"], select.POLLIN)
        assert poll.poll(60_000)
        assert running.ports["out"].recv(100) == b"abcde"
    finally:
        running.close()


def machine_with_folder(engine: engines.Engine, folder: Path, script: str, files: dict[str, bytes]) -> Machine:
    """As `guest.machine`, with the files in a folder that is made by the script's first lines."""
    flat = {name.replace("/", "_"): data for name, data in files.items()}
    moves = "mkdir /stage\n" + "\n".join(f"mv /{name} /stage/{name.split('_', 1)[1]}" for name in flat)
    return guest.machine(engine, folder, moves + script, flat)


@pytest.mark.uml
def test_uml_connects_to_its_devices(tmp_path: Path) -> None:
    engine = guest.choose("uml")
    description = replace(guest.machine(engine, tmp_path, ""), shares=("/dev/root", "more"), ports=("a",))
    running = engine.launch(description)
    try:
        assert running.console_device is not None
        assert [share.connected for share in running.shares] == [False, False]
        endpoint = running.shares[0]
        connection = None
        with select.epoll() as poll:
            poll.register(endpoint.fileno(), select.EPOLLIN | select.EPOLLET)
            wakes = 0
            while connection is None:
                assert poll.poll(30)
                connection = endpoint.accept()
                wakes += 1
        assert wakes < 5, "waiting for the engine must not spin"
        assert endpoint.connected
        connection.setblocking(True)
        connection.settimeout(30)
        header = connection.recv(12)
        assert int.from_bytes(header[:4], "little") in (1, 3)  # GET_FEATURES or SET_OWNER
    finally:
        running.close()


@pytest.mark.qemu
def test_qemu_is_connected_to_its_devices(tmp_path: Path) -> None:
    engine = guest.choose("qemu")
    description = replace(guest.machine(engine, tmp_path, ""), shares=("/dev/root",))
    running = engine.launch(description)
    try:
        assert running.shares[0].connected
        connection = running.shares[0].accept()
        assert connection is not None
        assert running.control is not None
        running.control.setblocking(True)
        running.control.settimeout(30)
        assert b'"QMP"' in running.control.recv(4096)
        connection.setblocking(True)
        connection.settimeout(30)
        assert int.from_bytes(connection.recv(12)[:4], "little") in (1, 3)
    finally:
        running.close()


def test_engine_that_dies_is_noticed_and_described(engine: str, tmp_path: Path) -> None:
    running = guest.choose(engine).launch(guest.machine(guest.choose(engine), tmp_path, "say up; sleep 1000"))
    try:
        Watch(running).seen(b"up")
        assert running.describe_end() == f"{engine} is running"
        running.kill()
        poll = select.poll()
        poll.register(running.pidfd, select.POLLIN)
        assert poll.poll(5000)
        assert running.reap() is not None
        assert running.describe_end() == f"{engine} was killed"
    finally:
        running.close()


def test_nothing_stays_open(engine: str, tmp_path: Path) -> None:
    chosen = guest.choose(engine)
    description = guest.machine(chosen, tmp_path, "true")
    chosen.launch(description).close()  # fills caches
    before = sorted(os.listdir("/proc/self/fd"))
    running = chosen.launch(replace(description, shares=("/dev/root",), ports=("a", "b"), console=True))
    running.close()
    running.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_wrong_words_start_nothing(engine: str, tmp_path: Path) -> None:
    chosen = guest.choose(engine)
    description = guest.machine(chosen, tmp_path, "true")
    before = sorted(os.listdir("/proc/self/fd"))
    for words in (("a b",), ("x" * 2048,), ("--",)):
        with pytest.raises(UsageError):
            chosen.launch(replace(description, kernel_args=words))
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.uml
def test_lpj_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    image = guest.choose("uml").kernel().image
    value = lpj.known(image)
    assert value is not None
    assert value > 1000
    kept = next((tmp_path / "pykrun/lpj").iterdir())
    kept.write_text("4711")
    assert lpj.known(image) == 4711


def test_choice_says_what_is_wrong() -> None:
    with pytest.raises(UsageError, match="--engine qemu"):
        engines.choose("uml", "kvm")
    with pytest.raises(UsageError, match="no engine"):
        engines.choose("xen")


@pytest.mark.uml
@pytest.mark.qemu
def test_auto_takes_the_engine_that_the_kernel_is_for(tmp_path: Path) -> None:
    uml, qemu = guest.choose("uml").kernel(), guest.choose("qemu").kernel()
    assert engines.choose(kernel=uml.image).name == "uml"
    assert engines.choose(kernel=qemu.image).name == "qemu"
    assert engines.choose(cpus=2).name == "qemu"
    with pytest.raises(MissingError):
        engines.choose(kernel=tmp_path / "none")


@pytest.mark.qemu
def test_kvm_is_believed_only_when_a_guest_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the truth is here: the verdict is a guest's, and it is remembered."""
    from pykrun.engine import probe

    engine = guest.choose("qemu")
    kernel = engine.kernel()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    verdict = probe.kvm(engine.program, kernel)
    assert verdict.works or verdict.reason
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        kept = next((tmp_path / "pykrun/kvm").iterdir())
        kept.write_text("it was remembered")
        assert probe.kvm(engine.program, kernel).reason == "it was remembered"


def test_sockets_are_not_inherited(engine: str, tmp_path: Path) -> None:
    """The engine's end of a pair is its alone: when the engine dies, ours is at its end."""
    chosen = guest.choose(engine)
    running = chosen.launch(replace(guest.machine(chosen, tmp_path, "sleep 1000"), ports=("a",)))
    try:
        _ = running.isolation
        sock = running.ports["a"] if running.ports else None
        running.kill()
        poll = select.poll()
        poll.register(running.pidfd, select.POLLIN)
        assert poll.poll(5000)
        if isinstance(sock, socket.socket):
            assert sock.recv(1) == b""
    finally:
        running.close()
