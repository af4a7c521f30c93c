"""`pykrun fs`: real guests of both engines at the door of a server that was started apart, one after the other."""

from __future__ import annotations

import errno
import grp
import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pykrun.kernel.find import for_qemu
from pykrun.vhost_user import messages as wire
from tests.cli.servers import Running, wait_until_gone
from tests.sandbox.prison import PYTHON
from tests.support.command import ROOT, Pykrun
from tests.virtio import guests

NULL = ("--null", "--text", "/hello=world")
BIG = os.urandom(1 << 16) * 48
LOOK = "mount -t virtiofs data /mnt && cat /mnt/hello && echo && md5sum /mnt/big && cat /mnt/key"


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="pkf") as name:
        yield Path(name)


def serve(pykrun: Pykrun, socket_path: Path, *words: str) -> Running:
    return Running(pykrun, ["fs", "--socket-path", str(socket_path), *words])


def boot(engine: str, socket_path: Path, script: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """A guest of an engine that was started apart from the server, with the device behind the socket."""
    if engine == "uml":
        return guests.uml_at({str(socket_path): 26}, script)
    kernel = for_qemu()
    if kernel is None or kernel.modules is None:
        pytest.skip("no kernel for QEMU (python -m pykrun.kernel)")
    return guests.qemu_at(str(socket_path), script, kernel.image, kernel.modules, "data")


def said_by(guest: subprocess.Popen[bytes]) -> str:
    assert guest.stdout is not None
    return guest.stdout.read().decode(errors="replace")


def test_guests_come_and_go(run_pykrun: Pykrun, engine: str, place: Path) -> None:
    """The second VM finds the share as the first one did; what could be had once is gone."""
    (place / "big").write_bytes(BIG)
    (place / "key").write_bytes(b"secret\n")
    words = (*NULL, "--file", f"/big={place}/big", "--secret", f"/key={place}/key", "--tag", "data", "--stats")
    with serve(run_pykrun, place / "s", *words) as running:
        running.wait_for(f"pykrun: listening on {place}/s\n")
        assert stat.S_IMODE((place / "s").stat().st_mode) == 0o600
        said = []
        for number in (1, 2):
            with boot(engine, place / "s", LOOK) as guest:
                said.append(said_by(guest))
                assert "VHOST_USER_PROTOCOL_F_CONFIG" not in said[-1]  # QEMU's complaint
            running.wait_for(" disconnected\n", times=number)
        assert running.end(signal.SIGTERM) == 0
    for text in said:
        assert "world" in text
        assert f"{hashlib.md5(BIG).hexdigest()}  /mnt/big" in text
    assert "secret" in said[0]
    assert "secret" not in said[1]
    assert "pykrun:   INIT                           2\n" in running.said
    assert not (place / "s").exists()


@pytest.mark.root
def test_a_shared_directory(run_pykrun: Pykrun, engine: str, place: Path) -> None:
    shared = place / "d"
    (shared / "sub").mkdir(parents=True)
    (shared / "big").write_bytes(BIG)
    script = """
mount -t virtiofs data /mnt; cd /mnt; md5sum big; cp big sub/copy; cmp big sub/copy && echo same; sync
mkdir sub/new; echo text > sub/new/file; mv sub/new/file moved; ln moved linked; chown 5:6 moved; ls sub; cat virtual
rm big; cd /; umount /mnt
"""
    words = ("--shared-dir", str(shared), "--text", "/virtual=v", "--tag", "data", "--log-level", "debug")
    with serve(run_pykrun, place / "s", *words) as running:
        running.wait_for("listening on")
        assert "isolation: own namespaces, the shared folder as root" in running.said
        with boot(engine, place / "s", script) as guest:
            said = said_by(guest)
        assert running.end(signal.SIGTERM) == 0
    assert f"{hashlib.md5(BIG).hexdigest()}  big" in said
    assert "same" in said
    assert (shared / "sub/copy").read_bytes() == BIG
    assert (shared / "moved").read_bytes() == b"text\n"
    found = (shared / "linked").stat()
    assert (found.st_uid, found.st_gid, found.st_nlink) == (5, 6, 2)
    assert sorted(os.listdir(shared)) == ["linked", "moved", "sub"]


@pytest.mark.root
@pytest.mark.uml
def test_read_only(run_pykrun: Pykrun, place: Path) -> None:
    (place / "d").mkdir()
    (place / "d/file").write_bytes(b"as it was")
    script = """
mount -t virtiofs data /mnt; cd /mnt; cat file; echo
for change in "touch new" "rm file" "chmod 0 file" "mkdir x" "mv file other" "ln -s a b"; do $change; done
echo x > file; echo end
"""
    with serve(run_pykrun, place / "s", "--shared-dir", str(place / "d"), "--readonly", "--tag", "data") as running:
        running.wait_for("listening on")
        with boot("uml", place / "s", script) as guest:
            said = said_by(guest)
    assert "as it was" in said
    assert said.count("Read-only file system") == 7
    assert os.listdir(place / "d") == ["file"]
    assert (place / "d/file").read_bytes() == b"as it was"


@pytest.mark.uml
def test_a_second_front_end_is_refused(run_pykrun: Pykrun, place: Path) -> None:
    with serve(run_pykrun, place / "s", *NULL, "--tag", "data") as running:
        running.wait_for("listening on")
        with boot("uml", place / "s", "mount -t virtiofs data /mnt; echo up; sleep 60") as guest:
            assert guest.stdout is not None
            while b"up" not in guest.stdout.readline():
                pass
            with connect(place / "s") as second:
                assert second.recv(1) == b""
            running.wait_for(f"refused process {os.getpid()}: one front end at a time")
            assert guest.poll() is None
        running.wait_for(" disconnected\n")
        with boot("uml", place / "s", "mount -t virtiofs data /mnt && cat /mnt/hello") as guest:
            assert "world" in said_by(guest)


@pytest.mark.uml
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_server_in_the_middle(run_pykrun: Pykrun, place: Path, number: int) -> None:
    """The guest sees its device fall silent; nothing of the server is left."""
    with serve(run_pykrun, place / "s", *NULL, "--tag", "data") as running:
        running.wait_for("listening on")
        loop = "mount -t virtiofs data /mnt; while :; do cat /mnt/hello; ls -l /mnt/nothing; done"
        with boot("uml", place / "s", loop) as guest:
            assert guest.stdout is not None
            while b"world" not in guest.stdout.readline():
                pass
            family = running.family()
            assert running.end(number) == (0 if number == signal.SIGTERM else -number)
            wait_until_gone(family)
    assert (place / "s").exists() == (number == signal.SIGKILL)  # a later server replaces it
    with serve(run_pykrun, place / "s", *NULL, "--tag", "data") as running:
        running.wait_for("listening on")


# Without a guest


def connect(path: Path) -> socket.socket:
    end = socket.socket(socket.AF_UNIX)
    end.settimeout(30)
    end.connect(str(path))
    return end


def send(end: socket.socket, code: int, payload: bytes = b"") -> None:
    end.sendall(wire.HEADER.pack(code, wire.VERSION, len(payload)) + payload)


def ask(end: socket.socket, code: int, payload: bytes = b"") -> bytes:
    send(end, code, payload)
    answered, _, size = wire.HEADER.unpack(end.recv(wire.HEADER.size, socket.MSG_WAITALL))
    assert answered == code
    return end.recv(size, socket.MSG_WAITALL)


def offered(end: socket.socket) -> int:
    value: int = wire.U64.unpack(ask(end, wire.GET_PROTOCOL_FEATURES))[0]
    return value


def test_front_ends_get_what_they_can_bear(run_pykrun: Pykrun, place: Path) -> None:
    """crosvm's first messages, cloud-hypervisor's and UML's say SET_OWNER first; QEMU asks first."""
    with serve(run_pykrun, place / "s", *NULL, "--tag", "data") as running:
        running.wait_for("listening on")
        with connect(place / "s") as crosvm:
            send(crosvm, wire.SET_OWNER)
            ask(crosvm, wire.GET_FEATURES)
            features = offered(crosvm)
            assert features == wire.ANY_FEATURES
            send(crosvm, wire.SET_PROTOCOL_FEATURES, wire.U64.pack(features))
            assert wire.U64.unpack(ask(crosvm, wire.GET_QUEUE_NUM)) == (2,)
            config = ask(crosvm, wire.GET_CONFIG, wire.CONFIG.pack(0, 40, 0) + bytes(40))
            assert config[wire.CONFIG.size :] == b"data".ljust(36, b"\0") + b"\1\0\0\0"
        running.wait_for(" disconnected\n")
        with connect(place / "s") as qemu:
            ask(qemu, wire.GET_FEATURES)
            assert offered(qemu) == wire.QEMU_FEATURES
            send(qemu, wire.SET_OWNER)
            assert offered(qemu) == wire.QEMU_FEATURES
            send(qemu, wire.SET_PROTOCOL_FEATURES, wire.U64.pack(wire.QEMU_FEATURES))
            assert wire.U64.unpack(ask(qemu, wire.GET_QUEUE_NUM)) == (2,)


def test_one_that_breaks_the_protocol_is_disconnected(run_pykrun: Pykrun, place: Path) -> None:
    with serve(run_pykrun, place / "s", *NULL) as running:
        running.wait_for("listening on")
        for number in (1, 2, 3):
            with connect(place / "s") as end:
                end.sendall(b"\xff" * 12)
                assert end.recv(1) == b""
            running.wait_for("it was disconnected", times=number)
        with connect(place / "s") as end:
            ask(end, wire.GET_FEATURES)
        assert running.end(signal.SIGTERM) == 0


def test_one_right_behind_another_is_not_refused(run_pykrun: Pykrun, place: Path) -> None:
    with serve(run_pykrun, place / "s", *NULL) as running:
        running.wait_for("listening on")
        for _ in range(50):
            with connect(place / "s") as end:
                ask(end, wire.GET_FEATURES)
        assert running.end(signal.SIGTERM) == 0
        assert "refused" not in running.said
        assert running.said.count(" connected\n") == 50


def test_once(run_pykrun: Pykrun, place: Path) -> None:
    with serve(run_pykrun, place / "s", *NULL, "--once") as running:
        running.wait_for("listening on")
        with connect(place / "s") as end:
            ask(end, wire.GET_FEATURES)
        assert running.end() == 0
    with serve(run_pykrun, place / "s", *NULL, "--once") as running:
        running.wait_for("listening on")
        with connect(place / "s") as end:
            end.sendall(b"\xff" * 12)
            assert end.recv(1) == b""
        assert running.end() == 1
    assert not (place / "s").exists()


@pytest.mark.parametrize("connected", [False, True])
def test_a_socket_that_is_open_already(run_pykrun: Pykrun, place: Path, connected: bool) -> None:
    given: socket.socket
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "s"))
        listener.listen()
        if connected:
            ours, given = socket.socketpair()
        else:
            ours, given = socket.socket(socket.AF_UNIX), listener.dup()
        words = ["fs", "--fd", str(given.fileno()), *NULL]
        with ours, Running(run_pykrun, words, pass_fds=[given.fileno()]) as running:
            given.close()
            ours.settimeout(30)
            if not connected:
                running.wait_for("listening on descriptor")
                ours.connect(str(place / "s"))
            ask(ours, wire.GET_FEATURES)
            ours.close()
            running.wait_for(" disconnected\n")
            if not connected:
                running.process.send_signal(signal.SIGTERM)
            assert running.end() == 0
    assert (place / "s").exists()  # whoever made it removes it


