"""Network cards that are plugged into something of the caller's: passt's sockets, datagram sockets, tap devices."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boot import planned
from tests.boot.test_net import Serving, counters, source
from tests.boot.vm import Result, Vm, finish, read_line
from tests.net.internet import SERVER4, Internet
from tests.support.command import Pykrun, wait_until

MAGIC = b"VFKT"
SIZE = 4_000_000


class Switch:
    """The other side of a datagram link: a host 10.9.0.1 that answers ARP and ping, and nothing else.

    :param path: where it waits for who says vfkit's word first; None: `theirs` is connected.
    """

    ADDRESS, MAC = socket.inet_aton("10.9.0.1"), bytes.fromhex("02aabbccddee")

    def __init__(self, path: Path | None = None) -> None:
        self.greeted = False
        self.answered = 0
        self.theirs: socket.socket | None = None
        if path is None:
            self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        else:
            self._ours = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._ours.bind(str(path))
        self._ours.settimeout(0.1)
        self._path = path
        self._closed = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._closed = True
        self._thread.join(30)
        self._ours.close()
        if self.theirs is not None:
            self.theirs.close()

    def _serve(self) -> None:
        while not self._closed:
            try:
                frame, sender = self._ours.recvfrom(65536)
            except TimeoutError:
                continue
            except OSError:
                return
            if self._path is not None and not self.greeted:
                self.greeted = frame == MAGIC
                continue
            answer = self._answer(frame)
            if answer:
                self.answered += 1
                with contextlib.suppress(OSError):
                    self._ours.sendto(answer, sender) if self._path else self._ours.send(answer)

    def _answer(self, frame: bytes) -> bytes:
        kind, source = frame[12:14], frame[6:12]
        if kind == b"\x08\x06" and frame[20:22] == b"\x00\x01" and frame[38:42] == self.ADDRESS:
            reply = frame[14:20] + b"\x00\x02" + self.MAC + self.ADDRESS + frame[22:32]
            return source + self.MAC + kind + reply
        if kind == b"\x08\x00" and frame[23] == 1 and frame[34] == 8 and frame[30:34] == self.ADDRESS:
            (old,) = struct.unpack_from(">H", frame, 36)
            total = old + 0x0800
            check = struct.pack(">H", (total & 0xFFFF) + (total >> 16))
            return source + self.MAC + frame[12:26] + frame[30:34] + frame[26:30] + b"\0\0" + check + frame[38:]
        return b""


@pytest.fixture
def switch() -> Iterator[Switch]:
    switch = Switch()
    yield switch
    switch.close()


@pytest.fixture
def internet(tmp_path: Path) -> Iterator[Internet]:
    if shutil.which("passt") is None:
        pytest.skip("no passt on PATH (apt-get install passt)")
    internet = Internet(tmp_path, ipv6=False)
    yield internet
    internet.close()


@pytest.fixture
def serving() -> Iterator[Serving]:
    serving = Serving()
    yield serving
    serving.close()


PASST: tuple[str, ...] = (
    "passt",
    "--foreground",
    "--quiet",
    "--ipv4-only",
    "--no-map-gw",
    "--address",
    "10.0.2.15",
    "--netmask",
    "24",
)
PASST = (*PASST, "--gateway", "10.0.2.2", "--dns", "none")


def sh(vm: Vm, fields: str, script: str, busybox: Path, pass_fds: tuple[int, ...] = ()) -> Result:
    """Run a shell script in the guest, `b` its busybox."""
    words = ["--file", f"/bin/busybox={busybox}:0755", "--", "/bin/busybox", "sh", "-c"]
    words.append(f"set -e; b=/bin/busybox; {script}")
    return planned.run(vm, fields, *words, pass_fds=pass_fds, limit=120)


@pytest.mark.root
def test_one_of_each(vm: Vm, busybox: Path, internet: Internet, switch: Switch, serving: Serving) -> None:
    """eth0 is a stream to passt by path, eth1 datagrams, eth2 a tap device; each brings its own address and bytes."""
    path = vm.folder / "passt"
    passt = internet.start(internet.host, *PASST, "--socket", str(path))
    internet.run(internet.host, "ip tuntap add tap0 mode tap")
    internet.run(internet.host, "ip address add 10.8.0.1/24 dev tap0")
    internet.run(internet.host, "ip link set tap0 up")
    vm.surroundings = lambda: internet.enter_host(vm.folder)
    verdicts: list[str] = []
    for namespace, address, port in ((internet.server, SERVER4, 7000), (internet.host, "10.8.0.1", 7002)):
        listener = internet.listener(namespace, address, port)
        serving.add(listener, counters(listener, SIZE, verdicts))
        serving.add(internet.listener(namespace, address, port + 1), source(SIZE))
    assert switch.theirs is not None
    fields = f"""
        links=(
            Link(kind="stream", path={str(path)!r}, mac=bytes.fromhex("020000000001")),
            Link(kind="datagram", fd={switch.theirs.fileno()}, mac=bytes.fromhex("020000000002")),
            Link(kind="tap", path="tap0", mac=bytes.fromhex("020000000003")),
        ),
        dhcp=True,
    """
    script = f"""
        $b cat /sys/class/net/eth0/address /sys/class/net/eth1/address /sys/class/net/eth2/address
        $b ip address add 10.9.0.2/24 dev eth1; $b ip link set eth1 up
        $b ip address add 10.8.0.2/24 dev eth2; $b ip link set eth2 up
        $b ping -c 2 -w 20 10.9.0.1 >/dev/null; echo pinged
        $b ping -c 2 -w 20 10.8.0.1 >/dev/null; echo pinged
        /tool online tcp-pour {SERVER4} 7000 {SIZE} + tcp-drain {SERVER4} 7001 \\
            + tcp-pour 10.8.0.1 7002 {SIZE} + tcp-drain 10.8.0.1 7003
        $b ip -4 address show dev eth0 | $b grep -o 'inet [0-9./]*'
    """
    try:
        wait_until(path.exists, 20)
        result = sh(vm, fields, script, busybox, (switch.theirs.fileno(),))
    finally:
        passt.kill()
        passt.communicate()
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    assert (result.code, result.err) == (0, b"")
    assert result.out.decode().splitlines() == [
        *("02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"),
        *("pinged", "pinged"),
        *("all of it", f"{SIZE} end") * 2,
        "inet 10.0.2.15/24",
    ]
    assert verdicts == [f"{SIZE} of {SIZE}"] * 2
    assert switch.answered >= 3


@pytest.mark.root
def test_passt_on_a_descriptor(vm_once: Vm, busybox: Path, internet: Internet) -> None:
    """As `krun_set_passt_fd` has it: both ends are somebody else's; its end is a warning while the machine runs."""
    ours, theirs = socket.socketpair()
    with ours, theirs, internet.listener(internet.server, SERVER4, 7000) as listener:
        number = theirs.fileno()
        os.set_inheritable(number, True)
        command = ["nsenter", f"--target={internet.host}", "--net", *PASST, "--fd", str(number)]
        passt = subprocess.Popen(command, pass_fds=(number,), stderr=subprocess.PIPE)
        theirs.close()
        vm_once.surroundings = lambda: internet.enter_host(vm_once.folder)
        script = f"""
            i=0; until $b ip route | $b grep -q default || [ $i = 50 ]; do i=$((i+1)); $b sleep 0.2; done
            echo hello | $b nc -w 20 {SERVER4} 7000
            echo said; read end; echo bye"""
        words = ["--file", f"/bin/busybox={busybox}:0755", "--", "/bin/busybox", "sh", "-c"]
        words.append(f"b=/bin/busybox; {script}")
        fields = f"links=(Link(kind='stream', fd={ours.fileno()}),), dhcp=True"
        process = planned.start(vm_once, fields, *words, pass_fds=(ours.fileno(),), stdin=subprocess.PIPE)
        listener.settimeout(60)
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(100) == b"hello\n"
        assert read_line(process) == b"said\n"
        passt.kill()
        passt.communicate()
        ours.close()
        result = finish(process, b"\n")
        assert (result.code, result.out) == (0, b"bye\n")
        assert b"eth0's stream link" in result.err