@pytest.mark.root
def test_a_front_end_that_takes_its_memory_away_ends_the_server(run_pykrun: Pykrun, place: Path) -> None:
    """Nothing can be done against SIGBUS, and going on as if nothing had been would show secrets twice."""
    from tests.vhost_user.frontend import USER, regions, state, u64
    from tests.virtio.driver import Driver

    driver = Driver(16)
    with serve(run_pykrun, place / "s", *NULL) as running:
        running.wait_for("listening on")
        with connect(place / "s") as end:
            send(end, wire.SET_OWNER)
            send(end, wire.SET_FEATURES, u64(1 << 32))
            table = regions((driver.start, driver.memory_size, USER, 0))
            head = wire.HEADER.pack(wire.SET_MEM_TABLE, wire.VERSION, len(table))
            socket.send_fds(end, [head + table], [driver.fd])
            send(end, wire.SET_VRING_NUM, state(0, 16))
            send(end, wire.SET_VRING_BASE, state(0, 0))
            places = (USER + place for place in (driver.table, driver.used, driver.avail))
            ask(end, wire.GET_FEATURES)
            os.ftruncate(driver.fd, 0)
            send(end, wire.SET_VRING_ADDR, wire.RING_ADDRESS.pack(0, 0, *places, 0))
            kick = os.eventfd(1)
            payload = u64(0)
            head = wire.HEADER.pack(wire.SET_VRING_KICK, wire.VERSION, len(payload))
            socket.send_fds(end, [head + payload], [kick])
            os.close(kick)
            assert running.end() == 1
        assert "SIGBUS" in running.said
    driver.close()
    assert not (place / "s").exists()


def test_counts_on_demand(run_pykrun: Pykrun, place: Path) -> None:
    with serve(run_pykrun, place / "s", *NULL) as running:
        running.wait_for("listening on")
        running.process.send_signal(signal.SIGUSR1)
        running.wait_for("pykrun: requests: 0\n")
        assert running.end(signal.SIGINT) == 0


def test_capabilities(run_pykrun: Pykrun) -> None:
    done = run_pykrun(["fs", "--print-capabilities"])
    assert done.returncode == 0
    assert json.loads(done.stdout)["type"] == "fs"


@pytest.mark.root
def test_a_group_may_connect(run_pykrun: Pykrun, place: Path) -> None:
    place.chmod(0o755)
    group = grp.getgrgid(65534)
    with serve(run_pykrun, place / "s", *NULL, "--socket-group", group.gr_name) as running:
        running.wait_for("listening on")
        found = (place / "s").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, 65534)


def test_a_dead_server_is_replaced_and_a_live_one_is_not(run_pykrun: Pykrun, place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place / "s"))
        with serve(run_pykrun, place / "s", *NULL) as running:  # bound, and not listening: somebody has it open
            assert running.end() == 2
            assert "is in use by another server" in running.said
    with serve(run_pykrun, place / "s", *NULL) as running:
        running.wait_for("listening on")
        done = run_pykrun(["fs", "--socket-path", str(place / "s"), *NULL])
        assert done.returncode == 2
        assert b"is in use by another server" in done.stderr
        running.process.send_signal(signal.SIGUSR1)
        running.wait_for("requests: 0")
        assert " connected" not in running.said  # it was not even asked
    assert not (place / "s").exists()