def test_vfkit(vm_once: Vm, busybox: Path) -> None:
    """The server learns our address from the first datagram; no file of ours is left."""
    path = vm_once.folder / "vfkit"
    switch = Switch(path)
    try:
        fields = f"links=(Link(kind='datagram', path={str(path)!r}, vfkit=True),)"
        script = (
            "$b ip address add 10.9.0.2/24 dev eth0; $b ip link set eth0 up; $b ping -c 1 -w 20 10.9.0.1 >/dev/null"
        )
        result = sh(vm_once, fields, script, busybox)
        assert (result.code, result.err) == (0, b"")
        assert switch.greeted
        assert [entry.name for entry in vm_once.folder.iterdir()] == ["vfkit"]
    finally:
        switch.close()
        path.unlink()


@pytest.mark.uml
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("Link(kind='pigeon', fd=1),", b"no network link"),
        ("Link(kind='stream'),", b"one of them"),
        ("Link(kind='stream', fd=1, path='a'),", b"one of them"),
        ("Link(kind='stream', fd=99),", b"no socket"),
        ("Link(kind='stream', path='/missing'),", b"cannot connect"),
        ("Link(kind='datagram', path='/missing'),", b"cannot connect"),
        ("Link(kind='stream', path='a', mac=b'12345'),", b"no address"),
        ("Link(kind='stream', path='a', mac=bytes.fromhex('010000000000')),", b"no address"),
        ("Link(kind='stream', path='a', vfkit=True),", b"magic"),
        ("Link(kind='tap', path='x' * 16),", b"no name"),
        ("Link(kind='stream', path='a', mtu=67),", b"MTU"),
        ("Link(kind='stream', path='a'),) * 9 + (", b"at most 8"),
    ],
)
def test_what_cannot_be(tool: Path, run_pykrun: Pykrun, fields: str, words: bytes) -> None:
    result = planned.run(Vm("uml", tool, run_pykrun), f"links=({fields})", "--", "/tool", "exit", "0")
    assert result.code == 125
    assert words in result.err