def test_what_is_ours_no_more_stays(run_pykrun: Pykrun, place: Path) -> None:
    with serve(run_pykrun, place / "s", *NULL) as running:
        running.wait_for("listening on")
        (place / "s").unlink()
        (place / "s").write_bytes(b"another's")
        assert running.end(signal.SIGTERM) == 0
    assert (place / "s").read_bytes() == b"another's"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--null",), "either --socket-path or --fd"),
        (("--null", "--socket-path", "s", "--fd", "3"), "either --socket-path or --fd"),
        (("--null", "--fd", "1"), "--fd wants the number of an open descriptor"),
        (("--null", "--fd", "999"), "--fd 999 is no socket"),
        (("--null", "--fd", "3", "--socket-group", "root"), "--socket-group is for --socket-path"),
        (("--null", "--socket-path", "/nonexistent/s"), "there is no directory '/nonexistent'"),
        (("--null", "--socket-path", "/tmp/" + "x" * 120), "has 125 bytes, and a Unix socket's path at most 107"),
        (("--null", "--socket-path", "/etc/passwd"), "exists and is no socket"),
        (("--null", "--socket-path", "/proc/s"), "cannot make the socket '/proc/s'"),
        (("--null", "--socket-path", "s", "--socket-group", "no such"), "there is no group 'no such'"),
        (("--null", "--socket-path", "s", "--tag", "x" * 37), "--tag wants 1 to 36 bytes"),
        (("--socket-path", "s"), "either --shared-dir or --null"),
        (("--socket-path", "s", "--shared-dir", "/etc/passwd"), "--shared-dir '/etc/passwd': Not a directory"),
        (("--socket-path", "s", "--null", "--sandbox", "some"), "invalid choice"),
        (("--socket-path", "s", "--null", "--frob"), "there is no option --frob"),
    ],
)
def test_options_that_cannot_be(run_pykrun: Pykrun, place: Path, words: tuple[str, ...], complaint: str) -> None:
    done = run_pykrun(["fs", *words], cwd=place)
    assert done.returncode == 2
    assert complaint in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert os.listdir(place) == []


@pytest.mark.root
def test_sandboxes(run_pykrun: Pykrun, place: Path) -> None:
    (place / "d").mkdir()
    for sandbox, level in (("require", "own namespaces"), ("namespace", "own namespaces"), ("none", "")):
        for what in (("--null",), ("--shared-dir", str(place / "d"))):
            with serve(run_pykrun, place / "s", *what, "--sandbox", sandbox, "--log-level", "debug") as running:
                running.wait_for("listening on")
                assert (f"isolation: {level}" in running.said) == bool(level)
                server = running.server()
                inside = os.readlink(f"/proc/{server}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
                assert inside == bool(level)
                assert (os.listdir(f"/proc/{server}/root") == []) == bool(level)
                assert running.end(signal.SIGTERM) == 0


@pytest.mark.root
@pytest.mark.uml
@pytest.mark.skipif(PYTHON is None, reason="an ordinary user can run no Python here")
def test_nobody_serves_nobodys_directory(place: Path) -> None:
    place.chmod(0o777)
    (place / "d").mkdir()
    os.chown(place / "d", 65534, 65534)
    launch = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); from pykrun.cli import main; sys.exit(main())"
    command = [PYTHON or "", "-I", "-S", "-c", launch, "fs", "--socket-path", f"{place}/s", "--tag", "data"]
    command += ["--shared-dir", f"{place}/d", "--log-level", "debug"]
    with subprocess.Popen(
        command, user=65534, group=65534, extra_groups=[], env={"PATH": "/bin"}, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            while "listening on" not in (row := server.stderr.readline()):
                assert row
            script = "mount -t virtiofs data /mnt; cd /mnt; echo x > f; chown 1 f; mkdir d; mv f d; ls -ln . d"
            with boot("uml", place / "s", script) as guest:
                said = said_by(guest)
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        assert os.strerror(errno.EPERM) in said
        assert (place / "d/d/f").stat().st_uid == 65534


def test_only_what_is_told_is_there(run_pykrun: Pykrun, place: Path) -> None:
    """A share is no root of a VM: it has no /dev, /proc, /sys of its own accord."""
    if not os.path.exists("/dev/fuse") or os.geteuid() != 0 or shutil.which("umount") is None:
        pytest.skip("mounts as root only")
    (place / "m").mkdir()
    with Running(run_pykrun, ["mount", str(place / "m"), "--null"]) as running:
        running.wait_for("mounted on")
        assert os.listdir(place / "m") == []
        assert running.end(signal.SIGTERM) == 0
